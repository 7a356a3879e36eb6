package raftfsm

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

const (
	creating   = tarnv1.Status_STATUS_CREATING
	available  = tarnv1.Status_STATUS_AVAILABLE
	errored    = tarnv1.Status_STATUS_ERROR
	deleting   = tarnv1.Status_STATUS_DELETING
	changing   = tarnv1.Status_STATUS_REPLICATION_CHANGE
	active     = tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
	inSync     = tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
	outOfSync  = tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC
	planned    = tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	forced     = tarnv1.PromotionMode_PROMOTION_MODE_FORCED
	proofLease = tarnv1.FencingProof_FENCING_PROOF_LEASE_EXPIRED
	proofAck   = tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK
)

func (n *node) wantStates(states map[string]tarnv1.ReplicaState) {
	n.t.Helper()
	for id, want := range states {
		if got := n.getReplica(id).GetReplicaState(); got != want {
			n.t.Errorf("replica %s is %v, want %v", id, got, want)
		}
	}
}

func (n *node) wantStatus(share string, want tarnv1.Status) {
	n.t.Helper()
	if got := n.getShare(share).GetStatus(); got != want {
		n.t.Errorf("share %s is %v, want %v", share, got, want)
	}
}

func TestShareBecomesAvailable(t *testing.T) {
	n := world(t)
	n.do(newShare("s", "readable"))
	n.wantStatus("s", creating)
	s := n.getShare("s")
	if s.GetHost() != "node1@zfs#tank" || s.GetAvailabilityZone() != "z2" || s.GetFencing().GetEpoch() != 1 || s.GetHasReplicas() {
		t.Errorf("share after create: %v", s)
	}
	n.available("s-r1")
	s = n.getShare("s")
	if s.GetStatus() != available || len(s.GetExportLocations()) != 1 || s.GetExportLocations()[0].GetReplicaState() != active {
		t.Errorf("share after report: %v", s)
	}
	if n.getReplica("s-r1").GetLaunchedAt() == nil {
		t.Errorf("launched_at is not set")
	}
	checkInvariants(t, n.f.View())
}

func TestCreateIsIdempotent(t *testing.T) {
	n := world(t)
	n.do(newShare("s", "readable"))
	again := newShare("s", "readable")
	again.Replica = &tarnv1.Replica{Id: "other", HostId: "h2", Pool: "tank"}
	rec := n.do(again).(*tarnv1.Share)
	if stored, _ := n.f.View().Share("s"); stored != rec || len(n.f.View().ReplicasOfShare("s")) != 1 {
		t.Errorf("a retried create made something new: %v", rec)
	}
}

func TestPlannedPromotionAndBack(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.promotePlanned("s", "s-r2", "op1", 1, 0xf1)
	n.wantStates(map[string]tarnv1.ReplicaState{"s-r1": outOfSync, "s-r2": active})
	if !n.getReplica("s-r1").GetCastRulesToReadonly() || n.getReplica("s-r2").GetCastRulesToReadonly() {
		t.Errorf("rules are cast on the wrong replica")
	}
	f := n.getShare("s").GetFencing()
	if f.GetEpoch() != 2 || f.GetLineage()[1].GetBaseGuid() != 0xf1 || f.GetProof() != proofAck {
		t.Errorf("fencing after promotion: %v", f)
	}
	n.setState("s-r1", inSync)
	n.promotePlanned("s", "s-r1", "op2", 2, 0xf2)
	n.wantStates(map[string]tarnv1.ReplicaState{"s-r1": active, "s-r2": outOfSync})
	checkInvariants(t, n.f.View())
}

// promotePlanned walks a planned promotion, checking the state at every step.
func (n *node) promotePlanned(share, target, op string, epoch, final uint64) {
	n.t.Helper()
	owner := n.getShare(share).GetFencing().GetOwnerReplicaId()
	n.do(&raftv1.PromoteReplica{Id: target, OpId: op, Mode: planned, ExpectedEpoch: epoch})
	n.wantStatus(share, changing)
	n.refused(FailedPrecondition, "proof", &raftv1.Activate{ShareId: share, OpId: op, Epoch: epoch, HeadGuid: final})
	n.do(&raftv1.CommitDemotion{ShareId: share, OpId: op, Epoch: epoch, FinalGuid: final})
	n.refused(FailedPrecondition, "head_guid", &raftv1.Activate{ShareId: share, OpId: op, Epoch: epoch, HeadGuid: final + 1})
	n.wantStates(map[string]tarnv1.ReplicaState{owner: active})
	n.do(&raftv1.Activate{ShareId: share, OpId: op, Epoch: epoch, HeadGuid: final})
	n.wantStatus(share, changing)
	n.available(target)
	n.wantStatus(share, available)
	n.do(&raftv1.Activate{ShareId: share, OpId: op, Epoch: epoch, HeadGuid: final})
	if got := n.getShare(share).GetFencing().GetEpoch(); got != epoch+1 {
		n.t.Errorf("epoch %d after promotion from %d", got, epoch)
	}
}

