package controlplane

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/consensus"
	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/raftfsm"
)

// gated is a gate with members of the given versions; 0 is one that does not answer.
type gated struct {
	*gate
	fsm   *raftfsm.FSM
	index uint64

	mu       sync.Mutex
	versions map[string]uint32
}

func (g *gated) upgrade(id string, version uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.versions[id] = version
}

func newGated(versions map[string]uint32) *gated {
	g := &gated{fsm: raftfsm.New(raftfsm.Config{}), versions: versions}
	g.gate = newGate(g.fsm)
	g.self = "me"
	g.servers = func() ([]consensus.Server, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		out := []consensus.Server{{ID: "me", Addr: "me", Voter: true}}
		for id := range g.versions {
			out = append(out, consensus.Server{ID: id, Addr: id})
		}
		return out, nil
	}
	g.ask = func(_ context.Context, addr string) (uint32, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if v := g.versions[addr]; v > 0 {
			return v, nil
		}
		return 0, errors.New("no route")
	}
	return g
}

func (g *gated) propose(_ context.Context, cmd *raftv1.Command) error {
	data, err := proto.Marshal(cmd)
	if err != nil {
		return err
	}
	g.index++
	g.fsm.Apply(&raft.Log{Index: g.index, Term: 1, Data: data})
	return g.fsm.Halted()
}

func purge() *raftv1.Command {
	return &raftv1.Command{Verb: &raftv1.Command_PurgeDivergentCopy{PurgeDivergentCopy: &raftv1.PurgeDivergentCopy{}}}
}

// TestNewCommandsWaitForTheLastMember plays an upgrade, node by node.
func TestNewCommandsWaitForTheLastMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGated(map[string]uint32{"old": 1, "away": 0, "new": raftfsm.CommandVersion})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.run(ctx, g.propose) }()
		err := g.pass(ctx, purge())
		var refusal *raftfsm.Error
		if !errors.As(err, &refusal) || refusal.Code != raftfsm.FailedPrecondition ||
			!strings.Contains(err.Error(), "node old at old runs a tarn of command version 1") ||
			!strings.Contains(err.Error(), "node away at away does not answer") {
			t.Fatalf("with two members behind: %v", err)
		}
		if err := g.pass(ctx, &raftv1.Command{Verb: &raftv1.Command_PutQuota{}}); err != nil {
			t.Fatalf("a command of version 1: %v", err)
		}
		if len(g.Behind()) != 2 {
			t.Errorf("behind: %v", g.Behind())
		}
		g.upgrade("old", raftfsm.CommandVersion)
		time.Sleep(2 * gatePause) // virtual
		if err := g.pass(ctx, purge()); err == nil {
			t.Fatal("passed while a member's version is unknown")
		}
		g.upgrade("away", raftfsm.CommandVersion+5)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		cmd := purge()
		if err := g.pass(ctx, cmd); err != nil || cmd.GetVersion() != raftfsm.VersionOf(purge()) || len(g.Behind()) != 0 {
			t.Errorf("all upgraded: %v, stamped %d, behind %v", err, cmd.GetVersion(), g.Behind())
		}
		if got := g.fsm.View().CommandVersion(); got != raftfsm.CommandVersion {
			t.Errorf("the cluster is at %d", got)
		}
		cancel()
	})
}

// TestANewClusterIsNotRefused: what comes before the first round waits for it.
func TestANewClusterIsNotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGated(nil)
		passed := make(chan error, 1)
		go func() { passed <- g.pass(t.Context(), purge()) }()
		synctest.Wait()
		if len(passed) != 0 {
			t.Fatal("it did not wait")
		}
		if err := g.run(t.Context(), g.propose); err != nil {
			t.Fatal(err)
		}
		if err := <-passed; err != nil {
			t.Error(err)
		}
	})
}
