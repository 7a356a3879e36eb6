package raftfsm

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

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
		TargetReplicaId: r.GetId(), OpId: c.GetOpId(), Since: tx.now, AllowOutOfSync: c.GetAllowOutOfSync(), Until: tx.until(c),
	}
	tx.saveShare(s, next)
}

// longestWait is how long a planned promotion may be given.
const longestWait = time.Hour

// checkWait holds what a planned promotion was given to its bounds.
func checkWait(c *raftv1.PromoteReplica) *Error {
	wait := c.GetWait()
	switch {
	case wait == nil:
		return nil
	case c.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_PLANNED:
		return refuse(InvalidArgument, "wait", "a forced promotion waits for a proof, not for a time")
	case !wait.IsValid() || wait.AsDuration() <= 0 || wait.AsDuration() > longestWait:
		return refuse(InvalidArgument, "wait", "must be above 0 and %s at most", longestWait)
	}
	return nil
}

// until is when a planned promotion is taken back by the command's own words; nil for never.
func (tx *txn) until(c *raftv1.PromoteReplica) *timestamppb.Timestamp {
	if c.GetWait() == nil || tx.s.minVersion < WaitVersion {
		return nil
	}
	return timestamppb.New(tx.now.AsTime().Add(c.GetWait().AsDuration()))
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
