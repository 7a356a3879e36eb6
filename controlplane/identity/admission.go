package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// Limits of the connections of one port. Zero values take the defaults named here.
type Limits struct {
	// Strangers are connections of which nobody knows yet whose they are. Default 1,024.
	Strangers int
	// StrangersPerHost of one remote address. Default 256.
	StrangersPerHost int
	// PerIdentity of one certificate or user; control nodes are exempt. Default 256.
	PerIdentity int
	// Known connections in all. Default 16,384.
	Known int
	// Patience with a stranger, after which its connection is closed. Default 30 s.
	Patience time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Strangers, 1024}, {&l.StrangersPerHost, 256}, {&l.PerIdentity, 256}, {&l.Known, 16_384}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if l.Patience <= 0 {
		l.Patience = 30 * time.Second
	}
	return l
}

// ErrTooMany is wrapped when an identity, or all of them, have too many connections.
var ErrTooMany = errors.New("too many connections")

// Admission bounds the connections of a port, so that nobody can use up its memory or
// keep others out: strangers get few and not for long, each identity its share. Safe
// for concurrent use.
type Admission struct {
	// Refuse says why a certificate's owner is not let in, nil for whoever is; optional,
	// set before the first connection. Whom it refuses later has to be cut off with Drop.
	Refuse func(id string) error

	limits Limits

	mu        sync.Mutex
	strangers int
	known     int
	hosts     map[string]int // strangers by remote address
	ids       map[string]map[*admittedConn]struct{}
}

// NewAdmission returns an Admission that has let nobody in.
func NewAdmission(limits Limits) *Admission {
	return &Admission{limits: limits.withDefaults(), hosts: map[string]int{}, ids: map[string]map[*admittedConn]struct{}{}}
}

// Drop closes all connections of an identity, whatever goes on on them, and returns how
// many that were.
func (a *Admission) Drop(id string) int {
	a.mu.Lock()
	open := slices.Collect(maps.Keys(a.ids[id]))
	a.mu.Unlock()
	for _, conn := range open {
		// The peer sees the end, and whoever serves it.
		_ = conn.Close()
	}
	return len(open)
}

// Listener closes what is too much at once, unread.
func (a *Admission) Listener(l net.Listener) net.Listener { return &admittingListener{l, a} }

type admittingListener struct {
	net.Listener
	admission *Admission
}

// Accept implements net.Listener.
func (l *admittingListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if admitted := l.admission.enter(conn); admitted != nil {
			return admitted, nil
		}
		// The peer sees the end; there is nobody else to tell.
		_ = conn.Close()
	}
}

// Admit is for ports without a listener to wrap: it returns the connection to use
// instead, or false for one that is too much. One that is never claimed is closed when
// Patience is over.
func (a *Admission) Admit(conn net.Conn) (net.Conn, bool) {
	if admitted := a.enter(conn); admitted != nil {
		return admitted, true
	}
	return nil, false
}

// Config returns a TLS configuration whose handshakes say whose a connection is.
func (a *Admission) Config(conf *tls.Config) *tls.Config {
	out, choose := conf.Clone(), conf.GetConfigForClient
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		chosen := conf
		if choose != nil {
			var err error
			if chosen, err = choose(hello); err != nil {
				return nil, err
			}
		}
		conn, ok := hello.Conn.(*admittedConn)
		if !ok {
			return chosen, nil
		}
		chosen = chosen.Clone()
		verify := chosen.VerifyConnection
		chosen.VerifyConnection = func(cs tls.ConnectionState) error {
			if verify != nil {
				if err := verify(cs); err != nil {
					return err
				}
			}
			id, err := Peer(cs)
			if err != nil {
				return nil // No certificate: a stranger still.
			}
			if err := conn.claim(id.ID, id.Role == RoleControl); err != nil || a.Refuse == nil {
				return err
			}
			// Only now: whom Drop did not find is refused here.
			return a.Refuse(id.ID)
		}
		return chosen, nil
	}
	return out
}

type connKey struct{}

// ConnContext is for http.Server: handlers can then say whose a connection is.
func (a *Admission) ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// Claim says that the connection of a request is of this identity, which came without
// a certificate. Errors wrap ErrTooMany.
func Claim(ctx context.Context, id string) error {
	if conn, ok := ctx.Value(connKey{}).(*admittedConn); ok {
		return conn.claim(id, false)
	}
	return nil
}

// Counts returns the strangers and the known connections that are open.
func (a *Admission) Counts() (strangers, known int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.strangers, a.known
}

// GossipLimits are those of a gossip port, whose connections last for one exchange.
func GossipLimits() Limits { return Limits{Strangers: 512, StrangersPerHost: 64} }

// AdminLimits are those of an admin port, which machines that watch the process keep
// open, and which reads no certificates.
func AdminLimits() Limits {
	return Limits{Strangers: 128, StrangersPerHost: 32, Patience: 24 * time.Hour}
}

func (a *Admission) enter(conn net.Conn) *admittedConn {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		host = conn.RemoteAddr().String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.strangers >= a.limits.Strangers || a.hosts[host] >= a.limits.StrangersPerHost {
		return nil
	}
	a.strangers++
	a.hosts[host]++
	c := &admittedConn{Conn: conn, admission: a, host: host}
	c.patience = time.AfterFunc(a.limits.Patience, c.outstay)
	return c
}

// admittedConn counts as a stranger's until it is claimed, then as its owner's. The
// admission's lock guards owner, stranger and gone.
type admittedConn struct {
	net.Conn
	admission *Admission
	host      string
	patience  *time.Timer

	known, gone bool
	owner       string
}

func (c *admittedConn) claim(id string, exempt bool) error {
	a := c.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.known || c.gone {
		return nil
	}
	if !exempt && (len(a.ids[id]) >= a.limits.PerIdentity || a.known >= a.limits.Known) {
		return ErrTooMany
	}
	c.patience.Stop()
	c.leaveStrangers()
	a.known++
	c.known, c.owner = true, id
	if a.ids[id] == nil {
		a.ids[id] = map[*admittedConn]struct{}{}
	}
	a.ids[id][c] = struct{}{}
	return nil
}

// leaveStrangers is called with the lock held.
func (c *admittedConn) leaveStrangers() {
	a := c.admission
	a.strangers--
	if a.hosts[c.host]--; a.hosts[c.host] == 0 {
		delete(a.hosts, c.host)
	}
}

// outstay closes the connection of a stranger who did not say who it is.
func (c *admittedConn) outstay() {
	c.admission.mu.Lock()
	known := c.known
	c.admission.mu.Unlock()
	if !known {
		_ = c.Close()
	}
}

// Close implements net.Conn.
func (c *admittedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

func (c *admittedConn) leave() {
	a := c.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	c.patience.Stop()
	if !c.known {
		c.leaveStrangers()
		return
	}
	a.known--
	if delete(a.ids[c.owner], c); len(a.ids[c.owner]) == 0 {
		delete(a.ids, c.owner)
	}
}
