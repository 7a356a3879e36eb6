package reconcile

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// promotion advances the share's promotion by at most one step per round: the
// next one follows from what this one committed.
func (r *round) promotion(s *shareFacts) {
	if !s.fenced() {
		return
	}
	switch s.fencing.GetMode() {
	case tarnv1.PromotionMode_PROMOTION_MODE_PLANNED:
		r.planned(s)
	case tarnv1.PromotionMode_PROMOTION_MODE_FORCED:
		r.forced(s)
	}
}

// planned is P4 to P7 of reliability 3.7.
func (r *round) planned(s *shareFacts) {
	f := s.fencing
	if f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED {
		if !r.demotion(s) {
			r.quiesceTimeout(s)
		}
		return
	}
	target := s.report(f.GetTargetReplicaId())
	if final := f.GetFinalGuid(); final != 0 && target.GetHeadGuid() == final {
		r.activate(s, final)
	}
}

// demotion commits the owner's word that it has stopped.
func (r *round) demotion(s *shareFacts) bool {
	f := s.fencing
	ack := s.report(s.owner()).GetDemoteAck()
	if !acknowledges(ack, f) || ack.GetHeadGuid() == 0 {
		return false
	}
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CommitDemotion{CommitDemotion: &raftv1.CommitDemotion{
		ShareId: s.GetId(), OpId: f.GetOpId(), Epoch: f.GetEpoch(),
		FinalGuid: ack.GetHeadGuid(), FinalCreatedAt: ack.GetHeadCreatedAt(),
	}}})
	return true
}

func acknowledges(ack *tarnv1.DemoteAck, f *tarnv1.Fencing) bool {
	return ack != nil && ack.GetOpId() == f.GetOpId() && ack.GetEpoch() == f.GetEpoch()
}

func (r *round) quiesceTimeout(s *shareFacts) {
	until, ok := r.obs.Quiesce[s.fencing.GetOpId()]
	if !ok || r.obs.Now.Before(until) {
		return
	}
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CancelPromotion{CancelPromotion: &raftv1.CancelPromotion{
		ShareId: s.GetId(), OpId: s.fencing.GetOpId(),
	}}})
	about := resource{"SHARE_REPLICA", s.fencing.GetTargetReplicaId()}
	r.complain(s, about, actionPromote, detailDriver,
		"The promotion was cancelled: the active replica did not come to rest within quiesce_wait_time. Nothing has changed.")
}

func (r *round) activate(s *shareFacts, head uint64) {
	f := s.fencing
	r.propose(&raftv1.Command{Verb: &raftv1.Command_Activate{Activate: &raftv1.Activate{
		ShareId: s.GetId(), OpId: f.GetOpId(), Epoch: f.GetEpoch(), HeadGuid: head,
	}}})
}

// forced is F2 to F5 of reliability 3.8.
func (r *round) forced(s *shareFacts) {
	f := s.fencing
	if !f.GetSealed() {
		r.seal(s)
	}
	if f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED && r.demotion(s) {
		return
	}
	switch {
	case !f.GetSealed():
	case f.GetLoss() == nil:
		r.prove(s)
	default:
		r.activate(s, f.GetSealedGuid())
	}
}

func (r *round) seal(s *shareFacts) {
	f := s.fencing
	ack := s.report(f.GetTargetReplicaId()).GetSealAck()
	if !acknowledges(ack, f) || ack.GetHeadGuid() == 0 {
		return
	}
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CommitSeal{CommitSeal: &raftv1.CommitSeal{
		ShareId: s.GetId(), OpId: f.GetOpId(), Epoch: f.GetEpoch(),
		HeadGuid: ack.GetHeadGuid(), HeadCreatedAt: ack.GetHeadCreatedAt(),
	}}})
}

// prove commits the proof that the owner has stopped, with what the failover
// leaves behind, unless that is more than the operator agreed to.
func (r *round) prove(s *shareFacts) {
	proof, detail := r.proof(s)
	if proof == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED || s.report(s.fencing.GetTargetReplicaId()) == nil {
		return // What is lost cannot be said before the target has said what it holds.
	}
	loss := r.loss(s, proof)
	if limit := s.fencing.GetConsent().GetMaxLoss(); limit != nil && loss.GetKeptAge().AsDuration() > limit.AsDuration() && !nothingLost(loss) {
		r.withhold(s, loss, limit.AsDuration())
		return
	}
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CommitProof{CommitProof: &raftv1.CommitProof{
		ShareId: s.GetId(), OpId: s.fencing.GetOpId(), Epoch: s.fencing.GetEpoch(), Proof: proof, Detail: detail, Loss: loss,
	}}})
}

func (r *round) proof(s *shareFacts) (tarnv1.FencingProof, string) {
	f := s.fencing
	if p := f.GetProof(); p != tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED {
		return p, f.GetProofDetail()
	}
	owner, ok := r.view.Replica(s.owner())
	if !ok {
		return 0, ""
	}
	class := r.fenceClass(owner.GetHostId())
	if enforced(class) && r.obs.LeaseExpired(owner.GetHostId(), r.policy.LeaseWait) {
		return tarnv1.FencingProof_FENCING_PROOF_LEASE_EXPIRED,
			fmt.Sprintf("%s since the last possible grant to host %s, which enforces expiry by %s", r.policy.LeaseWait, owner.GetHostId(), className(class))
	}
	if detail, ok := r.obs.Attested[f.GetOpId()]; ok {
		return tarnv1.FencingProof_FENCING_PROOF_OPERATOR_ATTESTED, detail
	}
	return 0, ""
}

