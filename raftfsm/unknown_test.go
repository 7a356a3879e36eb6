package raftfsm

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// strange is news of a replica that the state does not know, on host h3.
func strange(id string, epoch uint64) *tarnv1.UnknownReplica {
	return &tarnv1.UnknownReplica{ReplicaId: id, HostId: "h3", Pool: "p", Dataset: "p/" + id, Epoch: epoch}
}

// restoredWith is a restored share whose known replicas have spoken, with unknown ones.
func restoredWith(t *testing.T, unknown ...*tarnv1.UnknownReplica) *node {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: UnknownVersion})
	n.replicated("s", "dr")
	n.fromBackup()
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: []string{"s-r1", "s-r2"}, Unknown: unknown}))
	return n
}

func TestUnknownReplicasStopAShareUntilTheyAreDismissed(t *testing.T) {
	n := restoredWith(t, strange("x", 4), strange("y", 2), strange("old", 1), strange("s-r2", 9), strange("x", 5))
	s := n.getShare("s")
	if got := Undecided(s); len(got) != 2 || got[0].GetEpoch() != 4 || got[0].GetHostId() != "h3" || !Unsettled(s) || !n.f.View().Restored() {
		t.Fatalf("found %v", got)
	}
	n.refused(FailedPrecondition, "id", &raftv1.PromoteReplica{Id: "s-r2", OpId: "p", Mode: planned, ExpectedEpoch: 1, AllowOutOfSync: true})
	n.refused(FailedPrecondition, "replica_id", &raftv1.DismissUnknownReplica{ShareId: "s", ReplicaId: "old"})
	n.refused(NotFound, "share_id", &raftv1.DismissUnknownReplica{ShareId: "nope", ReplicaId: "x"})
	for range 2 {
		n.do(&raftv1.DismissUnknownReplica{ShareId: "s", ReplicaId: "x"})
	}
	if s = n.getShare("s"); !Unsettled(s) || s.GetFencing().GetEpoch() != 1 {
		t.Fatalf("one is left: %v", s.GetFencing())
	}
	if !bytes.Equal(dump(t, restored(t, dump(t, n.f.View())).View()), dump(t, n.f.View())) {
		t.Error("they do not survive a restart")
	}
	n.do(&raftv1.DismissUnknownReplica{ShareId: "s", ReplicaId: "y"})
	f := n.getShare("s").GetFencing()
	if Unsettled(n.getShare("s")) || f.GetEpoch() != 5 || f.GetOwnerReplicaId() != "s-r1" || len(f.GetUnknownReplicas()) != 0 {
		t.Errorf("dismissed: %v", f)
	}
	checkInvariants(t, n.f.View())
}

// A promotion by force is the operator's word about what was known when it began. It ends
// above all of it; what is found while it runs is still to be decided about.
func TestForcedPromotionOverUnknownReplicas(t *testing.T) {
	n := restoredWith(t, strange("x", 4))
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, AllowOutOfSync: true, Consent: &tarnv1.Consent{}})
	if f := n.getShare("s").GetFencing(); f.GetEpoch() != 4 {
		t.Fatalf("it runs under %v", f)
	}
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 4, Unknown: []*tarnv1.UnknownReplica{strange("floor", 5), strange("z", 9)}}))
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 4, HeadGuid: 9})
	n.do(&raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 4, Proof: tarnv1.FencingProof_FENCING_PROOF_LEASE_EXPIRED, Loss: &tarnv1.LossReport{KeptGuid: 9, EpochFrom: 4, EpochTo: 5, Bound: "at_least"}})
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 4, HeadGuid: 9})
	s := n.getShare("s")
	if got := Undecided(s); len(got) != 1 || got[0].GetReplicaId() != "z" || s.GetFencing().GetEpoch() != 10 || s.GetFencing().GetOwnerReplicaId() != "s-r2" {
		t.Fatalf("afterwards: %v", s.GetFencing())
	}
	n.do(&raftv1.DismissUnknownReplica{ShareId: "s", ReplicaId: "z"})
	if s = n.getShare("s"); Unsettled(s) || s.GetFencing().GetEpoch() != 11 {
		t.Errorf("dismissed: %v", s.GetFencing())
	}
	checkInvariants(t, n.f.View())
}

// Dismissed while others have not spoken: the share goes on when the last of them has, or
// is deleted.
func TestDismissedBeforeTheLastHasSpoken(t *testing.T) {
	for name, last := range map[string]any{
		"spoken":  found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: []string{"s-r2"}}),
		"deleted": &raftv1.DeleteReplica{Id: "s-r2", Force: true},
	} {
		n := world(t)
		n.do(&raftv1.SetCommandVersion{Version: UnknownVersion})
		n.replicated("s", "dr")
		n.fromBackup()
		n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: []string{"s-r1"}, Unknown: []*tarnv1.UnknownReplica{strange("x", 6)}}))
		n.do(&raftv1.DismissUnknownReplica{ShareId: "s", ReplicaId: "x"})
		if f := n.getShare("s").GetFencing(); !Unsettled(n.getShare("s")) || f.GetEpoch() != 1 {
			t.Fatalf("%s: too early: %v", name, f)
		}
		n.do(last)
		if f := n.getShare("s").GetFencing(); Unsettled(n.getShare("s")) || f.GetEpoch() != 7 || len(f.GetUnknownReplicas()) != 0 {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func TestUnknownReplicasAreBounded(t *testing.T) {
	var many []*tarnv1.UnknownReplica
	for i := range 3 * MaxUnknown {
		many = append(many, strange(fmt.Sprint("x", i), 2))
	}
	n := restoredWith(t, many...)
	if got := len(n.getShare("s").GetFencing().GetUnknownReplicas()); got != MaxUnknown {
		t.Errorf("%d are kept", got)
	}
}

func TestUnknownReplicasWaitForTheirVersion(t *testing.T) {
	with := found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, Unknown: []*tarnv1.UnknownReplica{strange("x", 2)}})
	for verb, want := range map[any]uint32{
		with: UnknownVersion, found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1}): FoundVersion,
		&raftv1.DismissUnknownReplica{}:                                       UnknownVersion,
		&raftv1.PromoteReplica{OpId: "op", Wait: durationpb.New(time.Minute)}: WaitVersion,
	} {
		if got := VersionOf(wrap(t, verb)); got != want {
			t.Errorf("%T needs version %d, want %d", verb, got, want)
		}
	}
}
