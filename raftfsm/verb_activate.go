package raftfsm

import (
	"slices"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// commitProof notes why the silent owner of a forced failover cannot write any
// more, and what is lost by going on without it.
func (tx *txn) commitProof(c *raftv1.CommitProof) (*tarnv1.Share, *Error) {
	s, err := tx.promotionOf(c.GetShareId(), c.GetOpId(), c.GetEpoch())
	if err != nil {
		return nil, err
	}
	if err := tx.checkProof(s, c); err != nil {
		return nil, err
	}
	next := changeShare(s)
	next.Fencing.Proof, next.Fencing.ProofDetail, next.Fencing.Loss = c.GetProof(), c.GetDetail(), c.GetLoss()
	return tx.saveShare(s, next), nil
}

func (tx *txn) checkProof(s *tarnv1.Share, c *raftv1.CommitProof) *Error {
	f := s.GetFencing()
	ack := tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK
	switch {
	case f.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_FORCED:
		return refuse(FailedPrecondition, "op_id", "a planned promotion is proved by the demotion of its owner only")
	case !f.GetSealed():
		return refuse(FailedPrecondition, "loss", "the target is not sealed yet, so the loss is not known")
	case c.GetLoss() == nil || c.GetLoss().GetKeptGuid() != f.GetSealedGuid():
		return refuse(InvalidArgument, "loss", "must be reported against the sealed snapshot %#x", f.GetSealedGuid())
	case f.GetProof() == ack && c.GetProof() != ack:
		return refuse(FailedPrecondition, "proof", "the owner has stopped by its own word, which is the stronger proof")
	}
	if err := tx.checkProofKind(s, c.GetProof()); err != nil {
		return err
	}
	if err := tx.checkLoss(s, c.GetLoss()); err != nil {
		return err
	}
	if err := checkConsent(f, c.GetLoss()); err != nil {
		return err
	}
	return checkSecond(f, c.GetLoss())
}

// checkLoss holds the report to what is known when it is committed: a snapshot that
// the former owner told of after the leader wrote the report is missing in it. What
// is told later still is not taken in (see withGUID).
func (tx *txn) checkLoss(s *tarnv1.Share, loss *tarnv1.LossReport) *Error {
	if tx.s.minVersion < 2 {
		return nil // The nodes of version 1 do not look at it.
	}
	for snap := range tx.s.snapshotsOf(s.GetId()) {
		if snap.GetDeleting() || snap.GetGuid() == 0 {
			continue
		}
		kept, ok := tx.s.instanceOn(snap.GetId(), s.GetFencing().GetTargetReplicaId())
		if ok && kept.GetStatus() == tarnv1.Status_STATUS_AVAILABLE || listed(loss, snap) {
			continue
		}
		return refuse(Aborted, "loss", "snapshot %s is not known to be on the target, and not in the report; write it anew", snap.GetId())
	}
	return nil
}

func listed(loss *tarnv1.LossReport, snap *tarnv1.Snapshot) bool {
	return slices.ContainsFunc(loss.GetLostSnapshots(), func(l *tarnv1.LostSnapshot) bool {
		return l.GetSnapshotId() == snap.GetId() && l.GetGuid() == snap.GetGuid()
	})
}

func (tx *txn) checkProofKind(s *tarnv1.Share, proof tarnv1.FencingProof) *Error {
	switch proof {
	case tarnv1.FencingProof_FENCING_PROOF_STONITH:
		return nil
	case tarnv1.FencingProof_FENCING_PROOF_OPERATOR_ATTESTED:
		if s.GetFencing().GetAutomatic() || tx.s.minVersion >= 2 && s.GetFencing().GetAttestation() == "" {
			return refuse(FailedPrecondition, "proof", "no operator has attested in this promotion that the host is down")
		}
		return nil
	case tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK:
		if s.GetFencing().GetFinalGuid() == 0 {
			return refuse(FailedPrecondition, "proof", "the owner has not confirmed its demotion")
		}
		return nil
	case tarnv1.FencingProof_FENCING_PROOF_LEASE_EXPIRED:
		return tx.checkLeaseProof(s)
	}
	return refuse(InvalidArgument, "proof", "must be one of demote_ack, lease_expired, stonith, operator_attested")
}

// checkLeaseProof: an expired lease proves nothing where nothing enforces its end
// (reliability 3.4, 3.5).
func (tx *txn) checkLeaseProof(s *tarnv1.Share) *Error {
	owner, ok := tx.owner(s)
	if !ok {
		return nil
	}
	h, _ := tx.s.host(owner.GetHostId())
	switch h.GetFenceClass() {
	case tarnv1.FenceClass_FENCE_CLASS_HELPER, tarnv1.FenceClass_FENCE_CLASS_KERNEL, tarnv1.FenceClass_FENCE_CLASS_WATCHDOG:
		return nil
	}
	return refuse(FailedPrecondition, "proof",
		"nothing on host %s enforces the end of a lease; attest that the host is down instead", h.GetName())
}

// checkConsent holds a loss to what the operator agreed to: how old, from which
// snapshot on, and, where it was promised to be safe, each snapshot by itself
// (reliability 3.8).
func checkConsent(f *tarnv1.Fencing, loss *tarnv1.LossReport) *Error {
	c := f.GetConsent()
	if head := c.GetHeadGuid(); head != 0 && head != f.GetSealedGuid() {
		return refuse(FailedPrecondition, "consent", "the target would go on from snapshot %#x, the consent is for %#x; promote again with another head_guid, or cancel",
			f.GetSealedGuid(), head)
	}
	for _, lost := range loss.GetLostSnapshots() {
		if lost.GetReplicated() && !slices.Contains(c.GetLostGuids(), lost.GetGuid()) {
			return refuse(FailedPrecondition, "consent", "snapshot %s (%#x) was on other replicas and would be lost; name it in lost_guids, or cancel",
				lost.GetSnapshotId(), lost.GetGuid())
		}
	}
	if c.GetMaxLoss() == nil || nothingLost(loss) {
		return nil
	}
	if allowed, age := c.GetMaxLoss().AsDuration(), loss.GetKeptAge().AsDuration(); age > allowed {
		return refuse(FailedPrecondition, "consent",
			"%v of writes would be lost, the consent is for %v; promote again with a larger max_loss, or cancel", age, allowed)
	}
	return nil
}

func nothingLost(l *tarnv1.LossReport) bool {
	return l.GetBound() == "exact" && len(l.GetLostSnapshots()) == 0 && l.GetLastKnownDirtyBytes() == 0
}

// activate ends a promotion: one commit moves the epoch, the owner and every
// replica's state, so that no reader ever sees two active replicas.
func (tx *txn) activate(c *raftv1.Activate) (*tarnv1.Share, *Error) {
	s, ok := tx.s.share(c.GetShareId())
	if ok && tx.activatedBy(s, c) {
		return s, nil
	}
	s, err := tx.promotionOf(c.GetShareId(), c.GetOpId(), c.GetEpoch())
	if err != nil {
		return nil, err
	}
	if err := checkActivation(s.GetFencing(), c.GetHeadGuid()); err != nil {
		return nil, err
	}
	if _, ok := tx.s.replica(s.GetFencing().GetTargetReplicaId()); !ok {
		return nil, missing("target_replica_id", "replica", s.GetFencing().GetTargetReplicaId())
	}
	return tx.handOver(s, c.GetHeadGuid()), nil
}

// activatedBy says that the same command has done its work before.
func (tx *txn) activatedBy(s *tarnv1.Share, c *raftv1.Activate) bool {
	f := s.GetFencing()
	return !fencing(s) && c.GetOpId() != "" && f.GetOpId() == c.GetOpId() && f.GetEpoch() == c.GetEpoch()+1 &&
		f.GetProof() != tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED
}

func checkActivation(f *tarnv1.Fencing, head uint64) *Error {
	acked := f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK
	switch {
	case head == 0:
		return refuse(InvalidArgument, "head_guid", "must be set")
	case f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED:
		return refuse(FailedPrecondition, "proof", "nothing proves yet that the former active replica stopped")
	case f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED:
		if !acked || head != f.GetFinalGuid() {
			return refuse(FailedPrecondition, "head_guid", "a planned promotion needs the final snapshot %#x on its target, which holds %#x",
				f.GetFinalGuid(), head)
		}
		return nil
	case !f.GetSealed() || head != f.GetSealedGuid():
		return refuse(FailedPrecondition, "head_guid", "the target is not sealed with snapshot %#x", head)
	case f.GetLoss() == nil && (!acked || head != f.GetFinalGuid()):
		return refuse(FailedPrecondition, "loss", "the loss is not reported yet")
	}
	return nil
}

func (tx *txn) handOver(s *tarnv1.Share, head uint64) *tarnv1.Share {
	next := changeShare(s)
	f := next.GetFencing()
	former, target := f.GetOwnerReplicaId(), f.GetTargetReplicaId()
	f.OwnerReplicaId = target
	clearProgress(f)
	settle(f)
	tx.nextEpoch(f, head)
	decided(f)
	keep := tx.s.minVersion >= 2 && s.GetExtraSpecs()[fsidOnLossSpec] == fsidKeep
	if f.GetLoss() != nil && !nothingLost(f.GetLoss()) && !keep {
		f.FsidEpoch = f.GetEpoch()
	}
	// Every host applies the rules anew: what a rule allows depends on the role.
	next.AccessRevision = tx.s.index
	for _, r := range tx.s.replicasInOrder(s.GetId()) {
		tx.saveReplica(r, afterHandOver(next, r, former, head))
	}
	for _, i := range slices.Collect(tx.s.instancesOn(target)) {
		tx.settleInstance(i)
	}
	return tx.saveShare(s, next)
}

func afterHandOver(s *tarnv1.Share, r *tarnv1.Replica, former string, head uint64) *tarnv1.Replica {
	next := proto.CloneOf(r)
	switch r.GetId() {
	case s.GetFencing().GetOwnerReplicaId():
		next.ReplicaState, next.CastRulesToReadonly, next.HeadGuid = tarnv1.ReplicaState_REPLICA_STATE_ACTIVE, false, head
	case former:
		next.ReplicaState, next.CastRulesToReadonly = tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC, readable(s)
	default:
		next.CastRulesToReadonly = readable(s)
	}
	return next
}

// settleInstance: a snapshot that was taken but has not arrived on the new active
// replica never will; one that was not taken yet is the new active's to take.
func (tx *txn) settleInstance(i *tarnv1.SnapshotInstance) {
	snap, _ := tx.s.snapshot(i.GetSnapshotId())
	if i.GetStatus() != tarnv1.Status_STATUS_CREATING || snap.GetGuid() == 0 {
		return
	}
	next := proto.CloneOf(i)
	next.Status, next.UpdatedAt = tarnv1.Status_STATUS_ERROR, tx.now
	tx.putInstance(next)
}
