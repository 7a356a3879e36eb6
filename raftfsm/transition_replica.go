package raftfsm

import (
	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func (tx *txn) moveReplica(t *raftv1.ReplicaTransition) bool {
	old, ok := tx.s.replica(t.GetId())
	if want := t.GetExpectedRevision(); !ok || (want != 0 && want != old.GetRevision()) {
		return false
	}
	if t.GetGone() {
		// What failed may still succeed: the host goes on trying.
		if st := old.GetStatus(); !leaving(st) && st != tarnv1.Status_STATUS_ERROR_DELETING {
			return false
		}
		tx.removeReplica(old)
		return true
	}
	s, _ := tx.s.share(old.GetShareId())
	if !mayMoveStatus(s, old, t.GetStatus()) || !mayMoveState(s, old, t.GetReplicaState()) || !sizeKnown(s, old, t) {
		return false
	}
	next := tx.movedReplica(s, old, t)
	if next.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC &&
		old.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC && !tx.mayBeInSync(next) {
		return false
	}
	tx.saveReplica(old, next)
	if t.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
		s = tx.settleSize(s, next, next.GetAppliedSizeGib())
	}
	tx.purgeRules(s)
	return true
}

// sizeKnown: a share becomes available with a size, its own or what was found.
func sizeKnown(s *tarnv1.Share, r *tarnv1.Replica, t *raftv1.ReplicaTransition) bool {
	found := max(s.GetSizeGib(), t.GetAppliedSizeGib(), r.GetAppliedSizeGib()) > 0
	return found || s.GetFencing().GetOwnerReplicaId() != r.GetId() || t.GetStatus() != tarnv1.Status_STATUS_AVAILABLE
}

// mayMoveStatus: reports end a creation, raise and heal errors. They neither start
// nor end a deletion, and a running promotion keeps its target's status.
func mayMoveStatus(s *tarnv1.Share, r *tarnv1.Replica, to tarnv1.Status) bool {
	target := fencing(s) && s.GetFencing().GetTargetReplicaId() == r.GetId()
	switch to {
	case tarnv1.Status_STATUS_UNSPECIFIED:
		return true
	case tarnv1.Status_STATUS_AVAILABLE:
		return !leaving(r.GetStatus()) && !target
	case tarnv1.Status_STATUS_ERROR:
		return !leaving(r.GetStatus()) && !managing(r.GetStatus()) && !target
	case tarnv1.Status_STATUS_MANAGE_ERROR:
		return r.GetStatus() == tarnv1.Status_STATUS_MANAGE_STARTING
	case tarnv1.Status_STATUS_UNMANAGE_ERROR:
		return unmanaging(r.GetStatus())
	case tarnv1.Status_STATUS_ERROR_DELETING:
		return r.GetStatus() == tarnv1.Status_STATUS_DELETING
	}
	return false
}

// mayMoveState: active is never reported into being, nor out of it (manila semantics 2.2).
func mayMoveState(s *tarnv1.Share, r *tarnv1.Replica, to tarnv1.ReplicaState) bool {
	switch to {
	case tarnv1.ReplicaState_REPLICA_STATE_UNSPECIFIED:
		return true
	case tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC, tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC, tarnv1.ReplicaState_REPLICA_STATE_ERROR:
		return checkSecondary(s, r) == nil && !leaving(r.GetStatus())
	}
	return false
}

func (tx *txn) movedReplica(s *tarnv1.Share, old *tarnv1.Replica, t *raftv1.ReplicaTransition) *tarnv1.Replica {
	next := proto.CloneOf(old)
	if t.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_UNSPECIFIED {
		next.ReplicaState = t.GetReplicaState()
	}
	if t.GetStatus() != tarnv1.Status_STATUS_UNSPECIFIED {
		next.Status = t.GetStatus()
	}
	if t.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
		tx.becomeAvailable(s, next)
	}
	if t.GetSetExportLocations() {
		next.ExportLocations = tx.mergeExports(old, t.GetExportLocations())
	}
	applyFacts(next, t)
	return next
}

func (tx *txn) becomeAvailable(s *tarnv1.Share, next *tarnv1.Replica) {
	if next.GetLaunchedAt() == nil {
		next.LaunchedAt = tx.now
	}
	if writable(s) {
		next.ReplicaState = tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
	}
}

func applyFacts(next *tarnv1.Replica, t *raftv1.ReplicaTransition) {
	if t.AppliedAccessRevision != nil {
		next.AppliedAccessRevision = t.GetAppliedAccessRevision()
	}
	if t.GetSetRuleErrors() {
		next.RuleErrors = t.GetRuleErrors()
	}
	if t.AppliedSizeGib != nil {
		next.AppliedSizeGib = t.GetAppliedSizeGib()
	}
	if t.HeadGuid != nil {
		next.HeadGuid, next.HeadCreatedAt = t.GetHeadGuid(), t.GetHeadCreatedAt()
	}
	switch {
	case t.GetError() != nil:
		next.Error = t.GetError()
	case t.GetClearError():
		next.Error = nil
	}
	if t.GetSetDivergentCopies() {
		next.DivergentCopies = t.GetDivergentCopies()
	}
}

// mergeExports keeps id and age of a location whose path is reported again (manila
// semantics 1.8).
func (tx *txn) mergeExports(r *tarnv1.Replica, reported []*tarnv1.ExportLocation) []*tarnv1.ExportLocation {
	known := map[string]*tarnv1.ExportLocation{}
	for _, e := range r.GetExportLocations() {
		known[e.GetPath()] = e
	}
	var out []*tarnv1.ExportLocation
	for _, e := range reported {
		next := &tarnv1.ExportLocation{
			Id: e.GetId(), ShareId: r.GetShareId(), ReplicaId: r.GetId(), Path: e.GetPath(),
			Preferred: e.GetPreferred(), IsAdminOnly: e.GetIsAdminOnly(), CreatedAt: tx.now,
		}
		if old, ok := known[e.GetPath()]; ok {
			next.Id, next.CreatedAt, next.UpdatedAt = old.GetId(), old.GetCreatedAt(), old.GetUpdatedAt()
			if old.GetPreferred() != next.GetPreferred() || old.GetIsAdminOnly() != next.GetIsAdminOnly() {
				next.UpdatedAt = tx.now
			}
		}
		out = append(out, next)
	}
	return out
}

// mayBeInSync: the replica is available and holds every snapshot that its share
// shows as available (manila semantics 2.4, DESIGN law 4).
func (tx *txn) mayBeInSync(r *tarnv1.Replica) bool {
	if r.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
		return false
	}
	for snap := range tx.s.snapshotsOf(r.GetShareId()) {
		if tx.s.snapshotStatus(snap) != tarnv1.Status_STATUS_AVAILABLE {
			continue
		}
		i, ok := tx.s.instanceOn(snap.GetId(), r.GetId())
		if !ok || i.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
			return false
		}
	}
	return true
}
