package raftfsm

import (
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// A planned promotion is prepared before it begins (reliability 3.7, P1): the owner goes
// on taking writes until its target has caught up, so that they are refused for no longer
// than the last snapshot takes. Nothing is issued to anybody for it, so it needs no epoch
// of its own, and cancelling it is no more than forgetting it.

// preparing is the promotion that is being prepared; nil if there is none.
func preparing(s *tarnv1.Share) *tarnv1.Preparation {
	if p := s.GetFencing().GetPreparing(); !p.GetCancelled() {
		return p
	}
	return nil
}

// checkPrepared says if a promotion has been prepared already, and whether what is being
// prepared stands in the way. A forced one takes the place of any.
func checkPrepared(s *tarnv1.Share, r *tarnv1.Replica, c *raftv1.PromoteReplica) (done bool, err *Error) {
	p := s.GetFencing().GetPreparing()
	planned := c.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	switch {
	case p == nil || fencing(s):
		return false, nil
	case p.GetOpId() != c.GetOpId() && !p.GetCancelled() && planned:
		return false, refuse(FailedPrecondition, "id", "promotion %s of replica %s is running, which catches up first; wait or cancel it",
			p.GetOpId(), p.GetTargetReplicaId())
	case p.GetOpId() != c.GetOpId():
		return false, nil
	case p.GetCancelled():
		return false, refuse(FailedPrecondition, "op_id", "promotion %s was cancelled; begin a new one", c.GetOpId())
	case p.GetTargetReplicaId() != r.GetId():
		return false, refuse(FailedPrecondition, "op_id", "promotion %s is of replica %s", c.GetOpId(), p.GetTargetReplicaId())
	}
	return c.GetCatchUp(), nil
}

func (tx *txn) prepare(s *tarnv1.Share, r *tarnv1.Replica, c *raftv1.PromoteReplica) {
	next := changeShare(s)
	next.Fencing.Preparing = &tarnv1.Preparation{
		TargetReplicaId: r.GetId(), OpId: c.GetOpId(), Since: tx.now, AllowOutOfSync: c.GetAllowOutOfSync(),
	}
	tx.saveShare(s, next)
}

func (tx *txn) cancelPreparation(s *tarnv1.Share) *tarnv1.Share {
	if preparing(s) == nil {
		return s
	}
	next := changeShare(s)
	next.Fencing.Preparing.Cancelled = true
	return tx.saveShare(s, next)
}

// shownReplica is the status that a replica is seen with: the target of a promotion that
// is being prepared is one that is being promoted.
func shownReplica(s *tarnv1.Share, r *tarnv1.Replica) tarnv1.Status {
	if p := preparing(s); p != nil && p.GetTargetReplicaId() == r.GetId() && r.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
		return tarnv1.Status_STATUS_REPLICATION_CHANGE
	}
	return r.GetStatus()
}
