package identity

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// TestDialedAreDropped: connections to an identity that is refused from now on end, new
// ones are refused, and those to others stay.
func TestDialedAreDropped(t *testing.T) {
	bad, other := openPort(t, Limits{}), openPort(t, Limits{})
	var refused atomic.Pointer[string]
	dialer := func(p *port) *Dialer {
		conf := material(t, p.ca, node(RoleAgent)).ClientConfig(RoleControl)
		conf.NextProtos = []string{"http/1.1"}
		return NewDialer(conf, func(id string) error {
			if said := refused.Load(); said != nil && *said == id {
				return ErrRevoked
			}
			return nil
		})
	}
	d, o := dialer(bad), dialer(other)
	open := func(d *Dialer, p *port) net.Conn {
		t.Helper()
		conn, err := d.DialTLS(t.Context(), "tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	conns := []net.Conn{open(d, bad), open(d, bad)}
	stays := open(o, other)
	var id string
	for id = range d.open {
	}
	refused.Store(&id)
	if n := d.Drop(id); n != 2 {
		t.Errorf("%d connections were dropped", n)
	}
	for _, conn := range conns {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a dropped connection can be read")
		}
	}
	if _, err := d.DialTLS(t.Context(), "tcp", bad.addr); !errors.Is(err, ErrRevoked) {
		t.Errorf("dialled anew: %v", err)
	}
	if n := d.Drop(id); n != 0 || len(d.open) != 0 {
		t.Errorf("%d connections, %d identities were left", n, len(d.open))
	}
	if _, err := io.WriteString(stays, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(stays); err != nil || len(answer) == 0 {
		t.Errorf("another server: %q, %v", answer, err)
	}
	_ = stays.Close()
	if len(o.open) != 0 {
		t.Error("a closed connection is still known")
	}
}

// TestDialerChecksTheServer: it has the last word of its TLS configuration, not less.
func TestDialerChecksTheServer(t *testing.T) {
	p := openPort(t, Limits{})
	ours := material(t, p.ca, node(RoleAgent))
	if _, err := NewDialer(ours.ClientConfig(RoleAgent), nil).DialTLS(t.Context(), "tcp", p.addr); !errors.Is(err, ErrIdentity) {
		t.Errorf("another role: %v", err)
	}
	foreign := material(t, newTestCA(t, "c"), node(RoleAgent))
	if conn, err := NewDialer(foreign.ClientConfig(RoleControl), nil).DialTLS(t.Context(), "tcp", p.addr); err == nil {
		_ = conn.Close()
		t.Error("another authority's server is connected to")
	}
}
