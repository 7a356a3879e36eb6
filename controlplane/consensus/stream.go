package consensus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"tarn/controlplane/identity"
)

// ALPN is the protocol by which a TLS listener tells Raft's connections apart.
const ALPN = "tarn-raft/1"

// StreamLayer is a raft.StreamLayer that shares the API's TLS port. Both ends of
// every connection are control-plane nodes of this cluster, by certificate:
// whoever reaches Raft can corrupt the log (Nomad CVE-2020-7956, CVE-2021-37218).
//
// That the peer is in Raft's present configuration is not demanded: a server
// that was away for long knows only an old one, and must let its new leader in.
type StreamLayer struct {
	// Refused is told of every peer that may not speak Raft, before Handle is first
	// called; nil for none.
	Refused func(peer, remote string)
	// Revoked tells whether a node's identity is neither let in nor called any more; nil
	// for none. Set before the first connection. Of one that is revoked later, Drop ends
	// the connections that were dialled; the listener's are its server's to end.
	Revoked func(id string) bool

	addr     raft.ServerAddress
	material *identity.Material
	dialer   *identity.Dialer
	log      *slog.Logger
	conns    chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

// NewStreamLayer returns a stream layer for a node that others reach under the
// address advertise, host:port, which must not be a wildcard. Its listener is
// the HTTP server that calls Handle.
func NewStreamLayer(advertise string, material *identity.Material, log *slog.Logger) (*StreamLayer, error) {
	host, port, err := net.SplitHostPort(advertise)
	if err != nil {
		return nil, fmt.Errorf("advertised address: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || port == "" || port == "0" || ip != nil && ip.IsUnspecified() {
		return nil, fmt.Errorf("advertised address %q cannot be dialled by others", advertise)
	}
	config := material.ClientConfig(identity.RoleControl)
	config.NextProtos = []string{ALPN}
	s := &StreamLayer{
		addr:     raft.ServerAddress(advertise),
		material: material,
		log:      log,
		conns:    make(chan net.Conn),
		closed:   make(chan struct{}),
	}
	s.dialer = identity.NewDialer(config, s.refuse)
	return s, nil
}

// Handle serves one connection for http.Server.TLSNextProto[ALPN]. It returns
// when Raft is done with the connection, as net/http closes it then. Set the
// server's Protocols explicitly, or it stops offering HTTP/2; and end Run before
// Server.Shutdown, which waits for these connections.
func (s *StreamLayer) Handle(_ *http.Server, conn *tls.Conn, _ http.Handler) {
	peer, err := identity.Peer(conn.ConnectionState())
	if err == nil {
		err = s.refuse(peer.ID)
	}
	if err != nil || peer.Role != identity.RoleControl || peer.Cluster != s.material.Identity().Cluster {
		s.log.Warn("refused a connection to raft", "remote", conn.RemoteAddr().String(), "peer", peer.URI(), "err", err)
		if s.Refused != nil {
			s.Refused(peer.URI(), conn.RemoteAddr().String())
		}
		return
	}
	held := &heldConn{Conn: conn, done: make(chan struct{})}
	select {
	case s.conns <- held:
	case <-s.closed:
		return
	}
	// Nobody speaks Raft longer than its certificate lasts; it dials again with the next.
	ends := time.NewTimer(time.Until(conn.ConnectionState().PeerCertificates[0].NotAfter))
	defer ends.Stop()
	select {
	case <-held.done:
	case <-s.closed:
	case <-ends.C:
	}
}

// Accept implements net.Listener.
func (s *StreamLayer) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that Handle still serves end.
func (s *StreamLayer) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr implements net.Listener with the advertised address.
func (s *StreamLayer) Addr() net.Addr { return streamAddr(s.addr) }

// Dial implements raft.StreamLayer.
func (s *StreamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := s.dialer.DialTLS(ctx, "tcp", string(address))
	if err != nil {
		return nil, fmt.Errorf("dial raft at %s: %w", address, err)
	}
	if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != ALPN {
		return nil, errors.Join(fmt.Errorf("dial raft at %s: peer speaks %q", address, got), conn.Close())
	}
	return conn, nil
}

// Drop closes all connections that were dialled to a node, and returns how many that were.
func (s *StreamLayer) Drop(id string) int { return s.dialer.Drop(id) }

func (s *StreamLayer) refuse(id string) error {
	if s.Revoked != nil && s.Revoked(id) {
		return fmt.Errorf("%w: %s", identity.ErrRevoked, id)
	}
	return nil
}

type streamAddr string

// Network implements net.Addr.
func (streamAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a streamAddr) String() string { return string(a) }

// heldConn tells Handle when Raft has closed it.
type heldConn struct {
	net.Conn
	done chan struct{}
	once sync.Once
}

// Close implements net.Conn. It lets go last: net/http closes the connection too.
func (c *heldConn) Close() error {
	defer c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}
