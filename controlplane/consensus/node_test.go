package consensus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestFoundAndServe(t *testing.T) {
	c := three(t)
	leader := c.leader()
	result, index, err := leader.node.Propose(t.Context(), []byte("a"))
	if err != nil || result != 1 || index == 0 {
		t.Fatalf("got %v at %d, %v", result, index, err)
	}
	c.agree()
	for _, m := range c.members {
		servers, err := m.node.Servers()
		if err != nil || len(servers) != 3 || voters(servers) != 3 {
			t.Fatalf("%s: %v, %v", m.addr, servers, err)
		}
	}
	for _, m := range c.followers() {
		_, _, err := m.node.Propose(t.Context(), []byte("b"))
		var not *NotLeaderError
		if !errors.As(err, &not) || not.LeaderAddr != leader.addr || not.LeaderID != leader.node.ID() || not.Term == 0 {
			t.Fatalf("follower says %v", err)
		}
		if _, err := m.node.ReadIndex(t.Context()); !errors.As(err, &not) {
			t.Fatalf("follower reads: %v", err)
		}
	}
	if s := leader.node.Stats(); s.State != "Leader" || s.Voters != 3 || len(s.FollowersSeen) != 2 || s.AppliedIndex != index {
		t.Fatalf("stats %+v", s)
	}
}

func TestLeaderKilledAndBack(t *testing.T) {
	c := three(t)
	for i := range 20 {
		c.write(fmt.Sprint("before ", i))
	}
	old := c.leader()
	if err := old.stop(); err != nil {
		t.Fatal(err)
	}
	c.write("during")
	c.start(old)
	c.write("after")
	c.agree()
	if text := old.fsm.text(); !strings.Contains(text, "before 19") || !strings.Contains(text, "during") {
		t.Fatalf("restarted member holds %q", text)
	}
}

func TestAllRestartWithData(t *testing.T) {
	c := three(t)
	c.write("kept")
	c.agree()
	for _, m := range c.members {
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.members {
		c.start(m)
	}
	if _, err := c.leader().node.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := c.leader().fsm.text(); text != "kept" {
		t.Fatalf("after restart: %q", text)
	}
}

// A restored state machine has seen no entry, yet must not be waited for.
func TestRestartFromSnapshot(t *testing.T) {
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect = 1 })
	index := c.write("kept")
	if err := m.node.raft.Load().Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	c.start(m)
	if _, err := c.leader().node.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.fsm.text() != "kept" || m.node.AppliedIndex() < index {
		t.Fatalf("%q, applied %d of %d", m.fsm.text(), m.node.AppliedIndex(), index)
	}
}

