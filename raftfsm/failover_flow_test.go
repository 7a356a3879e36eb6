package raftfsm

import (
	"testing"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// withSpecs gives the type of all readable shares to come further extra specs.
func (n *node) withSpecs(specs map[string]string) {
	n.t.Helper()
	st := &tarnv1.ShareType{Id: "t-readable", Name: "type readable", ExtraSpecs: map[string]string{specReplicationType: "readable"}}
	for k, v := range specs {
		st.ExtraSpecs[k] = v
	}
	old, _ := n.f.View().ShareType("t-readable")
	n.do(&raftv1.PutShareType{ShareType: st, ExpectedRevision: old.GetRevision()})
}

// TestAutomaticFailoverRules: only where the type asks for it, never on an
// operator's word, until the operator takes it over.
func TestAutomaticFailoverRules(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CommandVersion})
	n.replicated("plain", "readable")
	auto := func(id string, mode tarnv1.PromotionMode) *raftv1.PromoteReplica {
		return &raftv1.PromoteReplica{Id: id, OpId: "auto", Mode: mode, ExpectedEpoch: 1, Automatic: true, AllowOutOfSync: true}
	}
	n.refused(FailedPrecondition, "automatic", auto("plain-r2", forced))
	n.refused(InvalidArgument, "mode", auto("plain-r2", planned))
	n.withSpecs(map[string]string{autoFailoverSpec: "30s"})
	n.replicated("s", "readable")
	lie := auto("s-r2", forced)
	lie.Attestation = "nobody"
	n.refused(InvalidArgument, "attestation", lie)
	n.do(auto("s-r2", forced))
	n.do(auto("s-r2", forced))
	if f := n.getShare("s").GetFencing(); !f.GetAutomatic() {
		t.Errorf("it does not say that it is automatic: %v", f)
	}
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "auto", Epoch: 1, HeadGuid: 0xb0})
	proof := &raftv1.CommitProof{ShareId: "s", OpId: "auto", Epoch: 1, Proof: tarnv1.FencingProof_FENCING_PROOF_OPERATOR_ATTESTED,
		Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "at_least"}}
	n.refused(FailedPrecondition, "proof", proof)
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "auto", Mode: forced, ExpectedEpoch: 1, Attestation: "alice: the rack is dark"})
	n.do(proof)
	n.do(&raftv1.Activate{ShareId: "s", OpId: "auto", Epoch: 1, HeadGuid: 0xb0})
	if f := n.getShare("s").GetFencing(); f.GetAutomatic() || f.GetAttestation() != "" || f.GetEpoch() != 2 {
		t.Errorf("after the operator took it over: %v", f)
	}
	checkInvariants(t, n.f.View())
}

// TestConsentNamesWhatIsLost: snapshots that were promised to be safe, and the exact
// snapshot to go on from where the operator named one.
func TestConsentNamesWhatIsLost(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CommandVersion})
	n.replicated("s", "readable")
	promote := func(c *tarnv1.Consent) *raftv1.PromoteReplica {
		return &raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, Consent: c}
	}
	n.do(promote(&tarnv1.Consent{HeadGuid: 0xb1}))
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	proof := &raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: proofLease, Loss: &tarnv1.LossReport{
		KeptGuid: 0xb0, Bound: "at_least", LostSnapshots: []*tarnv1.LostSnapshot{
			{SnapshotId: "local", Guid: 0xa1}, {SnapshotId: "safe", Guid: 0xa2, Replicated: true},
		},
	}}
	n.refused(FailedPrecondition, "consent", proof)
	n.do(promote(&tarnv1.Consent{HeadGuid: 0xb0}))
	n.refused(FailedPrecondition, "consent", proof)
	n.do(promote(&tarnv1.Consent{LostGuids: []uint64{0xa1}}))
	n.refused(FailedPrecondition, "consent", proof)
	n.do(promote(&tarnv1.Consent{HeadGuid: 0xb0, LostGuids: []uint64{0xa2}}))
	n.do(proof)
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
}

// TestForcedPromotionGivenBack: whose owner turned up and stopped has lost nothing yet,
// and may be cancelled until somebody has agreed to a loss. Nodes of older versions
// refuse that, so it waits for the last of them.
func TestForcedPromotionGivenBack(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: 2})
	stopped := func(share string) *raftv1.CancelPromotion {
		n.replicated(share, "readable")
		n.do(&raftv1.PromoteReplica{Id: share + "-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1})
		n.do(&raftv1.CommitSeal{ShareId: share, OpId: "op", Epoch: 1, HeadGuid: 0xb0})
		n.do(&raftv1.CommitDemotion{ShareId: share, OpId: "op", Epoch: 1, FinalGuid: 0xb1})
		return &raftv1.CancelPromotion{ShareId: share, OpId: "op"}
	}
	cancel, told := stopped("s"), stopped("told")
	n.refused(FailedPrecondition, "op_id", cancel)
	n.do(&raftv1.SetCommandVersion{Version: 3})
	n.do(cancel)
	n.do(cancel)
	if f := n.getShare("s").GetFencing(); fencing(n.getShare("s")) || f.GetEpoch() != 2 || f.GetOwnerReplicaId() != "s-r1" || f.GetSealed() || f.GetFinalGuid() != 0 {
		t.Errorf("cancelled: %v", f)
	}
	n.do(&raftv1.CommitProof{ShareId: "told", OpId: "op", Epoch: 1, Proof: tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK,
		Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "exact"}})
	n.refused(FailedPrecondition, "op_id", told)
	checkInvariants(t, n.f.View())
}

// TestPlannedPromotionNeedsItsTargetsHost: nothing stops for a target that cannot start.
func TestPlannedPromotionNeedsItsTargetsHost(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CommandVersion})
	n.replicated("s", "readable")
	n.move(&raftv1.Transitions{Hosts: []*raftv1.HostTransition{{Id: n.getReplica("s-r2").GetHostId(), State: tarnv1.HostState_HOST_STATE_DOWN}}})
	n.refused(FailedPrecondition, "id", &raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1})
}

// TestKeptFsid: a type may ask that clients go on after a loss as if nothing was.
func TestKeptFsid(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CommandVersion})
	n.withSpecs(map[string]string{fsidOnLossSpec: fsidKeep})
	n.replicated("s", "readable")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1})
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	n.do(&raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: proofLease, Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "at_least"}})
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	if f := n.getShare("s").GetFencing(); f.GetFsidEpoch() != 0 || f.GetEpoch() != 2 {
		t.Errorf("the file system id changed: %v", f)
	}
}