// fenceClass is the weaker of what the host registered and what it last said.
func (r *round) fenceClass(hostID string) tarnv1.FenceClass {
	host, ok := r.view.Host(hostID)
	if !ok {
		return tarnv1.FenceClass_FENCE_CLASS_NONE
	}
	class := host.GetFenceClass()
	if seen := r.obs.Hosts[hostID]; seen != nil && seen.FenceClass != tarnv1.FenceClass_FENCE_CLASS_UNSPECIFIED {
		class = min(class, seen.FenceClass)
	}
	return class
}

func enforced(c tarnv1.FenceClass) bool { return c >= tarnv1.FenceClass_FENCE_CLASS_HELPER }

func className(c tarnv1.FenceClass) string {
	switch c {
	case tarnv1.FenceClass_FENCE_CLASS_HELPER:
		return "a helper process"
	case tarnv1.FenceClass_FENCE_CLASS_KERNEL:
		return "the kernel's packet filter"
	case tarnv1.FenceClass_FENCE_CLASS_WATCHDOG:
		return "a watchdog"
	}
	return "nothing"
}

// loss says what a forced failover leaves behind. It is exact only when the
// former owner has said how it ended.
func (r *round) loss(s *shareFacts, proof tarnv1.FencingProof) *tarnv1.LossReport {
	f := s.fencing
	target := s.report(f.GetTargetReplicaId())
	l := &tarnv1.LossReport{
		EpochFrom: f.GetEpoch(), EpochTo: f.GetEpoch() + 1, KeptGuid: f.GetSealedGuid(),
		KeptCreatedAt: target.GetSealAck().GetHeadCreatedAt(), LastKnownDirtyBytes: -1, Bound: "at_least",
		LostSnapshots: s.lost(target),
	}
	if l.KeptCreatedAt == nil {
		l.KeptCreatedAt = target.GetHeadCreatedAt()
	}
	l.KeptAge = durationpb.New(r.keptAge(s, l.GetKeptCreatedAt()))
	if owner := s.heard(s.owner()); owner != nil {
		l.LastKnownDirtyBytes = owner.Report.GetDirtyBytes()
		l.LastContact = timestamppb.New(owner.At)
	}
	if proof == tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK {
		l.Bound = "exact"
		if f.GetFinalGuid() == f.GetSealedGuid() {
			l.LastKnownDirtyBytes = 0
		} else if l.LastKnownDirtyBytes == 0 {
			// The final snapshot holds what was dirty, and the target does not hold it.
			l.LastKnownDirtyBytes = -1
		}
	}
	return l
}

func nothingLost(l *tarnv1.LossReport) bool {
	return l.GetBound() == "exact" && len(l.GetLostSnapshots()) == 0 && l.GetLastKnownDirtyBytes() == 0
}

// lost lists the users' snapshots that the new lineage does not have.
func (s *shareFacts) lost(target *tarnv1.ReplicaReport) []*tarnv1.LostSnapshot {
	var out []*tarnv1.LostSnapshot
	for i := range s.snapshots {
		snap := &s.snapshots[i]
		if snap.GetDeleting() || snap.GetGuid() == 0 || hasSnapshot(target, snap.GetId(), snap.GetGuid()) {
			continue
		}
		out = append(out, &tarnv1.LostSnapshot{SnapshotId: snap.GetId(), Name: snap.GetName(), Guid: snap.GetGuid()})
	}
	return out
}

// keptAge is how far the target was behind at the most when the failover was
// decided: by its measured lag, or else by the age of its head.
func (r *round) keptAge(s *shareFacts, keptAt *timestamppb.Timestamp) time.Duration {
	started := s.fencing.GetStartedAt().AsTime()
	if lag, known := r.obs.Behind(s.heard(s.fencing.GetTargetReplicaId())); known {
		return max(0, lag-max(0, r.now.Sub(started)))
	}
	if keptAt == nil {
		return max(0, started.Sub(s.GetCreatedAt().AsTime()))
	}
	return max(0, started.Sub(keptAt.AsTime()))
}

// withhold says once per promotion that it waits for a larger consent.
func (r *round) withhold(s *shareFacts, loss *tarnv1.LossReport, limit time.Duration) {
	target, op := s.fencing.GetTargetReplicaId(), s.fencing.GetOpId()
	for m := range r.view.MessagesOfProject(s.GetProjectId()) {
		if m.GetResourceId() == target && m.GetRequestId() == op {
			return
		}
	}
	text := fmt.Sprintf("The failover would lose up to %s of changes and %d snapshots, more than the %s agreed to. "+
		"It waits: promote again with the same op_id and a larger max_loss, or cancel it.",
		loss.GetKeptAge().AsDuration().Round(time.Second), len(loss.GetLostSnapshots()), limit)
	r.batch.Messages = append(r.batch.Messages,
		r.message(s, resource{"SHARE_REPLICA", target}, actionPromote, detailUnknown, text, op))
}
