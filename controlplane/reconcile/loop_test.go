package reconcile

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn/controlplane/consensus"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// proposer applies to a world's state machine, as long as it leads.
type proposer struct {
	w        *world
	refusal  atomic.Pointer[error]
	proposed []*raftv1.Command
}

func (p *proposer) Propose(_ context.Context, cmd *raftv1.Command) (*raftfsm.Result, error) {
	if err := p.refusal.Load(); err != nil {
		return nil, *err
	}
	p.proposed = append(p.proposed, cmd)
	return p.w.apply(cmd), nil
}

func newTestLoop(t *testing.T, w *world) (*Loop, *proposer) {
	t.Helper()
	p := &proposer{w: w}
	l, err := NewLoop(Config{
		State: w.fsm, Proposer: p, Soft: w.soft, Leases: w.leases, Policy: w.policy, NewID: w.id,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return l, p
}

func TestLoopFollowsReportsAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.now = time.Now()
		w.lead()
		w.addHost("a", "z1", tarnv1.FenceClass_FENCE_CLASS_HELPER)
		w.addShare("s", "a", "readable", 10*time.Second)
		l, p := newTestLoop(t, w)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		if len(p.proposed) != 0 {
			t.Errorf("proposed without a report: %v", p.proposed)
		}
		w.hosts["a"].act()
		synctest.Wait()
		if r := w.replicaOn("s", "a"); r.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
			t.Errorf("after its report the replica is %v", r.GetStatus())
		}
		<-time.After(time.Minute) // Virtual: silence is noticed without an event.
		synctest.Wait()
		if h, _ := w.fsm.View().Host("a"); h.GetState() != tarnv1.HostState_HOST_STATE_DOWN {
			t.Errorf("after a minute of silence the host is %v", h.GetState())
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

// TestLoopOutlivesRefusals: a log that takes nothing for a while does not end the
// loop, and what was asked for in vain is asked for again.
func TestLoopOutlivesRefusals(t *testing.T) {
	for _, refusal := range []error{&consensus.NotLeaderError{}, errors.New("busy")} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.now = time.Now()
			w.lead()
			w.addHost("a", "z1", tarnv1.FenceClass_FENCE_CLASS_HELPER)
			w.addShare("s", "a", "readable", 10*time.Second)
			w.hosts["a"].act()
			l, p := newTestLoop(t, w)
			p.refusal.Store(&refusal)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- l.Run(ctx) }()
			<-time.After(3 * time.Second)
			p.refusal.Store(nil)
			<-time.After(time.Second)
			synctest.Wait()
			if r := w.replicaOn("s", "a"); r.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
				t.Errorf("after %v the replica is %v", refusal, r.GetStatus())
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run returned %v", err)
			}
		})
	}
}

func TestMemoryHoldsRepetitionsBack(t *testing.T) {
	var m memory
	now := time.Unix(0, 0)
	ask := func(name string, id int) *raftv1.Command {
		return &raftv1.Command{Verb: &raftv1.Command_CreateReplica{CreateReplica: &raftv1.CreateReplica{
			Replica: &tarnv1.Replica{Id: string(rune('a' + id%26)), ShareId: name},
		}}}
	}
	passed := 0
	for i := range 600 { // five minutes
		passed += len(m.due([]*raftv1.Command{ask("s", i)}, now))
		now = now.Add(500 * time.Millisecond)
	}
	if passed > 12 {
		t.Errorf("the same refused command went into the log %d times in five minutes", passed)
	}
	if got := m.due([]*raftv1.Command{ask("other", 0)}, now); len(got) != 1 {
		t.Error("a new command waits for an old one")
	}
	now = now.Add(3 * time.Minute)
	m.due(nil, now)
	if len(m.asked) != 0 {
		t.Errorf("%d old commands are remembered", len(m.asked))
	}
}

func TestNewLoopChecks(t *testing.T) {
	if _, err := NewLoop(Config{}); err == nil {
		t.Error("an empty configuration was taken")
	}
	if (Policy{}).Validate() == nil {
		t.Error("an empty policy was taken")
	}
}

// BenchmarkStep measures one look over 20,000 replicas at which nothing is to be done.
func BenchmarkStep(b *testing.B) {
	w := newWorld(b)
	w.addHost("a", "z1", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	w.addHost("b", "z2", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	w.must(&raftv1.Command{Verb: &raftv1.Command_PutQuota{PutQuota: &raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{Limits: map[string]int64{
		"shares": -1, "gigabytes": -1, "share_replicas": -1, "replica_gigabytes": -1,
	}}}}})
	for i := range 10_000 {
		w.addShare(string(rune('a'+i%26))+w.id(), "a", "readable", 10*time.Second)
	}
	w.hosts["a"].act()
	w.leader()
	for s := range w.fsm.View().Shares() {
		w.addReplica(s.GetId(), "b")
	}
	w.hosts["b"].act()
	w.leader()
	w.settles()
	observed := w.soft.Snapshot(w.now, w.leases)
	b.ResetTimer()
	for range b.N {
		if n := len(Step(w.policy, w.fsm.View(), observed, w.now, w.id)); n != 0 {
			b.Fatalf("%d commands", n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20_000, "ns/replica")
}
