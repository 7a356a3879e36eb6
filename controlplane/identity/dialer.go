package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// dialTime bounds what Dialer does for one connection, the handshake included.
const dialTime = 5 * time.Second

// Dialer opens TLS connections and knows whose the open ones are, so that they can be cut
// when that identity is refused later. Safe for concurrent use.
type Dialer struct {
	conf   *tls.Config
	refuse func(id string) error

	mu   sync.Mutex
	open map[string]map[*dialedConn]struct{} // by the server's id
}

// NewDialer returns a dialer that connects to whoever conf accepts and refuse, nil for
// nobody, gives no error for. Whom refuse refuses later has to be cut off with Drop. conf
// is cloned; its ALPN list holds for every connection.
func NewDialer(conf *tls.Config, refuse func(id string) error) *Dialer {
	if refuse == nil {
		refuse = func(string) error { return nil }
	}
	return &Dialer{conf: conf.Clone(), refuse: refuse, open: map[string]map[*dialedConn]struct{}{}}
}

// DialTLS is for http.Transport.DialTLSContext: the connection is a *tls.Conn whose
// handshake is over. It takes at most 5 s. A refusal is what refuse returned, wrapped.
func (d *Dialer) DialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	tracked := &dialedConn{Conn: raw, dialer: d}
	conn := tls.Client(tracked, d.named(addr))
	err = conn.HandshakeContext(ctx)
	if err == nil {
		err = d.admit(conn.ConnectionState(), tracked)
	}
	if err != nil {
		// The peer is not one to say goodbye to.
		_ = tracked.Close()
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return conn, nil
}

// named is the configuration for a server, whose name crypto/tls wants to know.
func (d *Dialer) named(addr string) *tls.Config {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || d.conf.ServerName != "" {
		return d.conf
	}
	conf := d.conf.Clone()
	conf.ServerName = host
	return conf
}

// admit notes whose the connection is, and asks only then: whom Drop did not find is
// refused here.
func (d *Dialer) admit(state tls.ConnectionState, c *dialedConn) error {
	peer, err := Peer(state)
	if err != nil {
		return err
	}
	d.mu.Lock()
	c.owner = peer.ID
	if d.open[peer.ID] == nil {
		d.open[peer.ID] = map[*dialedConn]struct{}{}
	}
	d.open[peer.ID][c] = struct{}{}
	d.mu.Unlock()
	return d.refuse(peer.ID)
}

// Drop closes all connections to an identity, whatever goes on on them, and returns how
// many that were.
func (d *Dialer) Drop(id string) int {
	d.mu.Lock()
	open := slices.Collect(maps.Keys(d.open[id]))
	d.mu.Unlock()
	for _, c := range open {
		// Whoever uses it sees the end.
		_ = c.Close()
	}
	return len(open)
}

// dialedConn is forgotten when it is closed. The dialer's lock guards owner.
type dialedConn struct {
	net.Conn
	dialer *Dialer
	owner  string
}

// Close implements net.Conn.
func (c *dialedConn) Close() error {
	d := c.dialer
	d.mu.Lock()
	if delete(d.open[c.owner], c); len(d.open[c.owner]) == 0 {
		delete(d.open, c.owner)
	}
	d.mu.Unlock()
	return c.Conn.Close()
}
