package raftfsm

import (
	"fmt"
	"testing"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// atVersion is a world with a replicated share under a command version.
func atVersion(t *testing.T, version uint32) *node {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: version})
	n.replicated("s", "readable")
	return n
}

func ruleFor(i int) *raftv1.AllowAccess {
	return &raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{
		Id: fmt.Sprint("rule", i), ShareId: "s", AccessType: "ip", AccessTo: fmt.Sprintf("10.0.%d.%d", i/256, i%256),
		AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW,
	}}
}

// TestRulesOfAShareAreBounded: everything that a host has to know travels in one answer,
// so that the rules of one project's share must not keep it from the others.
func TestRulesOfAShareAreBounded(t *testing.T) {
	n := atVersion(t, RulesVersion)
	for i := range maxRules {
		n.do(ruleFor(i))
	}
	n.refused(ResourceExhausted, "share_id", ruleFor(maxRules))
	n.do(ruleFor(0)) // exists
	n.do(&raftv1.DenyAccess{Id: "rule0"})
	n.refused(ResourceExhausted, "share_id", ruleFor(maxRules)) // hosts still apply it
	for _, r := range []string{"s-r1", "s-r2"} {
		n.applied(r)
	}
	n.do(ruleFor(maxRules))

	old := atVersion(t, RulesVersion-1)
	for i := range maxRules + 1 {
		old.do(ruleFor(i))
	}
	old.do(&raftv1.SetCommandVersion{Version: RulesVersion})
	old.do(&raftv1.UpdateAccess{Id: "rule7", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RO})
	old.refused(ResourceExhausted, "share_id", ruleFor(maxRules+1))
}

// TestLineageIsBounded: whoever promotes and cancels all day does not make the share's
// record, and what each of its hosts is told, grow for ever.
func TestLineageIsBounded(t *testing.T) {
	for version, want := range map[uint32]int{LineageVersion - 1: maxLineage + 11, LineageVersion: maxLineage} {
		n := atVersion(t, version)
		for epoch := range uint64(maxLineage + 10) {
			op := fmt.Sprint("op", epoch)
			n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: op, Mode: planned, ExpectedEpoch: epoch + 1, AllowOutOfSync: true})
			n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: op})
		}
		f := n.getShare("s").GetFencing()
		if got := len(f.GetLineage()); got != want || f.GetLineage()[got-1].GetEpoch() != f.GetEpoch() {
			t.Errorf("version %d: %d entries to epoch %d, want %d to %d", version, got, f.GetLineage()[got-1].GetEpoch(), want, f.GetEpoch())
		}
		checkInvariants(t, n.f.View())
	}
}

// TestResyncIsNotInSync: from the moment when a replica has to compare everything nobody
// may take it for equal, nor wait for what it was.
func TestResyncIsNotInSync(t *testing.T) {
	const inSync, outOfSync = tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC, tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC
	for version, want := range map[uint32]tarnv1.ReplicaState{ResyncVersion - 1: inSync, ResyncVersion: outOfSync} {
		n := atVersion(t, version)
		n.setState("s-r2", inSync)
		n.do(&raftv1.ResyncReplica{Id: "s-r2"})
		if got := n.getReplica("s-r2"); got.GetReplicaState() != want || got.GetResyncGeneration() != 1 {
			t.Errorf("version %d: %v", version, got)
		}
	}
	n := atVersion(t, ResyncVersion)
	n.setState("s-r2", inSync)
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.do(&raftv1.ResyncReplica{Id: "s-r2"})
	if got := n.getReplica("s-r2").GetReplicaState(); got != inSync {
		t.Errorf("the target of a promotion became %v", got)
	}
}