func TestConcurrentProposals(t *testing.T) {
	c := three(t)
	leader := c.leader()
	var wg sync.WaitGroup
	var failed atomic.Int64
	for i := range 64 {
		wg.Go(func() {
			if _, _, err := leader.node.Propose(t.Context(), fmt.Append(nil, i)); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if failed.Load() != 0 || len(strings.Split(leader.fsm.text(), "\n")) != 64 {
		t.Fatalf("%d failed, holds %q", failed.Load(), leader.fsm.text())
	}
	c.agree()
}

func TestDeposedLeaderServesNoReads(t *testing.T) {
	c := three(t)
	c.write("a")
	old := c.leader()
	old.stream.cut(true)
	// It may believe to lead for a while yet. It must not answer for it.
	if _, err := old.node.ReadIndex(t.Context()); err == nil {
		t.Fatal("cut off leader served a linearizable read")
	}
	if _, err := old.node.VerifyLeader(t.Context()); err == nil {
		t.Fatal("cut off leader verified itself")
	}
	c.write("b")
	now := c.leader()
	if now == old {
		t.Fatal("the cut off member leads")
	}
	if _, err := now.node.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(now.fsm.text(), "b") {
		t.Fatalf("read misses a write: %q", now.fsm.text())
	}
	old.stream.cut(false)
	c.write("c")
	c.agree()
}

func TestUnknownOutcome(t *testing.T) {
	c := three(t)
	old := c.leader()
	old.stream.cut(true)
	_, _, err := old.node.Propose(t.Context(), []byte("lost or not"))
	var not *NotLeaderError
	if !errors.Is(err, ErrUnknownOutcome) && !errors.As(err, &not) {
		t.Fatalf("cut off leader says %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.leader().node.Propose(ctx, []byte("x")); !errors.Is(err, ErrBusy) {
		t.Fatalf("ended context: %v, want ErrBusy: nothing was sent", err)
	}
}

func TestLeadersWork(t *testing.T) {
	c := &cluster{t: t}
	var running, most, calls atomic.Int64
	terms := make(chan uint64, 100)
	lead := func(ctx context.Context, term uint64) error {
		terms <- term
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		if calls.Add(1) == 1 {
			return errors.New("the first attempt fails")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect, cfg.Lead = 1, lead })
	first, again := <-terms, <-terms
	if first != again {
		t.Fatalf("failed work was repeated in term %d, not %d", again, first)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if running.Load() != 0 {
		t.Fatal("Run returned before the leader's work did")
	}
	c.start(m)
	if next := <-terms; next <= first {
		t.Fatalf("term %d after %d", next, first)
	}
	if most.Load() != 1 {
		t.Fatalf("%d leaders' works at a time", most.Load())
	}
}

func TestWorkEndsWithLeadership(t *testing.T) {
	c := &cluster{t: t}
	ended := make(chan string, 10)
	config := func(addr string) func(*Config) {
		return func(cfg *Config) {
			id := cfg.ID
			cfg.BootstrapExpect = 3
			if addr != "" {
				cfg.Join = []string{addr}
			}
			cfg.Lead = func(ctx context.Context, _ uint64) error {
				<-ctx.Done()
				ended <- id
				return ctx.Err()
			}
		}
	}
	first := c.add(config(""))
	c.add(config(first.addr))
	c.add(config(first.addr))
	old := c.leader()
	old.stream.cut(true)
	if got := <-ended; got != old.node.ID() {
		t.Fatalf("work of %s ended, not of the deposed leader", got)
	}
}

func TestFailEndsRun(t *testing.T) {
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect = 1 })
	c.leader()
	boom := errors.New("boom")
	m.node.Fail(boom)
	m.node.Fail(errors.New("too late"))
	if err := <-m.done; !errors.Is(err, boom) {
		t.Fatalf("Run gave %v", err)
	}
	m.cancel = nil
	if _, _, err := m.node.Propose(t.Context(), nil); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("after Run: %v", err)
	}
}

func TestLastCommandSkipsWhatTheMachineNeverSees(t *testing.T) {
	logs := raft.NewInmemStore()
	kinds := []raft.LogType{raft.LogConfiguration, raft.LogNoop, raft.LogCommand, raft.LogBarrier, raft.LogNoop}
	for i, kind := range kinds {
		if err := logs.StoreLog(&raft.Log{Index: uint64(i + 1), Type: kind}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ index, applied, want uint64 }{
		{5, 0, 3}, {4, 0, 3}, {3, 0, 3}, {2, 0, 0}, {5, 3, 3}, {5, 4, 4}, {9, 0, 0},
	} {
		n := &Node{fsm: &trackedFSM{}, logs: logs}
		n.fsm.applied.Store(test.applied)
		if got, err := n.lastCommand(test.index); err != nil || got != test.want {
			t.Errorf("%+v: got %d, %v", test, got, err)
		}
	}
}

func TestConfigRefusals(t *testing.T) {
	good := func() Config {
		return Config{ID: "i", Dir: "d", Stream: &tcpStream{}, FSM: &listFSM{}, Logger: discard()}
	}
	for name, spoil := range map[string]func(*Config){
		"no id":                 func(c *Config) { c.ID = "" },
		"no fsm":                func(c *Config) { c.FSM = nil },
		"no stream":             func(c *Config) { c.Stream = nil },
		"expects too many":      func(c *Config) { c.BootstrapExpect = 10 },
		"alone but joining":     func(c *Config) { c.BootstrapExpect, c.Join = 1, []string{"x:1"} },
		"joins without peers":   func(c *Config) { c.Join = []string{"x:1"} },
		"lease above heartbeat": func(c *Config) { c.Timeouts.Lease = 4 * time.Second },
		"election below":        func(c *Config) { c.Timeouts.Election = time.Second },
	} {
		cfg := good()
		spoil(&cfg)
		if err := cfg.withDefaults().check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := good().withDefaults().check(); err != nil {
		t.Errorf("good config: %v", err)
	}
}

// The log tells how far it reaches back: entries that were forgotten do not count.
func TestLogStats(t *testing.T) {
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect, cfg.TrailingLogs = 1, 1 })
	c.write("first")
	before := time.Now()
	if s := m.node.LogStats(); s.OldestAge < 0 || s.FreePages < 0 {
		t.Errorf("one entry: %+v", s)
	}
	for i := range 20 {
		c.write(fmt.Sprint("entry ", i))
	}
	if err := m.node.raft.Load().Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if s := m.node.LogStats(); s.OldestAge < 0 || s.OldestAge > time.Since(before) || s.FreePages == 0 {
		t.Errorf("after %s and a snapshot: %+v", time.Since(before), s)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if s := m.node.LogStats(); s.OldestAge != -1 || s.FreePages != -1 {
		t.Errorf("stopped: %+v", s)
	}
}
