package raftfsm

import (
	"strings"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// managing: a dataset is being taken over, or could not be.
func managing(st tarnv1.Status) bool {
	return st == tarnv1.Status_STATUS_MANAGE_STARTING || st == tarnv1.Status_STATUS_MANAGE_ERROR
}

// unmanaging: a dataset is being given back, which nothing takes back.
func unmanaging(st tarnv1.Status) bool {
	switch st {
	case tarnv1.Status_STATUS_UNMANAGE_STARTING, tarnv1.Status_STATUS_UNMANAGE_ERROR,
		tarnv1.Status_STATUS_MANAGE_ERROR_UNMANAGE_STARTING:
		return true
	}
	return false
}

// leaving: a replica is on its way out, by deletion or by being given back.
func leaving(st tarnv1.Status) bool {
	return st == tarnv1.Status_STATUS_DELETING || unmanaging(st)
}

// checkManaged keeps a dataset to one replica while it is being taken over. Later it
// has another name, and the former may be given to something new.
func (tx *txn) checkManaged(asked *tarnv1.Replica, h *tarnv1.Host) *Error {
	from := asked.GetManagedFrom()
	if from == "" {
		return nil
	}
	if pool, path, ok := strings.Cut(from, "/"); !ok || pool != asked.GetPool() || path == "" {
		return refuse(InvalidArgument, "managed_from", "%q is no dataset below pool %q", from, asked.GetPool())
	}
	for r := range tx.s.replicasOn(h.GetId()) {
		if r.GetManagedFrom() == from && (managing(r.GetStatus()) || unmanaging(r.GetStatus())) {
			return refuse(AlreadyExists, "managed_from", "dataset %s of host %s is %s as replica %s; wait for that",
				from, h.GetName(), statusWord(r.GetStatus()), r.GetId())
		}
	}
	return nil
}

// sameManaged says that a retried request names the dataset that a replica of the
// share has, or had when it was taken over.
func (tx *txn) sameManaged(shareID, from string) bool {
	for r := range tx.s.replicasOf(shareID) {
		if from == "" || r.GetManagedFrom() == from {
			return true
		}
	}
	return false
}

// unmanageShare marks the only replica to be given back; the record goes when its
// host has confirmed.
func (tx *txn) unmanageShare(c *raftv1.UnmanageShare) (*tarnv1.Share, *Error) {
	s, ok := tx.s.share(c.GetId())
	if !ok {
		return nil, missing("id", "share", c.GetId())
	}
	if want := c.GetExpectedRevision(); want != 0 && want != s.GetRevision() {
		return nil, stale("share", c.GetId(), s.GetRevision(), want)
	}
	if err := tx.checkUnmanageable(s); err != nil {
		return nil, err
	}
	for _, r := range tx.s.replicasInOrder(s.GetId()) {
		tx.release(r)
	}
	return s, nil
}

// checkUnmanageable refuses what Manila refuses (manila semantics 2.6).
func (tx *txn) checkUnmanageable(s *tarnv1.Share) *Error {
	if n := tx.s.countReplicas(s.GetId()); n > 1 {
		return refuse(FailedPrecondition, "id", "share has replicas, %d in all; delete or unmanage all but the active one first", n)
	}
	if snap, has := first(tx.s.snapshotsOf(s.GetId())); has {
		return refuse(FailedPrecondition, "id", "share has snapshots, %s for one; delete or unmanage them first", snap.GetId())
	}
	if fencing(s) {
		return refuse(FailedPrecondition, "id", "a promotion of the share is running; wait or cancel it first")
	}
	switch st := tx.s.shareStatus(s); {
	case st == tarnv1.Status_STATUS_DELETING || st == tarnv1.Status_STATUS_ERROR_DELETING:
		return refuse(FailedPrecondition, "status", "share is %s; its data may be gone already", statusWord(st))
	case !deletable(st) && !managing(st) && !unmanaging(st):
		return refuse(FailedPrecondition, "status", "share is %s; wait until it is available", statusWord(st))
	}
	return nil
}

func (tx *txn) unmanageReplica(c *raftv1.UnmanageReplica) (*tarnv1.Replica, *Error) {
	r, ok := tx.s.replica(c.GetId())
	if !ok {
		return nil, missing("id", "replica", c.GetId())
	}
	if want := c.GetExpectedRevision(); want != 0 && want != r.GetRevision() {
		return nil, stale("replica", c.GetId(), r.GetRevision(), want)
	}
	s, _ := tx.s.share(r.GetShareId())
	f := s.GetFencing()
	switch {
	case f.GetOwnerReplicaId() == r.GetId():
		return nil, refuse(FailedPrecondition, "id", "this is the active replica; unmanage the share, or promote another replica first")
	case fencing(s) && f.GetTargetReplicaId() == r.GetId():
		return nil, refuse(FailedPrecondition, "id", "the replica is being promoted; wait or cancel the promotion first")
	case r.GetStatus() == tarnv1.Status_STATUS_DELETING || r.GetStatus() == tarnv1.Status_STATUS_ERROR_DELETING:
		return nil, refuse(FailedPrecondition, "status", "the replica is being deleted; its data may be gone already")
	}
	return tx.release(r), nil
}

func (tx *txn) release(r *tarnv1.Replica) *tarnv1.Replica {
	next := tx.changeReplica(r)
	switch st := r.GetStatus(); {
	case st == tarnv1.Status_STATUS_UNMANAGE_STARTING || st == tarnv1.Status_STATUS_MANAGE_ERROR_UNMANAGE_STARTING:
		return r
	case st == tarnv1.Status_STATUS_MANAGE_ERROR:
		next.Status = tarnv1.Status_STATUS_MANAGE_ERROR_UNMANAGE_STARTING
	default:
		next.Status = tarnv1.Status_STATUS_UNMANAGE_STARTING
	}
	tx.putReplica(next)
	return next
}

// settleSize gives a share whose size nobody named the one that its dataset turned
// out to have. As in Manila the data are there, so no quota stands in the way.
func (tx *txn) settleSize(s *tarnv1.Share, r *tarnv1.Replica, size int64) *tarnv1.Share {
	if s.GetSizeGib() != 0 || s.GetFencing().GetOwnerReplicaId() != r.GetId() {
		return s
	}
	next := changeShare(s)
	next.SizeGib = size
	return tx.saveShare(s, next)
}