func TestForcedFailover(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.do(&raftv1.PromoteReplica{
		Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, AllowOutOfSync: true,
		Consent: &tarnv1.Consent{MaxLoss: durationpb.New(time.Second)},
	})
	proof := &raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: proofLease, Loss: &tarnv1.LossReport{
		KeptGuid: 0xb0, KeptAge: durationpb.New(2 * time.Second), Bound: "at_least", LastKnownDirtyBytes: -1,
	}}
	n.refused(FailedPrecondition, "loss", proof)
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	n.refused(FailedPrecondition, "consent", proof)
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, Consent: &tarnv1.Consent{}})
	n.do(proof)
	n.refused(FailedPrecondition, "op_id", &raftv1.CancelPromotion{ShareId: "s", OpId: "op"})
	n.refused(Aborted, "epoch", &raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 7, HeadGuid: 0xb0})
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	n.wantStates(map[string]tarnv1.ReplicaState{"s-r1": outOfSync, "s-r2": active})
	if got := n.getShare("s").GetFencing().GetLoss().GetKeptGuid(); got != 0xb0 {
		t.Errorf("the loss report is gone: kept %#x", got)
	}
	checkInvariants(t, n.f.View())
}

// TestFsidEpochOutlivesLaterPromotions: clients that were told that their file
// system is gone must not meet it again when the share moves on.
func TestFsidEpochOutlivesLaterPromotions(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	first, second := "s-r1", "s-r2"
	want := func(epoch, fsid uint64) {
		t.Helper()
		if f := n.getShare("s").GetFencing(); f.GetEpoch() != epoch || f.GetFsidEpoch() != fsid {
			t.Errorf("epoch %d with the file system of epoch %d, want %d and %d", f.GetEpoch(), f.GetFsidEpoch(), epoch, fsid)
		}
	}
	n.promotePlanned("s", second, "lossless", 1, 0xa1)
	want(2, 0)
	n.setState(first, inSync)
	n.do(&raftv1.PromoteReplica{Id: first, OpId: "lossy", ExpectedEpoch: 2, Mode: forced})
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "lossy", Epoch: 2, HeadGuid: 0xb0})
	n.do(&raftv1.CommitProof{ShareId: "s", OpId: "lossy", Epoch: 2, Proof: proofLease, Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "at_least"}})
	n.do(&raftv1.Activate{ShareId: "s", OpId: "lossy", Epoch: 2, HeadGuid: 0xb0})
	want(3, 3)
	n.available(first)
	n.setState(second, inSync)
	n.promotePlanned("s", second, "onwards", 3, 0xc0)
	want(4, 3)
}

func TestForcedFailoverOwnerTurnsUp(t *testing.T) {
	n := world(t)
	n.replicated("s", "dr")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1})
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	n.do(&raftv1.CommitDemotion{ShareId: "s", OpId: "op", Epoch: 1, FinalGuid: 0xb1})
	act := &raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0}
	n.refused(FailedPrecondition, "loss", act)
	n.do(&raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: proofAck,
		Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "exact"}})
	n.do(act)
	if n.getReplica("s-r1").GetCastRulesToReadonly() {
		t.Errorf("rules of a dr secondary are not cast")
	}
}

func TestLeaseProofNeedsEnforcement(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CommandVersion})
	weak := host(1)
	weak.FenceClass = tarnv1.FenceClass_FENCE_CLASS_NONE
	n.do(&raftv1.RegisterHost{Host: weak})
	n.replicated("s", "readable")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1})
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	proof := &raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: proofLease, Loss: &tarnv1.LossReport{KeptGuid: 0xb0}}
	n.refused(FailedPrecondition, "proof", proof)
	proof.Proof = tarnv1.FencingProof_FENCING_PROOF_OPERATOR_ATTESTED
	n.refused(FailedPrecondition, "proof", proof)
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, Attestation: "alice: switched off"})
	n.do(proof)
}

func TestCancelPromotion(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.refused(FailedPrecondition, "op_id", &raftv1.CancelPromotion{ShareId: "s", OpId: "other"})
	for range 2 {
		n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: "op"})
	}
	n.wantStatus("s", available)
	if f := n.getShare("s").GetFencing(); f.GetEpoch() != 2 || f.GetOwnerReplicaId() != "s-r1" {
		t.Errorf("fencing after cancel: %v", f)
	}
	n.refused(FailedPrecondition, "op_id", &raftv1.CommitDemotion{ShareId: "s", OpId: "op", Epoch: 1, FinalGuid: 1})
	n.refused(FailedPrecondition, "op_id", &raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 2})
	checkInvariants(t, n.f.View())
}

func TestCancelAfterDemotionKeepsTheOwner(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.do(&raftv1.CommitDemotion{ShareId: "s", OpId: "op", Epoch: 1, FinalGuid: 0xf1})
	n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: "op"})
	if f := n.getShare("s").GetFencing(); f.GetLineage()[1].GetBaseGuid() != 0xf1 || f.GetOwnerReplicaId() != "s-r1" {
		t.Errorf("fencing after cancel: %v", f)
	}
	n.refused(FailedPrecondition, "op_id", &raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xf1})
}

