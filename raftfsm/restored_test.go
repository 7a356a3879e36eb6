package raftfsm

import (
	"bytes"
	"slices"
	"testing"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// fromBackup puts the state of n back from a backup of it.
func (n *node) fromBackup() {
	n.t.Helper()
	var state bytes.Buffer
	if err := RestoredState(&state, bytes.NewReader(dump(n.t, n.f.View()))); err != nil {
		n.t.Fatalf("%v", err)
	}
	n.f = restored(n.t, state.Bytes())
	n.gap += RestoredGap
}

func found(share string, f *raftv1.FoundEpochs) *raftv1.Transitions {
	return &raftv1.Transitions{Shares: []*raftv1.ShareTransition{{Id: share, Found: f}}}
}

func TestRestoredSharesWaitForEveryReplica(t *testing.T) {
	n := world(t)
	n.replicated("s", "dr")
	if Unsettled(n.getShare("s")) {
		t.Fatal("a share that was never restored is not settled")
	}
	n.fromBackup()
	if got := n.getShare("s").GetFencing().GetUnheardReplicaIds(); !slices.Equal(got, []string{"s-r1", "s-r2"}) {
		t.Fatalf("to be heard are %v", got)
	}
	planned := tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	n.refused(FailedPrecondition, "id", &raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1, AllowOutOfSync: true})
	n.drops(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 2, HeardReplicaIds: []string{"s-r1"}}), 1)
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: []string{"s-r1", "other"}}))
	if !Unsettled(n.getShare("s")) {
		t.Error("one that is silent is not waited for")
	}
	checkInvariants(t, n.f.View())
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: []string{"s-r2"}}))
	if Unsettled(n.getShare("s")) {
		t.Error("all were heard")
	}
	// A replica that is lost for good is deleted, and not waited for any more.
	n.fromBackup()
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: []string{"s-r1"}}))
	n.do(&raftv1.DeleteReplica{Id: "s-r2", Force: true})
	if Unsettled(n.getShare("s")) {
		t.Errorf("waits for one that is gone: %v", n.getShare("s").GetFencing())
	}
}

func TestNewerReplicaIsPromotedAboveItsEpoch(t *testing.T) {
	n := world(t)
	n.replicated("s", "dr")
	n.fromBackup()
	both := []string{"s-r1", "s-r2"}
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: both, NewerEpoch: 4, NewerReplicaId: "s-r2", HeadGuid: 9}))
	f := n.getShare("s").GetFencing()
	if !Unsettled(n.getShare("s")) || f.GetNewerEpoch() != 4 || f.GetNewerReplicaId() != "s-r2" || f.GetEpoch() != 1 || f.GetOwnerReplicaId() != "s-r1" {
		t.Fatalf("found: %v", f)
	}
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, NewerEpoch: 3, NewerReplicaId: "s-r1"})) // late news
	n.refused(FailedPrecondition, "id", &raftv1.PromoteReplica{Id: "s-r2", OpId: "p", Mode: planned, ExpectedEpoch: 1, AllowOutOfSync: true})
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, AllowOutOfSync: true, Consent: &tarnv1.Consent{}})
	if f := n.getShare("s").GetFencing(); f.GetEpoch() != 4 || f.GetNewerReplicaId() != "s-r2" {
		t.Fatalf("the promotion runs under %v", f)
	}
	// Taken back, the share is as unsettled as before.
	n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: "op"})
	if f := n.getShare("s").GetFencing(); f.GetEpoch() != 5 || !Unsettled(n.getShare("s")) {
		t.Fatalf("cancelled: %v", f)
	}
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op2", Mode: forced, ExpectedEpoch: 5, AllowOutOfSync: true, Consent: &tarnv1.Consent{}})
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op2", Epoch: 5, HeadGuid: 9})
	n.do(&raftv1.CommitProof{ShareId: "s", OpId: "op2", Epoch: 5, Proof: tarnv1.FencingProof_FENCING_PROOF_LEASE_EXPIRED, Loss: &tarnv1.LossReport{KeptGuid: 9, EpochFrom: 5, EpochTo: 6, Bound: "at_least"}})
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op2", Epoch: 5, HeadGuid: 9})
	if f := n.getShare("s").GetFencing(); f.GetEpoch() != 6 || f.GetOwnerReplicaId() != "s-r2" || Unsettled(n.getShare("s")) {
		t.Fatalf("afterwards: %v", f)
	}
	checkInvariants(t, n.f.View())
}

// An owner that is ahead of the restored state goes on above what it has seen, when all
// others have spoken and none is as far.
func TestOwnerGoesOnAboveWhatItHasSeen(t *testing.T) {
	n := world(t)
	n.replicated("s", "dr")
	n.fromBackup()
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: []string{"s-r1"}, NewerEpoch: 3, NewerReplicaId: "s-r1", HeadGuid: 7}))
	if f := n.getShare("s").GetFencing(); f.GetEpoch() != 1 || f.GetNewerEpoch() != 3 {
		t.Fatalf("while one is silent: %v", f)
	}
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, HeardReplicaIds: []string{"s-r2"}, NewerEpoch: 3, NewerReplicaId: "s-r1", HeadGuid: 7}))
	f := n.getShare("s").GetFencing()
	last := f.GetLineage()[len(f.GetLineage())-1]
	if f.GetEpoch() != 4 || f.GetOwnerReplicaId() != "s-r1" || Unsettled(n.getShare("s")) || last.GetBaseGuid() != 7 || last.GetEpoch() != 4 {
		t.Fatalf("afterwards: %v", f)
	}
	checkInvariants(t, n.f.View())
}

// Of a promotion that was running when the backup was made, the floor of its sides is no
// news; and a state that was never restored takes no news of the kind at all.
func TestFloorOfAPromotionIsNoNews(t *testing.T) {
	n := world(t)
	n.replicated("s", "dr")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, AllowOutOfSync: true, Consent: &tarnv1.Consent{}})
	n.fromBackup()
	n.move(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, NewerEpoch: 2, NewerReplicaId: "s-r2", HeadGuid: 9}))
	if f := n.getShare("s").GetFencing(); f.GetNewerEpoch() != 0 {
		t.Errorf("taken for one of before a restore: %v", f)
	}
	fresh := world(t)
	fresh.replicated("s", "dr")
	fresh.drops(found("s", &raftv1.FoundEpochs{ExpectedEpoch: 1, NewerEpoch: 7, NewerReplicaId: "s-r1"}), 1)
}
