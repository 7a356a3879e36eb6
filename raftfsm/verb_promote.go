package raftfsm

import (
	"slices"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func fencing(s *tarnv1.Share) bool {
	return s.GetFencing().GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING
}

// Extra specs that the state machine itself goes by (controlplane/schedule reads them all).
const (
	autoFailoverSpec = "tarn:auto_failover"
	fsidOnLossSpec   = "tarn:fsid_on_loss"
	fsidKeep         = "keep"
)

// promoteReplica begins a promotion: from its commit on nobody may write until a
// proof and an Activate, or a cancel, commits the next epoch.
func (tx *txn) promoteReplica(c *raftv1.PromoteReplica, actor string) (*tarnv1.Replica, *Error) {
	r, ok := tx.s.replica(c.GetId())
	if !ok {
		return nil, missing("id", "replica", c.GetId())
	}
	if err := tx.checkPromoteRequest(c); err != nil {
		return nil, err
	}
	s, _ := tx.s.share(r.GetShareId())
	if s.GetFencing().GetOpId() == c.GetOpId() {
		return tx.promoteAgain(s, r, c, actor)
	}
	if done, err := checkPrepared(s, r, c); done || err != nil {
		return r, err
	}
	if err := tx.checkPromotable(s, r, c); err != nil {
		return nil, err
	}
	if c.GetCatchUp() && tx.s.minVersion >= CatchUpVersion {
		tx.prepare(s, r, c)
		return r, nil
	}
	next := changeShare(s)
	f := next.GetFencing()
	f.Preparing = nil
	f.Epoch = max(farthest(f), f.GetNewerEpoch())
	f.Phase, f.TargetReplicaId, f.OpId, f.Mode = tarnv1.FencingPhase_FENCING_PHASE_FENCING, r.GetId(), c.GetOpId(), c.GetMode()
	f.Proof, f.ProofDetail, f.Loss = tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED, "", nil
	clearProgress(f)
	f.Consent, f.StartedAt = c.GetConsent(), tx.now
	f.Automatic, f.Attestation = c.GetAutomatic(), c.GetAttestation()
	f.QuiesceUntil = tx.until(c)
	tx.askSecond(f, c, actor)
	tx.saveShare(s, next)
	return tx.setStatus(r, tarnv1.Status_STATUS_REPLICATION_CHANGE), nil
}

// clearProgress forgets what belongs to one promotion only.
func clearProgress(f *tarnv1.Fencing) {
	f.FinalGuid, f.Consent, f.Sealed, f.SealedGuid, f.Attestation, f.Second, f.QuiesceUntil = 0, nil, false, 0, "", nil, nil
}

func (tx *txn) setStatus(r *tarnv1.Replica, st tarnv1.Status) *tarnv1.Replica {
	next := proto.CloneOf(r)
	next.Status = st
	return tx.saveReplica(r, next)
}

func (tx *txn) checkPromoteRequest(c *raftv1.PromoteReplica) *Error {
	if c.GetOpId() == "" {
		return refuse(InvalidArgument, "op_id", "must be set")
	}
	if err := checkWait(c); err != nil && tx.s.minVersion >= WaitVersion {
		return err
	}
	switch c.GetMode() {
	case tarnv1.PromotionMode_PROMOTION_MODE_PLANNED:
		if c.GetAutomatic() || c.GetAttestation() != "" {
			return refuse(InvalidArgument, "mode", "only a forced promotion is automatic or attested")
		}
		return nil
	case tarnv1.PromotionMode_PROMOTION_MODE_FORCED:
		if c.GetCatchUp() {
			return refuse(InvalidArgument, "catch_up", "a forced promotion waits for nothing of its target")
		}
		if c.GetAutomatic() && c.GetAttestation() != "" {
			return refuse(InvalidArgument, "attestation", "nobody vouches for an automatic failover")
		}
		return nil
	}
	return refuse(InvalidArgument, "mode", "must be planned or forced")
}

// promoteAgain answers a repeated op_id. While no proof is committed it may force a
// planned promotion and may change the consent of a forced one.
func (tx *txn) promoteAgain(s *tarnv1.Share, r *tarnv1.Replica, c *raftv1.PromoteReplica, actor string) (*tarnv1.Replica, *Error) {
	f := s.GetFencing()
	if !fencing(s) {
		if f.GetOwnerReplicaId() == r.GetId() && f.GetProof() != tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED {
			return r, nil
		}
		return nil, refuse(FailedPrecondition, "op_id", "promotion %s has ended without this replica; begin a new one", c.GetOpId())
	}
	if f.GetTargetReplicaId() != r.GetId() {
		return nil, refuse(FailedPrecondition, "op_id", "promotion %s is of replica %s", c.GetOpId(), f.GetTargetReplicaId())
	}
	planned := tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	if c.GetMode() == planned {
		if f.GetMode() != planned {
			return nil, refuse(FailedPrecondition, "mode", "promotion %s is forced already; cancel it first", c.GetOpId())
		}
		return r, nil
	}
	if f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK && f.GetMode() == planned {
		return nil, refuse(FailedPrecondition, "mode", "the former active replica has stopped without loss; let the planned promotion finish")
	}
	if c.GetAutomatic() {
		return r, nil
	}
	if f.GetSecond() != nil && sameConsent(f, c) {
		tx.agree(s, actor)
		return r, nil
	}
	next := changeShare(s)
	tx.askSecond(next.GetFencing(), c, actor)
	next.Fencing.Mode, next.Fencing.Consent = c.GetMode(), c.GetConsent()
	// Whoever repeats an automatic failover makes it theirs.
	next.Fencing.Automatic = false
	if c.GetAttestation() != "" {
		next.Fencing.Attestation = c.GetAttestation()
	}
	tx.saveShare(s, next)
	return r, nil
}

func (tx *txn) checkPromotable(s *tarnv1.Share, r *tarnv1.Replica, c *raftv1.PromoteReplica) *Error {
	f := s.GetFencing()
	switch {
	case s.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED:
		return refuse(FailedPrecondition, "id", "the share is not replicated")
	case fencing(s):
		return refuse(FailedPrecondition, "id", "promotion %s of replica %s is running; wait or cancel it first",
			f.GetOpId(), f.GetTargetReplicaId())
	case f.GetOwnerReplicaId() == r.GetId() || r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE:
		return refuse(FailedPrecondition, "id", "replica %s is active already", r.GetId())
	case writable(s):
		return refuse(FailedPrecondition, "id", "every available replica of a writable share is active by itself")
	case c.GetExpectedEpoch() != f.GetEpoch():
		return refuse(Aborted, "expected_epoch", "the share is at epoch %d, not %d; read it again and retry",
			f.GetEpoch(), c.GetExpectedEpoch())
	case Unsettled(s) && (c.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_FORCED || c.GetAutomatic()):
		return refuse(FailedPrecondition, "id", "the state was restored from a backup, and what the share's replicas hold is not settled: `tarn share show` says what to do")
	case c.GetAutomatic() && s.GetExtraSpecs()[autoFailoverSpec] == "":
		return refuse(FailedPrecondition, "automatic", "the share's type has no %s", autoFailoverSpec)
	}
	// A forced one may count on a host that is just coming back.
	planned := c.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	if h, ok := tx.s.host(r.GetHostId()); planned && tx.s.minVersion >= 2 && ok && h.GetState() == tarnv1.HostState_HOST_STATE_DOWN {
		return refuse(FailedPrecondition, "id", "the host of replica %s is down, so that it cannot take over; nothing was stopped: promote another replica", r.GetId())
	}
	return checkTarget(r, c.GetAllowOutOfSync())
}

func checkTarget(r *tarnv1.Replica, allow bool) *Error {
	st := r.GetStatus()
	if st != tarnv1.Status_STATUS_AVAILABLE && (!allow || st != tarnv1.Status_STATUS_ERROR) {
		return refuse(FailedPrecondition, "status", "replica %s is %s; promote it when it is available", r.GetId(), statusWord(st))
	}
	if r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC && !allow {
		return refuse(FailedPrecondition, "replica_state",
			"replica %s is %s; wait until it is in_sync, or let an operator promote it", r.GetId(), stateWord(r.GetReplicaState()))
	}
	return nil
}

// cancelPromotion gives the share back to its owner, under the next epoch so that
// whatever was issued for the promotion is void. A planned promotion may be cancelled
// even after its owner stopped: it holds everything. So may a forced one whose owner
// turned up and stopped, while nobody has agreed to what would be lost. With another
// proof, or with the loss reported, it can only go on.
func (tx *txn) cancelPromotion(c *raftv1.CancelPromotion) (*tarnv1.Share, *Error) {
	s, ok := tx.s.share(c.GetShareId())
	if !ok {
		return nil, missing("share_id", "share", c.GetShareId())
	}
	f := s.GetFencing()
	if p := f.GetPreparing(); p != nil && p.GetOpId() == c.GetOpId() {
		return tx.cancelPreparation(s), nil
	}
	none := tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED
	if c.GetOpId() == "" || f.GetOpId() != c.GetOpId() {
		return nil, refuse(FailedPrecondition, "op_id", "promotion %q is not running on the share", c.GetOpId())
	}
	if !fencing(s) {
		if f.GetProof() == none {
			return s, nil
		}
		return nil, refuse(FailedPrecondition, "op_id", "promotion %s is complete; promote the former active replica to go back", c.GetOpId())
	}
	planned := f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	if c.GetUnlessForced() && !planned && !f.GetAutomatic() {
		return nil, refuse(FailedPrecondition, "unless_forced", "somebody has forced promotion %s", f.GetOpId())
	}
	if f.GetProof() != none && !planned && !tx.holdsAll(f) {
		return nil, refuse(FailedPrecondition, "op_id", "the former active replica has stopped for good in epoch %d; the promotion can only go on", f.GetEpoch())
	}
	return tx.giveBack(s), nil
}

// holdsAll: the owner has stopped by its own word, and nothing was declared lost.
func (tx *txn) holdsAll(f *tarnv1.Fencing) bool {
	return tx.s.minVersion >= 3 && f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK && f.GetLoss() == nil
}

func (tx *txn) giveBack(s *tarnv1.Share) *tarnv1.Share {
	target, ok := tx.s.replica(s.GetFencing().GetTargetReplicaId())
	if ok && target.GetStatus() == tarnv1.Status_STATUS_REPLICATION_CHANGE {
		tx.setStatus(target, tarnv1.Status_STATUS_AVAILABLE)
	}
	owner, _ := tx.owner(s)
	next := changeShare(s)
	next.Fencing.Proof = tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED
	clearProgress(next.GetFencing())
	tx.nextEpoch(next.GetFencing(), owner.GetHeadGuid())
	return tx.saveShare(s, next)
}

// maxLineage bounds the history that a share keeps of its epochs; the newest count. A
// replica that was away for longer is compared by its snapshots, as ever.
const maxLineage = 256

// nextEpoch makes f's owner active under the next epoch, continuing from base.
func (tx *txn) nextEpoch(f *tarnv1.Fencing, base uint64) {
	f.Epoch = farthest(f) + 1
	f.Phase, f.TargetReplicaId = tarnv1.FencingPhase_FENCING_PHASE_ACTIVE, ""
	f.Lineage = append(f.Lineage, &tarnv1.LineageEntry{
		Epoch: f.GetEpoch(), OwnerReplicaId: f.GetOwnerReplicaId(), BaseGuid: base, At: tx.now,
	})
	if n := len(f.GetLineage()); n > maxLineage && tx.s.minVersion >= LineageVersion {
		f.Lineage = slices.Clone(f.GetLineage()[n-maxLineage:])
	}
}

// promotionOf returns the share if op runs on it under epoch.
func (tx *txn) promotionOf(shareID, op string, epoch uint64) (*tarnv1.Share, *Error) {
	s, ok := tx.s.share(shareID)
	if !ok {
		return nil, missing("share_id", "share", shareID)
	}
	f := s.GetFencing()
	switch {
	case !fencing(s) || op == "" || f.GetOpId() != op:
		return nil, refuse(FailedPrecondition, "op_id", "promotion %q is not running on the share", op)
	case f.GetEpoch() != epoch:
		return nil, refuse(Aborted, "epoch", "the share is at epoch %d, not %d", f.GetEpoch(), epoch)
	}
	return s, nil
}

// commitDemotion notes the owner's own word that it stopped, and with which snapshot.
// If it turns up during a forced failover, the loss is exact from here on.
func (tx *txn) commitDemotion(c *raftv1.CommitDemotion) (*tarnv1.Share, *Error) {
	s, err := tx.promotionOf(c.GetShareId(), c.GetOpId(), c.GetEpoch())
	if err != nil {
		return nil, err
	}
	f := s.GetFencing()
	if c.GetFinalGuid() == 0 {
		return nil, refuse(InvalidArgument, "final_guid", "must be set")
	}
	if f.GetFinalGuid() != 0 {
		if f.GetFinalGuid() != c.GetFinalGuid() {
			return nil, refuse(FailedPrecondition, "final_guid", "the demotion ended with another snapshot")
		}
		return s, nil
	}
	next := changeShare(s)
	next.Fencing.Proof, next.Fencing.ProofDetail = tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK, ""
	next.Fencing.FinalGuid, next.Fencing.Loss = c.GetFinalGuid(), nil
	if owner, ok := tx.owner(s); ok {
		head := proto.CloneOf(owner)
		head.HeadGuid, head.HeadCreatedAt = c.GetFinalGuid(), c.GetFinalCreatedAt()
		tx.saveReplica(owner, head)
	}
	return tx.saveShare(s, next), nil
}

// commitSeal notes that the target of a forced failover takes no more data.
func (tx *txn) commitSeal(c *raftv1.CommitSeal) (*tarnv1.Share, *Error) {
	s, err := tx.promotionOf(c.GetShareId(), c.GetOpId(), c.GetEpoch())
	if err != nil {
		return nil, err
	}
	f := s.GetFencing()
	switch {
	case f.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_FORCED:
		return nil, refuse(FailedPrecondition, "op_id", "only a forced failover seals its target")
	case c.GetHeadGuid() == 0:
		return nil, refuse(InvalidArgument, "head_guid", "must be set: a replica without any snapshot cannot take over")
	case f.GetSealed() && f.GetSealedGuid() != c.GetHeadGuid():
		return nil, refuse(FailedPrecondition, "head_guid", "the target is sealed with another snapshot")
	}
	next := changeShare(s)
	next.Fencing.Sealed, next.Fencing.SealedGuid = true, c.GetHeadGuid()
	if target, ok := tx.s.replica(f.GetTargetReplicaId()); ok {
		head := proto.CloneOf(target)
		head.HeadGuid, head.HeadCreatedAt = c.GetHeadGuid(), c.GetHeadCreatedAt()
		tx.saveReplica(target, head)
	}
	return tx.saveShare(s, next), nil
}
