package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// fast suits three nodes that share two cores with the race detector.
func fast() Timeouts {
	return Timeouts{Heartbeat: 400 * time.Millisecond, Promote: 100 * time.Millisecond, Join: 20 * time.Millisecond}
}

// eventually polls until cond holds; a minute covers any machine.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// listFSM keeps the commands it applied, in order.
type listFSM struct {
	mu   sync.Mutex
	list [][]byte
}

func (f *listFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, l.Data)
	return len(f.list)
}

func (f *listFSM) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(bytes.Join(f.list, []byte("\n")))
}

func (f *listFSM) Snapshot() (raft.FSMSnapshot, error) { return listSnapshot(f.text()), nil }

func (f *listFSM) Restore(rc io.ReadCloser) error {
	data, err := io.ReadAll(rc)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = bytes.Split(data, []byte("\n"))
	return err
}

type listSnapshot string

func (s listSnapshot) Persist(sink raft.SnapshotSink) error {
	_, err := io.WriteString(sink, string(s))
	return errors.Join(err, sink.Close())
}

func (listSnapshot) Release() {}

// tcpStream is a plain TCP stream layer whose cable can be pulled.
type tcpStream struct {
	net.Listener
	down atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
}

func listen(t testing.TB, addr string) *tcpStream {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return &tcpStream{Listener: l}
}

func (s *tcpStream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if s.down.Load() {
		return nil, errors.New("cable pulled")
	}
	return s.keep(net.DialTimeout("tcp", string(addr), timeout))
}

func (s *tcpStream) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err == nil && s.down.Load() {
		_ = conn.Close()
		return conn, nil
	}
	return s.keep(conn, err)
}

func (s *tcpStream) keep(conn net.Conn, err error) (net.Conn, error) {
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.down.Load() { // pulled since it was dialled
			return conn, conn.Close()
		}
		s.conns = append(s.conns, conn)
	}
	return conn, err
}

func (s *tcpStream) cut(down bool) {
	s.down.Store(down)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

// member is one server of a test cluster, across restarts.
type member struct {
	t      testing.TB
	dir    string
	addr   string
	config func(*Config)
	fsm    *listFSM
	stream *tcpStream
	node   *Node
	cancel context.CancelFunc
	done   chan error
}

type cluster struct {
	t       testing.TB
	mu      sync.Mutex
	members []*member
	// assured are the servers that were told that they are members.
	assured map[string]bool
}

// Join implements Peers within the process, as the control plane's RPC would.
func (c *cluster) Join(ctx context.Context, addr string, req JoinRequest) (JoinAnswer, error) {
	c.mu.Lock()
	var to *Node
	for _, m := range c.members {
		if m.addr == addr && !m.stream.down.Load() {
			to = m.node
		}
	}
	c.mu.Unlock()
	if to == nil {
		return JoinAnswer{}, fmt.Errorf("nobody at %s", addr)
	}
	answer, err := to.HandleJoin(ctx, req)
	if err == nil && req.StillMember && answer.Status == JoinDone {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.assured == nil {
			c.assured = map[string]bool{}
		}
		c.assured[req.Server.ID] = true
	}
	return answer, err
}

// add makes a member and starts it.
func (c *cluster) add(config func(*Config)) *member {
	c.t.Helper()
	m := &member{t: c.t, dir: c.t.TempDir(), addr: "127.0.0.1:0", config: config}
	c.t.Cleanup(func() { _ = m.stop() })
	c.start(m)
	return m
}

func (c *cluster) start(m *member) {
	c.t.Helper()
	id, err := ServerID(m.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	stream := listen(c.t, m.addr)
	fsm := &listFSM{}
	cfg := Config{ID: id, Dir: m.dir, Stream: stream, FSM: fsm, Peers: c, Timeouts: fast(),
		Logger: slog.New(slog.NewTextHandler(testWriter{c.t}, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	if m.config != nil {
		m.config(&cfg)
	}
	node, err := Open(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	m.addr, m.fsm, m.stream, m.node = stream.Addr().String(), fsm, stream, node
	known := false
	for _, other := range c.members {
		known = known || other == m
	}
	if !known {
		c.members = append(c.members, m)
	}
	c.mu.Unlock()
	m.run()
}

func (m *member) run() {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel, m.done = cancel, make(chan error, 1)
	go func() { m.done <- m.node.Run(ctx) }()
}

// stop ends the member without telling the others, as a kill would.
func (m *member) stop() error {
	if m.cancel == nil {
		return nil
	}
	m.cancel()
	m.cancel = nil
	return <-m.done
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if testing.Verbose() {
		w.t.Log(string(bytes.TrimSpace(p)))
	}
	return len(p), nil
}

// three founds a cluster whose second and third member know only the first.
func three(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t}
	first := c.add(func(cfg *Config) { cfg.BootstrapExpect = 3 })
	for range 2 {
		c.add(func(cfg *Config) { cfg.BootstrapExpect, cfg.Join = 3, []string{first.addr} })
	}
	return c
}

// leader waits until exactly one running member is ready to serve.
func (c *cluster) leader() *member {
	c.t.Helper()
	var found *member
	eventually(c.t, "one ready leader", func() bool {
		found = nil
		for _, m := range c.members {
			if m.cancel != nil && !m.stream.down.Load() && m.node.IsLeader() {
				if found != nil {
					return false
				}
				found = m
			}
		}
		return found != nil
	})
	return found
}

func (c *cluster) followers() []*member {
	leader := c.leader()
	var out []*member
	for _, m := range c.members {
		if m != leader && m.cancel != nil {
			out = append(out, m)
		}
	}
	return out
}

// write proposes through whoever leads until it is acknowledged once.
func (c *cluster) write(text string) uint64 {
	c.t.Helper()
	for {
		_, index, err := c.leader().node.Propose(context.Background(), []byte(text))
		var not *NotLeaderError
		switch {
		case err == nil:
			return index
		case !errors.As(err, &not) && !errors.Is(err, ErrUnknownOutcome):
			c.t.Fatalf("propose %q: %v", text, err)
		}
	}
}

// agree waits until all running members hold the same, non-empty list.
func (c *cluster) agree() {
	c.t.Helper()
	want := c.leader()
	eventually(c.t, "members agree", func() bool {
		for _, m := range c.members {
			if m.cancel != nil && (m.fsm.text() != want.fsm.text() || m.fsm.text() == "") {
				return false
			}
		}
		return true
	})
}
