package raftfsm

import (
	"strings"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// instanceBegins is the status of a new instance: only the active replica has what is
// taken over, and a share that has others cannot take anything over.
func instanceBegins(snap *tarnv1.Snapshot) tarnv1.Status {
	if snap.GetManagedFrom() != "" && snap.GetGuid() == 0 {
		return tarnv1.Status_STATUS_MANAGE_STARTING
	}
	return tarnv1.Status_STATUS_CREATING
}

// checkManagedSnapshot refuses what Manila refuses (manila semantics 2.6), tarn's own
// snapshots, and to take one over twice.
func (tx *txn) checkManagedSnapshot(s *tarnv1.Share, from string) *Error {
	if from == "" {
		return nil
	}
	if strings.HasPrefix(from, "tarn.") || strings.HasPrefix(from, "tarn-") || strings.ContainsAny(from, "@/#") {
		return refuse(InvalidArgument, "managed_from", "%q is tarn's own, or no name of a snapshot", from)
	}
	if n := tx.s.countReplicas(s.GetId()); n > 1 {
		return refuse(FailedPrecondition, "share_id", "share has replicas, %d in all; manage its snapshots before it gets them", n)
	}
	for snap := range tx.s.snapshotsOf(s.GetId()) {
		if snap.GetManagedFrom() == from {
			return refuse(AlreadyExists, "managed_from", "snapshot %s was made of %s already", snap.GetId(), from)
		}
	}
	return nil
}

// unmanageSnapshot marks a snapshot to get its former name back; one that tarn took
// keeps the name that it has in the dataset.
func (tx *txn) unmanageSnapshot(c *raftv1.UnmanageSnapshot) (*tarnv1.Snapshot, *Error) {
	snap, ok := tx.s.snapshot(c.GetId())
	if !ok {
		return nil, missing("id", "snapshot", c.GetId())
	}
	if want := c.GetExpectedRevision(); want != 0 && want != snap.GetRevision() {
		return nil, stale("snapshot", c.GetId(), snap.GetRevision(), want)
	}
	if err := tx.checkSnapshotUnmanageable(snap); err != nil {
		return nil, err
	}
	next := proto.CloneOf(snap)
	next.Deleting, next.Unmanaging = true, true
	next = tx.saveSnapshot(snap, next)
	for i := range tx.s.instancesOf(snap.GetId()) {
		tx.condemnInstance(next, i, false)
		break // there is one
	}
	return next, nil
}

func (tx *txn) checkSnapshotUnmanageable(snap *tarnv1.Snapshot) *Error {
	if n := tx.s.countReplicas(snap.GetShareId()); n > 1 {
		return refuse(FailedPrecondition, "id", "the snapshot's share has replicas, %d in all; its snapshots can be deleted, not unmanaged", n)
	}
	if snap.GetDeleting() && !snap.GetUnmanaging() {
		return refuse(FailedPrecondition, "status", "the snapshot is being deleted")
	}
	return tx.checkSnapshotDeletable(snap, false)
}
