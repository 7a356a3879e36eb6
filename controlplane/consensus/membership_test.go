package consensus

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

func TestJoinedServerGetsAVote(t *testing.T) {
	c := three(t)
	c.write("a")
	// It knows a follower only, which names the leader.
	late := c.add(func(cfg *Config) { cfg.Join = []string{c.followers()[0].addr} })
	eventually(t, "the fourth is a voter", func() bool {
		servers, err := c.leader().node.Servers()
		me, ok := find(servers, late.node.ID())
		return err == nil && ok && me.Voter
	})
	c.write("b")
	c.agree()
}

func TestAddServerKeepsAddressesApart(t *testing.T) {
	c := three(t)
	leader, other := c.leader(), c.followers()[0]
	if err := leader.node.AddServer(t.Context(), "new", other.addr); !errors.Is(err, ErrConflict) {
		t.Fatalf("taken address: %v", err)
	}
	if err := leader.node.AddServer(t.Context(), other.node.ID(), other.addr); err != nil {
		t.Fatalf("repeated: %v", err)
	}
	if err := leader.node.AddServer(t.Context(), other.node.ID(), "127.0.0.1:1"); !errors.Is(err, ErrConflict) {
		t.Fatalf("another address for a member, said by somebody else: %v", err)
	}
	var not *NotLeaderError
	if err := other.node.AddServer(t.Context(), "new", "127.0.0.1:1"); !errors.As(err, &not) {
		t.Fatalf("on a follower: %v", err)
	}
}

func TestRemovedFollowerEndsForGood(t *testing.T) {
	c := three(t)
	c.write("a")
	c.agree()
	gone := c.followers()[0]
	if err := c.leader().node.RemoveServer(t.Context(), gone.node.ID()); err != nil {
		t.Fatal(err)
	}
	if err := <-gone.done; !errors.Is(err, ErrRemoved) {
		t.Fatalf("removed server's Run gave %v", err)
	}
	gone.cancel = nil
	if err := checkDir(gone.dir, gone.node.ID()); !errors.Is(err, ErrRemoved) {
		t.Fatalf("restart of a removed server: %v", err)
	}
	c.write("b")
}

// TestRemovedWhileAwayEndsForGood: nobody tells a server that was down at its
// removal; it finds out by asking.
func TestRemovedWhileAwayEndsForGood(t *testing.T) {
	c := three(t)
	c.write("a")
	c.agree()
	gone := c.followers()[0]
	awaitMark(t, gone)
	if err := gone.stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.leader().node.RemoveServer(t.Context(), gone.node.ID()); err != nil {
		t.Fatal(err)
	}
	c.start(gone)
	if err := <-gone.done; !errors.Is(err, ErrRemoved) {
		t.Fatalf("Run gave %v", err)
	}
	gone.cancel = nil
	if err := checkDir(gone.dir, gone.node.ID()); !errors.Is(err, ErrRemoved) {
		t.Fatalf("restart of a removed server: %v", err)
	}
	c.write("b")
}

func awaitMark(t *testing.T, m *member) {
	t.Helper()
	eventually(t, "the membership is noted", func() bool { return exists(filepath.Join(m.dir, memberFile)) })
}

// TestNeverCommittedServerJoinsAgain: a server that was told of its addition by a
// leader who could not commit it has not been removed.
func TestNeverCommittedServerJoinsAgain(t *testing.T) {
	c := three(t)
	c.write("a")
	c.agree()
	leader, others := c.leader(), c.followers()
	for _, m := range others {
		m.stream.cut(true)
	}
	late := c.add(func(cfg *Config) { cfg.Join = []string{leader.addr} })
	eventually(t, "the newcomer is told, or the leader gave up before", func() bool {
		servers, err := late.node.Servers()
		_, told := find(servers, late.node.ID())
		return err == nil && told || !leader.node.IsLeader()
	})
	if err := leader.stop(); err != nil {
		t.Fatal(err)
	}
	late.node.found.learn(others[0].node.self())
	for _, m := range others {
		m.stream.cut(false)
	}
	eventually(t, "the newcomer is a voter", func() bool {
		servers, err := c.leader().node.Servers()
		me, ok := find(servers, late.node.ID())
		return err == nil && ok && me.Voter
	})
}

func TestLonelyMemberAsksAndGoesOn(t *testing.T) {
	c := three(t)
	c.write("a")
	lonely := c.followers()[0]
	awaitMark(t, lonely)
	lonely.stream.cut(true)
	eventually(t, "it hears that it is a member", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.assured[lonely.node.ID()]
	})
	lonely.stream.cut(false)
	c.write("b")
	c.agree()
}

