package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
)

const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeader         = 32 << 10
	// drainTime is how long requests under way may take once the node stops.
	drainTime = 5 * time.Second
)

// listener is the one TLS port: Raft's connections are told apart by ALPN, all
// else is HTTP.
type listener struct {
	server *http.Server
	net    net.Listener
	cancel context.CancelFunc
	// admission knows whose the open connections are, Raft's too.
	admission *identity.Admission
}

// newListener wraps an open socket. Requests get contexts that end when the node
// begins to stop, so that long polls do not hold it up.
func newListener(socket net.Listener, material *identity.Material, stream *consensus.StreamLayer, handler http.Handler, errorLog *log.Logger, limits identity.Limits) *listener {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	base, cancel := context.WithCancel(context.Background())
	admission := identity.NewAdmission(limits)
	return &listener{
		net:    admission.Listener(socket),
		cancel: cancel, admission: admission,
		server: &http.Server{
			Handler: handler,
			// Join's callers have no certificate yet; the API refuses them elsewhere.
			TLSConfig:         admission.Config(material.JoinServerConfig(consensus.ALPN, "h2", "http/1.1")),
			ConnContext:       admission.ConnContext,
			TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){consensus.ALPN: stream.Handle},
			Protocols:         protocols,
			ReadHeaderTimeout: readHeaderTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeader,
			BaseContext:       func(net.Listener) context.Context { return base },
			ErrorLog:          errorLog,
			// Agents that went silent must not keep their connections for ever.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, MaxConcurrentStreams: 1000},
		},
	}
}

// serve answers until shutdown is called.
func (l *listener) serve() error {
	err := l.server.ServeTLS(l.net, "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.net.Addr(), err)
}

// shutdown ends long polls at once, lets short requests finish, then closes. Raft
// must have stopped: its connections count as requests under way.
func (l *listener) shutdown() {
	l.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if l.server.Shutdown(ctx) != nil {
		// Whoever is still talking after that long is cut off.
		_ = l.server.Close()
	}
}
