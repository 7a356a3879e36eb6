package raftfsm

import (
	"slices"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func (tx *txn) createSnapshot(c *raftv1.CreateSnapshot) (*tarnv1.Snapshot, *Error) {
	asked := c.GetSnapshot()
	if asked.GetId() == "" {
		return nil, refuse(InvalidArgument, "id", "must be set")
	}
	if old, exists := tx.s.snapshot(asked.GetId()); exists {
		if old.GetShareId() != asked.GetShareId() || old.GetName() != asked.GetName() || old.GetDescription() != asked.GetDescription() ||
			old.GetManagedFrom() != asked.GetManagedFrom() {
			return nil, refuse(AlreadyExists, "id", "snapshot %q exists with other content", asked.GetId())
		}
		return old, nil
	}
	s, ok := tx.s.share(asked.GetShareId())
	if !ok {
		return nil, missing("share_id", "share", asked.GetShareId())
	}
	if err := tx.checkSnapshottable(s, asked); err != nil {
		return nil, err
	}
	snap := &tarnv1.Snapshot{
		Id: asked.GetId(), ShareId: s.GetId(), ProjectId: s.GetProjectId(), UserId: asked.GetUserId(),
		Name: asked.GetName(), Description: asked.GetDescription(), SizeGib: s.GetSizeGib(),
		ShareProto: s.GetShareProto(), Metadata: asked.GetMetadata(), CreatedAt: tx.now, ManagedFrom: asked.GetManagedFrom(),
	}
	if err := tx.checkQuotaOf(snap.GetProjectId(), snap.GetUserId(), s.GetShareTypeId(), snapshotUse(snap)); err != nil {
		return nil, err
	}
	tx.putSnapshot(snap)
	return snap, tx.spreadInstances(snap, c.GetInstanceIds())
}

func (tx *txn) checkSnapshottable(s *tarnv1.Share, asked *tarnv1.Snapshot) *Error {
	if !s.GetSnapshotSupport() {
		return refuse(FailedPrecondition, "share_id", "the type of the share has no snapshot_support")
	}
	if st := tx.s.shareStatus(s); st != tarnv1.Status_STATUS_AVAILABLE {
		return refuse(FailedPrecondition, "share_id", "share is %s; take the snapshot when it is available", statusWord(st))
	}
	if err := tx.checkManagedSnapshot(s, asked.GetManagedFrom()); err != nil {
		return err
	}
	if err := checkNames(asked.GetName(), asked.GetDescription()); err != nil {
		return err
	}
	return checkMetadata(asked.GetMetadata())
}

// spreadInstances gives every replica of the share its instance of a new snapshot.
func (tx *txn) spreadInstances(snap *tarnv1.Snapshot, ids map[string]string) *Error {
	for _, r := range tx.s.replicasInOrder(snap.GetShareId()) {
		id := ids[r.GetId()]
		if id == "" {
			return refuse(Aborted, "instance_ids", "replica %s was made meanwhile; read the share again and retry", r.GetId())
		}
		if err := tx.addInstance(id, snap, r.GetId()); err != nil {
			return err
		}
	}
	return nil
}

func (tx *txn) updateSnapshot(c *raftv1.UpdateSnapshot) (*tarnv1.Snapshot, *Error) {
	old, ok := tx.s.snapshot(c.GetId())
	if !ok {
		return nil, missing("id", "snapshot", c.GetId())
	}
	if want := c.GetExpectedRevision(); want != 0 && want != old.GetRevision() {
		return nil, stale("snapshot", c.GetId(), old.GetRevision(), want)
	}
	if err := checkNames(c.GetName(), c.GetDescription()); err != nil {
		return nil, err
	}
	next := proto.CloneOf(old)
	if c.Name != nil {
		next.Name = c.GetName()
	}
	if c.Description != nil {
		next.Description = c.GetDescription()
	}
	return tx.saveSnapshot(old, next), nil
}

func (tx *txn) saveSnapshot(old, next *tarnv1.Snapshot) *tarnv1.Snapshot {
	if proto.Equal(old, next) {
		return old
	}
	next.UpdatedAt = tx.now
	tx.putSnapshot(next)
	return next
}

// deleteSnapshot marks the snapshot; its record goes with its last instance. Force
// accepts any status and does not wait for hosts that are down.
func (tx *txn) deleteSnapshot(c *raftv1.DeleteSnapshot) (*tarnv1.Snapshot, *Error) {
	snap, ok := tx.s.snapshot(c.GetId())
	if !ok {
		return nil, missing("id", "snapshot", c.GetId())
	}
	if err := tx.checkSnapshotDeletable(snap, c.GetForce()); err != nil {
		return nil, err
	}
	next := proto.CloneOf(snap)
	next.Deleting = true
	next = tx.saveSnapshot(snap, next)
	for _, i := range slices.Collect(tx.s.instancesOf(snap.GetId())) {
		tx.condemnInstance(next, i, c.GetForce())
	}
	tx.sweepSnapshot(snap.GetId())
	return next, nil
}

func (tx *txn) checkSnapshotDeletable(snap *tarnv1.Snapshot, force bool) *Error {
	st := tx.s.snapshotStatus(snap)
	if st != tarnv1.Status_STATUS_AVAILABLE && st != tarnv1.Status_STATUS_ERROR && st != tarnv1.Status_STATUS_MANAGE_ERROR &&
		!snap.GetDeleting() && !force {
		return refuse(FailedPrecondition, "status", "snapshot is %s; wait until it is available, or force the deletion", statusWord(st))
	}
	for clone := range tx.s.clonesOf(snap.GetId()) {
		for r := range tx.s.replicasOf(clone.GetId()) {
			if r.GetStatus() == tarnv1.Status_STATUS_CREATING_FROM_SNAPSHOT {
				return refuse(FailedPrecondition, "id", "share %s is being made from the snapshot; wait until it is available", clone.GetId())
			}
		}
	}
	return nil
}

// condemnInstance drops an instance of which nothing can exist, or for which force
// does not wait; the others wait for their host's word.
func (tx *txn) condemnInstance(snap *tarnv1.Snapshot, i *tarnv1.SnapshotInstance, force bool) {
	s, _ := tx.s.share(snap.GetShareId())
	r, _ := tx.s.replica(i.GetReplicaId())
	h, _ := tx.s.host(r.GetHostId())
	neverTaken := snap.GetGuid() == 0 && s.GetFencing().GetOwnerReplicaId() != r.GetId()
	if neverTaken || (force && h.GetState() != tarnv1.HostState_HOST_STATE_UP) {
		tx.dropInstance(i)
		return
	}
	leaving := tarnv1.Status_STATUS_DELETING
	if snap.GetUnmanaging() {
		leaving = tarnv1.Status_STATUS_UNMANAGE_STARTING
	}
	if i.GetStatus() == leaving {
		return
	}
	next := proto.CloneOf(i)
	next.Status, next.UpdatedAt = leaving, tx.now
	tx.putInstance(next)
}

// removeInstance takes one instance away, and the snapshot with the last one.
func (tx *txn) removeInstance(i *tarnv1.SnapshotInstance) {
	tx.dropInstance(i)
	tx.sweepSnapshot(i.GetSnapshotId())
}

func (tx *txn) sweepSnapshot(id string) {
	snap, ok := tx.s.snapshot(id)
	if !ok || !snap.GetDeleting() {
		return
	}
	if _, left := first(tx.s.instancesOf(id)); !left {
		tx.dropSnapshot(snap)
	}
}

// resetSnapshotStatus corrects the instance on the active replica by hand.
func (tx *txn) resetSnapshotStatus(c *raftv1.ResetSnapshotStatus) (*tarnv1.Snapshot, *Error) {
	snap, ok := tx.s.snapshot(c.GetId())
	if !ok {
		return nil, missing("id", "snapshot", c.GetId())
	}
	to := c.GetStatus()
	s, _ := tx.s.share(snap.GetShareId())
	i, found := tx.s.instanceOn(snap.GetId(), s.GetFencing().GetOwnerReplicaId())
	switch {
	case !resettable(to):
		return nil, refuse(InvalidArgument, "status", "cannot be reset to %s", statusWord(to))
	case snap.GetDeleting():
		return nil, refuse(FailedPrecondition, "id", "the snapshot is being deleted; force the deletion instead")
	case !found:
		return nil, refuse(FailedPrecondition, "id", "the snapshot has no instance on the active replica")
	case to == tarnv1.Status_STATUS_AVAILABLE && snap.GetGuid() == 0:
		return nil, refuse(FailedPrecondition, "status", "the snapshot was never taken; delete it and take another")
	}
	next := proto.CloneOf(i)
	next.Status, next.UpdatedAt = to, tx.now
	tx.putInstance(next)
	changed := proto.CloneOf(snap)
	changed.UpdatedAt = tx.now
	tx.putSnapshot(changed)
	return changed, nil
}
