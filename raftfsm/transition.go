package raftfsm

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// transitions applies a batch that the leader derived from reports. Each item looks
// at all its guards before it changes anything, and is dropped when one fails.
// Snapshots come before replicas: what makes a replica in_sync may be in the same batch.
func (tx *txn) transitions(c *raftv1.Transitions) *Error {
	for _, t := range c.GetHosts() {
		tx.count(tx.moveHost(t))
	}
	for _, t := range c.GetSnapshots() {
		tx.count(tx.moveSnapshot(t))
	}
	for _, t := range c.GetReplicas() {
		tx.count(tx.moveReplica(t))
	}
	for _, t := range c.GetShares() {
		tx.count(tx.moveShare(t))
	}
	for _, t := range c.GetPurges() {
		tx.count(tx.endPurge(t))
	}
	tx.expireMessages()
	for _, m := range c.GetMessages() {
		tx.count(tx.addMessage(m))
	}
	return nil
}

func (tx *txn) count(applied bool) {
	if !applied {
		tx.dropped++
	}
}

func (tx *txn) moveHost(t *raftv1.HostTransition) bool {
	old, ok := tx.s.host(t.GetId())
	to := t.GetState()
	known := to == tarnv1.HostState_HOST_STATE_UP || to == tarnv1.HostState_HOST_STATE_DOWN
	if want := t.GetExpectedState(); !ok || !known || (want != 0 && want != old.GetState()) {
		return false
	}
	next := proto.CloneOf(old)
	next.State = to
	tx.saveHost(old, next)
	return true
}

func (tx *txn) moveShare(t *raftv1.ShareTransition) bool {
	if t.GetFound() != nil {
		return tx.foundEpochs(t)
	}
	s, ok := tx.s.share(t.GetId())
	pending := s.GetPendingSizeGib()
	if !ok || pending == 0 || pending != t.GetExpectedPendingSizeGib() {
		return false
	}
	next := changeShare(s)
	next.PendingSizeGib = 0
	switch {
	case t.GetCommitSize():
		next.SizeGib, next.ResizeStatus = pending, tarnv1.Status_STATUS_AVAILABLE
	case resizeEnd(t.GetResizeStatus()):
		next.ResizeStatus = t.GetResizeStatus()
	default:
		return false
	}
	tx.saveShare(s, next)
	return true
}

func resizeEnd(st tarnv1.Status) bool {
	switch st {
	case tarnv1.Status_STATUS_AVAILABLE, tarnv1.Status_STATUS_EXTENDING_ERROR, tarnv1.Status_STATUS_SHRINKING_ERROR,
		tarnv1.Status_STATUS_SHRINKING_POSSIBLE_DATA_LOSS_ERROR:
		return true
	}
	return false
}

func (tx *txn) moveSnapshot(t *raftv1.SnapshotTransition) bool {
	snap, ok := tx.s.snapshot(t.GetSnapshotId())
	inst, found := tx.s.instanceOn(t.GetSnapshotId(), t.GetReplicaId())
	if !ok || !found {
		return false
	}
	if t.GetRemoved() {
		if snap.GetDeleting() {
			tx.removeInstance(inst)
		}
		return snap.GetDeleting()
	}
	taken, fits := tx.withGUID(snap, t)
	if !fits || !mayMoveInstance(taken, t.GetStatus()) {
		return false
	}
	tx.saveSnapshot(snap, taken)
	tx.saveInstance(inst, afterTransition(inst, t))
	return true
}

// withGUID takes over the identity of a snapshot, once and from the owner only, and not
// when a failover from that owner has been told what it loses: nobody may come to rely
// on a snapshot of which the report knows nothing. The new owner takes it, then.
func (tx *txn) withGUID(snap *tarnv1.Snapshot, t *raftv1.SnapshotTransition) (*tarnv1.Snapshot, bool) {
	if t.GetGuid() == 0 || t.GetGuid() == snap.GetGuid() {
		return snap, true
	}
	s, _ := tx.s.share(snap.GetShareId())
	told := tx.s.minVersion >= 2 && fencing(s) && s.GetFencing().GetLoss() != nil
	if snap.GetGuid() != 0 || s.GetFencing().GetOwnerReplicaId() != t.GetReplicaId() || told {
		return nil, false
	}
	next := proto.CloneOf(snap)
	next.Guid, next.TakenAt = t.GetGuid(), t.GetTakenAt()
	return next, true
}

