package raftfsm

import (
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// resizeShare notes the wanted size; agents apply it and a ShareTransition ends it.
func (tx *txn) resizeShare(c *raftv1.ResizeShare) (*tarnv1.Share, *Error) {
	s, ok := tx.s.share(c.GetId())
	if !ok {
		return nil, missing("id", "share", c.GetId())
	}
	running := tarnv1.Status_STATUS_EXTENDING
	if c.GetShrink() {
		running = tarnv1.Status_STATUS_SHRINKING
	}
	if s.GetPendingSizeGib() == c.GetNewSizeGib() && s.GetResizeStatus() == running {
		return s, nil
	}
	if err := tx.checkResize(s, c); err != nil {
		return nil, err
	}
	next := changeShare(s)
	next.PendingSizeGib, next.ResizeStatus, next.UpdatedAt = c.GetNewSizeGib(), running, tx.now
	n := int64(tx.s.countReplicas(s.GetId()))
	grow := shareUse(next).plus(replicaUse(next, n)).minus(shareUse(s)).minus(replicaUse(s, n))
	if err := tx.checkQuota(next, grow); err != nil {
		return nil, err
	}
	tx.putShare(next)
	return next, nil
}

func (tx *txn) checkResize(s *tarnv1.Share, c *raftv1.ResizeShare) *Error {
	st := tx.s.shareStatus(s)
	retry := c.GetShrink() && st == tarnv1.Status_STATUS_SHRINKING_POSSIBLE_DATA_LOSS_ERROR
	switch {
	case st != tarnv1.Status_STATUS_AVAILABLE && !retry:
		return refuse(FailedPrecondition, "status", "share is %s; resize it when it is available", statusWord(st))
	case s.GetPendingSizeGib() != 0:
		return refuse(FailedPrecondition, "status", "a resize to %d GiB is running; wait for it", s.GetPendingSizeGib())
	case !c.GetShrink() && c.GetNewSizeGib() <= s.GetSizeGib():
		return refuse(InvalidArgument, "new_size_gib", "is %d, must be larger than the present %d", c.GetNewSizeGib(), s.GetSizeGib())
	case c.GetShrink() && (c.GetNewSizeGib() < 1 || c.GetNewSizeGib() >= s.GetSizeGib()):
		return refuse(InvalidArgument, "new_size_gib", "is %d, must be at least 1 and smaller than the present %d",
			c.GetNewSizeGib(), s.GetSizeGib())
	}
	return nil
}

// resetShareStatus is an administrator's correction. It sets the status of the
// replica that the share shows, and ends a resize that hangs.
func (tx *txn) resetShareStatus(c *raftv1.ResetShareStatus) (*tarnv1.Share, *Error) {
	s, ok := tx.s.share(c.GetId())
	if !ok {
		return nil, missing("id", "share", c.GetId())
	}
	chosen := tx.s.chosen(s)
	if err := tx.checkResetStatus(s, chosen, c.GetStatus()); err != nil {
		return nil, err
	}
	if c.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
		next := changeShare(s)
		next.ResizeStatus, next.PendingSizeGib = tarnv1.Status_STATUS_AVAILABLE, 0
		s = tx.saveShare(s, next)
	}
	r := tx.changeReplica(chosen)
	r.Status = c.GetStatus()
	tx.putReplica(r)
	return s, nil
}

// checkResetStatus allows what Manila allows (2.1) except deleting: with
// level-triggered agents, writing that status would delete the data.
func (tx *txn) checkResetStatus(s *tarnv1.Share, r *tarnv1.Replica, to tarnv1.Status) *Error {
	if r == nil {
		return refuse(FailedPrecondition, "id", "share has no replica whose status could be reset")
	}
	if !resettable(to) {
		return refuse(InvalidArgument, "status",
			"cannot be reset to %s; allowed are available, error, creating, error_deleting, migrating, migrating_to, server_migrating",
			statusWord(to))
	}
	if s.GetFencing().GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING && s.GetFencing().GetTargetReplicaId() == r.GetId() {
		return refuse(FailedPrecondition, "status", "replica %s is being promoted; cancel the promotion first", r.GetId())
	}
	if r.GetStatus() == tarnv1.Status_STATUS_DELETING && to != tarnv1.Status_STATUS_ERROR && to != tarnv1.Status_STATUS_ERROR_DELETING {
		return refuse(FailedPrecondition, "status", "replica %s is being deleted, its data may be gone; only error and error_deleting are allowed", r.GetId())
	}
	if managing(r.GetStatus()) || unmanaging(r.GetStatus()) {
		return refuse(FailedPrecondition, "status", "replica %s is %s; wait for it, or unmanage it", r.GetId(), statusWord(r.GetStatus()))
	}
	return nil
}

func resettable(st tarnv1.Status) bool {
	switch st {
	case tarnv1.Status_STATUS_AVAILABLE, tarnv1.Status_STATUS_ERROR, tarnv1.Status_STATUS_CREATING,
		tarnv1.Status_STATUS_ERROR_DELETING, tarnv1.Status_STATUS_MIGRATING, tarnv1.Status_STATUS_MIGRATING_TO,
		tarnv1.Status_STATUS_SERVER_MIGRATING:
		return true
	}
	return false
}