func TestPlannedTurnsForced(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1})
	if got := n.getShare("s").GetFencing().GetMode(); got != forced {
		t.Errorf("mode %v after forcing", got)
	}
	n.refused(FailedPrecondition, "mode", &raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
}

// TestCancelSparesWhatWasForced: the leader takes a promotion back that it saw planned, or
// automatic, while somebody forces it.
func TestCancelSparesWhatWasForced(t *testing.T) {
	cancel := &raftv1.CancelPromotion{ShareId: "s", OpId: "op", UnlessForced: true}
	n := world(t)
	n.replicated("s", "readable")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1})
	n.refused(FailedPrecondition, "unless_forced", cancel)
	n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: "op"}) // a person's
	n.wantStatus("s", available)
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op2", Mode: planned, ExpectedEpoch: 2})
	n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: "op2", UnlessForced: true})
	n.wantStatus("s", available)
	checkInvariants(t, n.f.View())
}

func TestWritableReplicasAreAllActive(t *testing.T) {
	n := world(t)
	n.share("s", "writable")
	n.do(&raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: "s-r2", ShareId: "s", HostId: "h2", Pool: "tank"}})
	n.available("s-r2")
	n.wantStates(map[string]tarnv1.ReplicaState{"s-r1": active, "s-r2": active})
	n.do(&raftv1.DeleteReplica{Id: "s-r1"})
	if f := n.getShare("s").GetFencing(); f.GetOwnerReplicaId() != "s-r2" || f.GetEpoch() != 2 {
		t.Errorf("ownership did not pass on: %v", f)
	}
	n.refused(FailedPrecondition, "id", &raftv1.DeleteReplica{Id: "s-r2"})
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "s-r1", Gone: true}}})
	checkInvariants(t, n.f.View())
}

func TestDeleteGoesThroughTheHost(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.do(&raftv1.DeleteReplica{Id: "s-r2"})
	n.do(&raftv1.DeleteReplica{Id: "s-r2"})
	if got := n.getReplica("s-r2").GetStatus(); got != deleting {
		t.Errorf("status %v after delete", got)
	}
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "s-r2", Gone: true}}})
	n.do(&raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{Id: "a", ShareId: "s", AccessType: "ip", AccessTo: "10.0.0.1", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW}})
	n.do(&raftv1.DeleteShare{Id: "s"})
	n.wantStatus("s", deleting)
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "s-r1", Gone: true}}})
	if c := n.f.View().Counts(); c.Shares+c.Replicas+c.AccessRules != 0 {
		t.Errorf("something is left: %+v", c)
	}
	checkInvariants(t, n.f.View())
}

func TestForceDeleteRemovesAtOnce(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.snapshot("s", "snap")
	n.do(&raftv1.DeleteReplica{Id: "s-r2", Force: true})
	if c := n.f.View().Counts(); c.Replicas != 1 || c.SnapshotInstances != 1 {
		t.Errorf("after force delete: %+v", c)
	}
	n.refused(FailedPrecondition, "id", &raftv1.DeleteReplica{Id: "s-r1", Force: true})
	checkInvariants(t, n.f.View())
}

func TestResize(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	for range 2 {
		n.do(&raftv1.ResizeShare{Id: "s", NewSizeGib: 10})
	}
	n.wantStatus("s", tarnv1.Status_STATUS_EXTENDING)
	if u := n.f.View().Usage("p1", "", ""); u[QuotaGigabytes] != 10 || u[QuotaReplicaGigabytes] != 20 {
		t.Errorf("usage while extending: %v", u)
	}
	n.drops(&raftv1.Transitions{Shares: []*raftv1.ShareTransition{{Id: "s", ExpectedPendingSizeGib: 9, CommitSize: true}}}, 1)
	n.move(&raftv1.Transitions{Shares: []*raftv1.ShareTransition{{Id: "s", ExpectedPendingSizeGib: 10, CommitSize: true}}})
	n.wantStatus("s", available)
	n.do(&raftv1.ResizeShare{Id: "s", NewSizeGib: 1, Shrink: true})
	loss := tarnv1.Status_STATUS_SHRINKING_POSSIBLE_DATA_LOSS_ERROR
	n.move(&raftv1.Transitions{Shares: []*raftv1.ShareTransition{{Id: "s", ExpectedPendingSizeGib: 1, ResizeStatus: loss}}})
	n.wantStatus("s", loss)
	n.refused(FailedPrecondition, "status", &raftv1.ResizeShare{Id: "s", NewSizeGib: 11})
	n.do(&raftv1.ResizeShare{Id: "s", NewSizeGib: 5, Shrink: true})
	n.do(&raftv1.ResetShareStatus{Id: "s", Status: available})
	n.wantStatus("s", available)
	if s := n.getShare("s"); s.GetSizeGib() != 10 || s.GetPendingSizeGib() != 0 {
		t.Errorf("size %d, pending %d after reset", s.GetSizeGib(), s.GetPendingSizeGib())
	}
	checkInvariants(t, n.f.View())
}