func mayMoveInstance(snap *tarnv1.Snapshot, to tarnv1.Status) bool {
	switch to {
	case tarnv1.Status_STATUS_UNSPECIFIED:
		return true
	case tarnv1.Status_STATUS_AVAILABLE:
		return !snap.GetDeleting() && snap.GetGuid() != 0
	case tarnv1.Status_STATUS_ERROR:
		return !snap.GetDeleting()
	case tarnv1.Status_STATUS_MANAGE_ERROR:
		return !snap.GetDeleting() && snap.GetManagedFrom() != "" && snap.GetGuid() == 0
	case tarnv1.Status_STATUS_ERROR_DELETING:
		return snap.GetDeleting() && !snap.GetUnmanaging()
	case tarnv1.Status_STATUS_UNMANAGE_ERROR:
		return snap.GetUnmanaging()
	}
	return false
}

func afterTransition(i *tarnv1.SnapshotInstance, t *raftv1.SnapshotTransition) *tarnv1.SnapshotInstance {
	next := proto.CloneOf(i)
	if t.GetStatus() != tarnv1.Status_STATUS_UNSPECIFIED {
		next.Status = t.GetStatus()
	}
	if next.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
		next.Progress = "100%"
	}
	if t.GetProviderLocation() != "" {
		next.ProviderLocation = t.GetProviderLocation()
	}
	return next
}

func (tx *txn) saveInstance(old, next *tarnv1.SnapshotInstance) {
	if proto.Equal(old, next) {
		return
	}
	next.UpdatedAt = tx.now
	tx.putInstance(next)
}

// Bounds of user messages (manila semantics 1.14; one tick of a failing loop must not fill the table, 8.4).
const (
	messageLife   = 30 * 24 * time.Hour
	messageRepeat = time.Hour
	expiryBatch   = 1000
)

func (tx *txn) addMessage(m *tarnv1.UserMessage) bool {
	if _, taken := tx.s.message(m.GetId()); taken || m.GetId() == "" || m.GetProjectId() == "" || tx.repeats(m) {
		return false
	}
	m.CreatedAt = tx.now
	if m.GetExpiresAt() == nil {
		m.ExpiresAt = timestamppb.New(tx.now.AsTime().Add(messageLife))
	}
	mutable(tx.own, &tx.s.messages).put(m)
	return true
}

// repeats says if the same was told of the same resource within the last hour.
func (tx *txn) repeats(m *tarnv1.UserMessage) bool {
	pivot := &tarnv1.UserMessage{ResourceId: m.GetResourceId(), DetailId: m.GetDetailId()}
	since := timestamppb.New(tx.now.AsTime().Add(-messageRepeat))
	for old := range tx.s.messages.from(messageBySubject, pivot, func(r *tarnv1.UserMessage) bool {
		return r.GetResourceId() == m.GetResourceId() && r.GetDetailId() == m.GetDetailId()
	}) {
		if compareTime(old.GetCreatedAt(), since) > 0 {
			return true
		}
	}
	return false
}

func (tx *txn) expireMessages() {
	gone := slices.Collect(func(yield func(*tarnv1.UserMessage) bool) {
		n := 0
		for m := range tx.s.messages.from(messageByExpiry, &tarnv1.UserMessage{}, func(m *tarnv1.UserMessage) bool {
			return compareTime(m.GetExpiresAt(), tx.now) <= 0
		}) {
			if n++; n > expiryBatch || !yield(m) {
				return
			}
		}
	})
	for _, m := range gone {
		mutable(tx.own, &tx.s.messages).remove(m)
	}
}
