package nfs3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"
	"github.com/buildbarn/go-xdr/pkg/rpcserver"
)

// Program numbers.
const (
	programNFS   = 100003
	programMount = 100005
)

// session is one connection.
type session struct {
	*Server
	peer netip.Addr
	from netip.AddrPort
	ctx  context.Context
	live *lively
}

// serve answers one client until it leaves, falls silent, or ctx ends.
func (s *Server) serve(ctx context.Context, conn net.Conn, peer netip.AddrPort) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	live := &lively{Conn: conn, idle: s.config.IdleTimeout}
	live.taken.L = &live.mu
	c := &session{Server: s, peer: peer.Addr(), from: peer, ctx: ctx, live: live}
	rpc := rpcserver.NewServer(map[uint32]rpcserver.Service{
		programNFS: c.program(3, nfsProcedures()), programMount: c.program(3, mountProcedures()),
	}, authenticator{&live.calls})
	err := rpc.HandleConnection(live, live)
	if err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		s.config.Logger.Debug("NFS connection ended", "client", peer, "err", err)
	}
}

// lively gives a connection time as long as something happens on it. An error in
// writing ends reading too.
type lively struct {
	net.Conn
	idle time.Duration

	calls numbers

	mu      sync.Mutex
	replies int       // that the client has not taken
	taken   sync.Cond // with mu
}

// maxReplies bounds what waits for one client to take it: more is not read from it.
const maxReplies = 8

// room waits until a client has taken replies. That ends: writing does.
func (l *lively) room() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.replies >= maxReplies {
		l.taken.Wait()
	}
}

func (l *lively) count(change int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replies += change
	l.taken.Broadcast()
}

func (l *lively) Read(p []byte) (int, error) {
	l.room()
	if err := l.SetReadDeadline(time.Now().Add(l.idle)); err != nil {
		return 0, err
	}
	n, err := l.Conn.Read(p)
	l.calls.pass(p[:n])
	return n, err
}

func (l *lively) Write(p []byte) (int, error) {
	l.count(1)
	defer l.count(-1)
	if err := l.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	n, err := l.Conn.Write(p)
	if err != nil {
		_ = l.Close()
	}
	return n, err
}

type (
	callerKey struct{}
	xidKey    struct{}
)

// authenticator takes the word of clients (AUTH_SYS) for who their users are;
// without one they are nobody.
type authenticator struct{ calls *numbers }

func (a authenticator) Authenticate(ctx context.Context, cred, _ *rpcv2.OpaqueAuth) (context.Context, rpcv2.OpaqueAuth, rpcv2.AuthStat) {
	none := rpcv2.OpaqueAuth{Flavor: rpcv2.AUTH_NONE}
	caller := who{uid: nobody, gid: nobody}
	if xid, ok := a.calls.next(); ok {
		ctx = context.WithValue(ctx, xidKey{}, xid)
	}
	switch cred.Flavor {
	case rpcv2.AUTH_NONE:
	case rpcv2.AUTH_SYS:
		d := decoder{r: bytes.NewReader(cred.Body)}
		_ = d.u32() // stamp
		_ = d.bytes(maxName)
		caller.uid, caller.gid = d.u32(), d.u32()
		n := d.u32()
		if d.err != nil || n > 16 {
			return ctx, none, rpcv2.AUTH_BADCRED
		}
		for range n {
			caller.gids = append(caller.gids, d.u32())
		}
		if d.err != nil {
			return ctx, none, rpcv2.AUTH_BADCRED
		}
	default:
		return ctx, none, rpcv2.AUTH_TOOWEAK
	}
	return context.WithValue(ctx, callerKey{}, caller), none, rpcv2.AUTH_OK
}

// call is one request.
type call struct {
	*session
	who     who
	request *request // that runs once, or nil
	in      decoder
	out     encoder
}

// procedure reads its arguments from c.in and returns what is to be done, which
// writes its results to c.out. On an error the client gets its status, followed
// by as many zero words as say that no attributes follow.
type procedure struct {
	name   string
	absent int
	decode func(c *call) func() error
}

// program makes a service of a table of procedures.
func (s *session) program(version uint32, table []procedure) rpcserver.Service {
	return func(ctx context.Context, vers, proc uint32, parameters io.ReadCloser, result func(int) io.Writer) (rpcv2.AcceptedReplyData, error) {
		switch {
		case vers != version:
			mismatch := &rpcv2.AcceptedReplyData_PROG_MISMATCH{}
			mismatch.MismatchInfo.Low, mismatch.MismatchInfo.High = version, version
			return mismatch, parameters.Close()
		case proc >= uint32(len(table)):
			return &rpcv2.AcceptedReplyData_default{Stat: rpcv2.PROC_UNAVAIL}, parameters.Close()
		}
		c := &call{session: s, in: decoder{r: parameters}}
		if caller, ok := ctx.Value(callerKey{}).(who); ok {
			c.who = caller
		} else {
			c.who = who{uid: nobody, gid: nobody}
		}
		p := table[proc]
		run := c.known(ctx, p, p.decode)
		if c.in.err != nil {
			return &rpcv2.AcceptedReplyData_default{Stat: rpcv2.GARBAGE_ARGS}, parameters.Close()
		}
		s.live.room()
		// The next request of the connection is read only when this one has its slot.
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		}
		defer func() { <-s.slots }()
		if err := parameters.Close(); err != nil {
			return nil, err
		}
		if err := c.answer(p, run); err != nil {
			return nil, err
		}
		_, err := result(len(c.out.b)).Write(c.out.b)
		return &rpcv2.AcceptedReplyData_SUCCESS{}, err
	}
}

// answer runs a procedure. A fault in it costs the client its connection, not the
// agent its life.
func (c *call) answer(p procedure, run func() error) (fault error) {
	defer func() {
		if r := recover(); r != nil {
			c.config.Logger.Error("NFS procedure failed", "procedure", p.name, "client", c.peer, "err", r)
			fault = fmt.Errorf("procedure %s: %v", p.name, r)
		}
	}()
	if run == nil {
		return nil // NULL has no status
	}
	c.out.u32(uint32(statusOK))
	if err := run(); err != nil {
		c.config.Logger.Debug("NFS request refused", "procedure", p.name, "client", c.peer, "err", err)
		c.out.b = c.out.b[:0]
		c.out.u32(uint32(statusOf(err)))
		for range p.absent {
			c.out.u32(0)
		}
	}
	return nil
}