func TestOnlyTheLeaderSaysWhoIsAMember(t *testing.T) {
	c := three(t)
	c.write("a")
	for id, want := range map[string]JoinStatus{c.followers()[0].node.ID(): JoinDone, "stranger": JoinRemoved} {
		req := JoinRequest{Server: Server{ID: id, Addr: "127.0.0.1:1"}, StillMember: true}
		if answer, err := c.leader().node.HandleJoin(t.Context(), req); err != nil || answer.Status != want {
			t.Errorf("leader says %v of %s: %v", answer.Status, id, err)
		}
		if answer, err := c.followers()[0].node.HandleJoin(t.Context(), req); err != nil || answer.Status != JoinElsewhere {
			t.Errorf("follower says %v of %s: %v", answer.Status, id, err)
		}
	}
	if servers, err := c.leader().node.Servers(); err != nil || len(servers) != 3 {
		t.Errorf("asking changed the membership: %v, %v", servers, err)
	}
}

func TestRemovedLeaderEndsForGood(t *testing.T) {
	c := three(t)
	c.write("a")
	gone := c.leader()
	if err := gone.node.RemoveServer(t.Context(), gone.node.ID()); err != nil && !errors.Is(err, ErrUnknownOutcome) {
		t.Fatal(err)
	}
	if err := <-gone.done; !errors.Is(err, ErrRemoved) {
		t.Fatalf("removed leader's Run gave %v", err)
	}
	gone.cancel = nil
	c.write("b")
}

func TestLastVoterStays(t *testing.T) {
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect = 1 })
	c.leader()
	if err := m.node.RemoveServer(t.Context(), m.node.ID()); !errors.Is(err, ErrConflict) {
		t.Fatalf("last voter: %v", err)
	}
	if err := m.node.RemoveServer(t.Context(), "nobody"); !errors.Is(err, ErrConflict) {
		t.Fatalf("unknown: %v", err)
	}
}

func TestMovedServerTellsItsNewAddress(t *testing.T) {
	c := three(t)
	c.write("a")
	moved := c.followers()[0]
	if err := moved.stop(); err != nil {
		t.Fatal(err)
	}
	before, leader := moved.addr, c.leader()
	c.mu.Lock()
	moved.addr = "127.0.0.1:0"
	c.mu.Unlock()
	moved.config = func(cfg *Config) { cfg.Join = []string{leader.addr} }
	c.start(moved)
	eventually(t, "the new address is known", func() bool {
		servers, err := c.leader().node.Servers()
		me, _ := find(servers, moved.node.ID())
		return err == nil && me.Addr == moved.addr && me.Addr != before && me.Voter
	})
	c.write("b")
	c.agree()
}

func TestConsentIsForOneSetForEver(t *testing.T) {
	c := &cluster{t: t}
	m := c.add(nil)
	eventually(t, "running", func() bool { return m.node.raft.Load() != nil })
	self := m.node.self()
	a, b := Server{ID: "a", Addr: "127.0.0.1:1"}, Server{ID: "b", Addr: "127.0.0.1:2"}
	ask := func(set ...Server) bool {
		answer, err := m.node.HandleJoin(t.Context(), JoinRequest{Server: a, Founders: set})
		if err != nil && !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
		return answer.Consent
	}
	if ask(a, b) {
		t.Fatal("consent to a set without itself")
	}
	for range 2 {
		if !ask(a, self) {
			t.Fatal("no consent to the first set, or not repeated")
		}
	}
	if ask(b, self) {
		t.Fatal("consent to a second set")
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	c.start(m)
	eventually(t, "running again", func() bool { return m.node.raft.Load() != nil })
	if ask(b, self) || !ask(a, self) {
		t.Fatal("consent forgotten by a restart")
	}
}

// More servers than are needed, each knowing one other at random: one cluster
// comes to be and holds them all.
func TestFoundingAmongTooMany(t *testing.T) {
	c := &cluster{t: t}
	for i := range 5 {
		c.add(func(cfg *Config) {
			cfg.BootstrapExpect = 3
			if i > 0 {
				cfg.Join = []string{c.members[rand.N(i)].addr}
			}
		})
	}
	eventually(t, "everyone is a voter of the same cluster", func() bool {
		for _, m := range c.members {
			servers, err := m.node.Servers()
			if err != nil || len(servers) != 5 || voters(servers) != 5 {
				return false
			}
		}
		return true
	})
	c.write("a")
	c.agree()
}

// TestRemovalKeepsAQuorum: with one of three away, the other follower stays until there
// is a replacement; the one that is away may go (reliability.md 2.2, number 15).
func TestRemovalKeepsAQuorum(t *testing.T) {
	c := three(t)
	c.write("a")
	c.agree()
	away, here := c.followers()[0], c.followers()[1]
	if err := away.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the leader misses it", func() bool {
		for _, f := range c.leader().node.Stats().FollowersSeen {
			if f.ID == away.node.ID() {
				return f.Contact < 0 || f.Contact > 2*fast().Heartbeat
			}
		}
		return false
	})
	err := c.leader().node.RemoveServer(t.Context(), here.node.ID())
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "add a replacement") {
		t.Fatalf("the follower that the majority rests on: %v", err)
	}
	if err := c.leader().node.RemoveServer(t.Context(), away.node.ID()); err != nil {
		t.Fatalf("the one that is away: %v", err)
	}
	c.write("b")
}
