package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
)

// PlainConfig lets the bytes of streams leave without TLS inside networks that an
// operator declared trusted. Both hosts have to be configured for it. Who may
// pull what, and how a stream ended, is still said over mutual TLS; the plain
// connection is opened with a ticket that is valid once, for one peer and a few
// seconds. The stream's own checksums are no protection against an attacker.
type PlainConfig struct {
	// Listen is host:port where connections are accepted.
	Listen string
	// Listener is used instead of opening Listen. Run closes it.
	Listener net.Listener
	// Advertise is IP:port under which receivers reach it.
	Advertise string
	// Networks that are trusted; a peer outside gets its streams over TLS.
	Networks []netip.Prefix
	// Logger is required.
	Logger *slog.Logger
}

const (
	ticketBytes = 32
	// ticketLife is how long a ticket may wait for its connection.
	ticketLife = 10 * time.Second
	// maxKnocks are connections without an accepted ticket at one time.
	maxKnocks = 64
)

type ticket [ticketBytes]byte

// waiting is a stream that waits for its connection.
type waiting struct {
	peer netip.Addr
	conn chan *net.TCPConn // buffered: who delivers never waits
}

// Door is the listener for plain streams. Safe for concurrent use.
type Door struct {
	cfg PlainConfig

	mu      sync.Mutex
	tickets map[ticket]waiting
}

// NewDoor checks cfg; Run does the work.
func NewDoor(cfg PlainConfig) (*Door, error) {
	if cfg.Listener == nil && cfg.Listen == "" || cfg.Logger == nil || len(cfg.Networks) == 0 {
		return nil, fmt.Errorf("plain streams need a place to listen, trusted networks and a logger: %w", zfs.ErrInvalid)
	}
	if _, err := netip.ParseAddrPort(cfg.Advertise); err != nil {
		return nil, fmt.Errorf("plain streams need IP:port to advertise: %v: %w", err, zfs.ErrInvalid)
	}
	return &Door{cfg: cfg, tickets: map[ticket]waiting{}}, nil
}

// Run accepts until ctx ends.
func (d *Door) Run(ctx context.Context) error {
	listener := d.cfg.Listener
	if listener == nil {
		var err error
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", d.cfg.Listen); err != nil {
			return fmt.Errorf("open listener for plain streams: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var g errgroup.Group
	g.SetLimit(maxKnocks)
	defer g.Wait() //nolint:errcheck // knocks return nothing
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept plain stream: %w", err)
		}
		if err != nil {
			d.cfg.Logger.Warn("accept plain stream", "err", err)
			pause(ctx, 1)
			continue
		}
		g.Go(func() error { d.knock(conn); return nil })
	}
}

// knock reads a ticket and hands the connection to the stream that waits for it.
func (d *Door) knock(conn net.Conn) {
	var t ticket
	_ = conn.SetDeadline(time.Now().Add(ticketLife))
	_, err := io.ReadFull(conn, t[:])
	tcp, ok := conn.(*net.TCPConn)
	if err != nil || !ok || !d.deliver(t, tcp) {
		d.cfg.Logger.Warn("refused a plain connection", "peer", conn.RemoteAddr().String())
		_ = conn.Close()
	}
}

// deliver takes the ticket, whoever shows it: no second connection gets in with it.
func (d *Door) deliver(t ticket, conn *net.TCPConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	w, ok := d.tickets[t]
	delete(d.tickets, t)
	if !ok || addrOf(conn.RemoteAddr().String()) != w.peer {
		return false
	}
	_ = conn.SetDeadline(time.Time{})
	w.conn <- conn
	return true
}

// trusts reports that the host behind a remote address may have plain streams.
func (d *Door) trusts(remote string) bool {
	return d != nil && within(d.cfg.Networks, addrOf(remote))
}

// issue makes a ticket for the host at remote; the caller has to call forget.
func (d *Door) issue(remote string) (ticket, waiting) {
	var t ticket
	_, _ = rand.Read(t[:]) // never fails, by its documentation
	w := waiting{peer: addrOf(remote), conn: make(chan *net.TCPConn, 1)}
	d.mu.Lock()
	d.tickets[t] = w
	d.mu.Unlock()
	return t, w
}

// forget ends a ticket, and a connection that came too late.
func (d *Door) forget(t ticket, w waiting) {
	d.mu.Lock()
	delete(d.tickets, t)
	d.mu.Unlock()
	select {
	case conn := <-w.conn:
		_ = conn.Close()
	default:
	}
}

// await is the connection that brought the ticket.
func (w waiting) await(ctx context.Context) (*net.TCPConn, error) {
	timer := time.NewTimer(ticketLife)
	defer timer.Stop()
	select {
	case conn := <-w.conn:
		return conn, nil
	case <-timer.C:
		return nil, fmt.Errorf("receiver did not open its plain connection, is the port blocked? %w", ErrUnreachable)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func within(networks []netip.Prefix, a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// addrOf is the IP of an IP:port, without zone and unmapped; invalid if there is none.
func addrOf(hostPort string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
