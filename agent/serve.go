package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"tarn/agent/stream"
	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// buildControl makes the client of the control plane. One attempt takes no
// longer than a lease can spare, so that a node that hangs is left in time.
func (a *Agent) buildControl() error {
	if a.cfg.ControlPlane != nil {
		a.control = a.cfg.ControlPlane
		return nil
	}
	conf := a.material.ClientConfig(identity.RoleControl)
	conf.NextProtos = []string{"h2"}
	dialer := identity.NewDialer(conf, a.revoked.Check)
	c, err := client.New(client.Config{
		Addresses: a.cfg.Join, TLS: conf, DialTLS: dialer.DialTLS, Attempt: a.cfg.Lease.Renew, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.control, a.hangUp, a.dropControl = c.Agent, c.Close, dialer.Drop
	return nil
}

// renew keeps this host's certificate valid, by asking the control plane.
func (a *Agent) renew(ctx context.Context) error {
	if len(a.cfg.Join) == 0 {
		return nil // Calls go to a control plane within this process.
	}
	renewer, err := identity.NewRenewer(identity.RenewerConfig{
		Dir: a.cfg.PKIDir, Material: a.material, Logger: a.log,
		Sign: func(ctx context.Context, csr []byte) ([]byte, error) {
			return client.Renew(ctx, client.Config{Addresses: a.cfg.Join, TLS: a.controlTLS(), Logger: a.log}, csr)
		},
	})
	if err != nil {
		return err
	}
	return renewer.Run(ctx)
}

func (a *Agent) buildStream() (err error) {
	a.client, err = stream.NewClient(stream.ClientConfig{
		TLS: dialer(a.material), Refuse: a.revoked.Check, StallTimeout: a.cfg.Stream.StallTimeout, PlainNetworks: a.cfg.Stream.networks(),
	})
	if err != nil {
		return err
	}
	if err := a.buildDoor(); err != nil {
		return err
	}
	if a.feed, err = stream.NewFeed(stream.FeedConfig{Client: a.client, Logger: a.log}); err != nil {
		return err
	}
	a.server, err = stream.NewServer(stream.Config{
		Engine: a.storage, Board: a.board, PeerID: a.peerID, Logger: a.log, Door: a.door,
		Authorize: func(peer, share, replica string) (stream.Grant, error) {
			return a.workers.authorize(peer, share, replica)
		},
		Listed: a.listed,
		Can: func() zfs.StreamFlags {
			if able := a.able.Load(); able != nil {
				return able.StreamFlags()
			}
			return zfs.StreamFlags{}
		},
		StallTimeout: a.cfg.Stream.StallTimeout, MaxStreams: a.cfg.Stream.MaxStreams,
		Sent: func(share, replica string, n int64) {
			a.counters.TransferBytes.WithLabelValues(share, replica, "send").Add(float64(n))
		},
	})
	return err
}

// listed are the versions of a replica that takes snapshots here.
func (a *Agent) listed(replicaID string) []zfs.Version {
	for _, c := range a.cadences {
		if versions := c.Listed(replicaID); versions != nil {
			return versions
		}
	}
	return nil
}

// limited pulls no faster than this host allows.
type limited struct {
	client *stream.Client
	rate   int64 // bytes per second of one stream; 0 is none
}

// Pull asks with the lower of the share's limit and the host's.
func (l limited) Pull(ctx context.Context, req stream.Request) (*stream.Pull, error) {
	if l.rate > 0 && (req.RateLimit == 0 || req.RateLimit > l.rate) {
		req.RateLimit = l.rate
	}
	return l.client.Pull(ctx, req)
}

// serve answers other agents on the TLS port until ctx ends. Streams under way
// are cut then: receivers resume.
func (a *Agent) serve(ctx context.Context) error {
	listener := a.cfg.Socket
	if listener == nil {
		var err error
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", a.cfg.Listen); err != nil {
			return fmt.Errorf("open stream listener: %w", err)
		}
	}
	server := &http.Server{
		Handler:           untilExpiry(a.server),
		TLSConfig:         a.callers.Config(a.material.ServerConfig("http/1.1")),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       11 * time.Minute, // longer than receivers keep them
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		Protocols:         new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	a.pulses.turn(loopStreams)
	a.log.Info("serving streams", "addr", listener.Addr().String())
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(a.callers.Listener(listener), "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serve streams: %w", err)
	case <-ctx.Done():
	}
	if err := server.Close(); err != nil {
		a.log.Debug("close stream listener", "err", err)
	}
	<-done
	a.client.Close()
	return nil
}

func errorClass(code tarnv1.ReplicaErrorCode) string {
	return strings.ToLower(strings.TrimPrefix(code.String(), "REPLICA_ERROR_CODE_"))
}
