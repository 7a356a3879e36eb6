package raftfsm

import (
	"testing"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func purge(host, replica string, guid uint64) *raftv1.PurgeDivergentCopy {
	return &raftv1.PurgeDivergentCopy{Order: &tarnv1.PurgeOrder{
		HostId: host, ReplicaId: replica, ShareId: "s", Guid: guid, Dataset: "tank/.divergent/x", Reason: "seen", RequestedBy: "somebody else",
	}}
}

// apart is a world whose share s has divergent copies 7 and 8 on h1.
func apart(t *testing.T) *node {
	n := world(t)
	n.replicated("s", "dr")
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{
		Id: "s-r1", SetDivergentCopies: true, DivergentCopies: []*tarnv1.DivergentCopy{{Guid: 7, Dataset: "a"}, {Guid: 8, Dataset: "b"}},
	}}})
	return n
}

func TestPurgeStandsUntilItsHostConfirms(t *testing.T) {
	n := apart(t)
	before, _ := n.f.View().HostRevision("h1")
	cmd := wrap(t, purge("h1", "s-r1", 7))
	cmd.Actor = "spiffe://operator"
	res := n.f.Apply(n.entry(cmd)).(*Result)
	order := res.Record.(*tarnv1.PurgeOrder)
	if res.Err != nil || order.GetRequestedBy() != "spiffe://operator" || order.GetRequestedAt() == nil || order.GetReason() != "seen" {
		t.Fatalf("order %v, %v", order, res.Err)
	}
	if after, _ := n.f.View().HostRevision("h1"); after <= before {
		t.Error("the host is not told")
	}
	if again := n.do(purge("h1", "s-r1", 7)); again != order {
		t.Errorf("asked twice: %v", again)
	}
	// What the agent says at its next start does not take the order back.
	next := host(1)
	next.SessionId = "new"
	n.do(&raftv1.RegisterHost{Host: next})
	next = host(1)
	next.SessionId, next.Purges = "newer", []*tarnv1.PurgeOrder{{Guid: 99}}
	n.do(&raftv1.RegisterHost{Host: next})
	other := restored(t, dump(t, n.f.View()))
	for _, f := range []*FSM{n.f, other} {
		if h, _ := f.View().Host("h1"); len(h.GetPurges()) != 1 || h.GetPurges()[0].GetGuid() != 7 {
			t.Errorf("orders %v", h.GetPurges())
		}
	}
	checkInvariants(t, n.f.View())
	n.drops(&raftv1.Transitions{Purges: []*raftv1.PurgeTransition{{HostId: "h1", Guid: 8}, {HostId: "h2", Guid: 7}, {HostId: "h9", Guid: 7}}}, 3)
	n.move(&raftv1.Transitions{Purges: []*raftv1.PurgeTransition{{HostId: "h1", Guid: 7}}})
	h, _ := n.f.View().Host("h1")
	r, _ := n.f.View().Replica("s-r1")
	if len(h.GetPurges()) != 0 || len(r.GetDivergentCopies()) != 1 || r.GetDivergentCopies()[0].GetGuid() != 8 {
		t.Errorf("afterwards orders %v, copies %v", h.GetPurges(), r.GetDivergentCopies())
	}
	n.refused(NotFound, "guid", purge("h1", "s-r1", 7))
}

// TestPurgeOfAnOrphan: a copy whose replica is gone, or is elsewhere now, is known
// to its host only.
func TestPurgeOfAnOrphan(t *testing.T) {
	n := apart(t)
	n.do(purge("h3", "s-r1", 70))
	n.do(purge("h1", "gone", 71))
	for guid := uint64(100); ; guid++ {
		h, _ := n.f.View().Host("h1")
		if len(h.GetPurges()) == maxPurges {
			n.refused(FailedPrecondition, "guid", purge("h1", "gone", guid))
			break
		}
		n.do(purge("h1", "gone", guid))
	}
	checkInvariants(t, n.f.View())
}
