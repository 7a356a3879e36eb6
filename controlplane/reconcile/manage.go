package reconcile

import (
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func managing(rep *tarnv1.Replica) bool {
	return rep.GetStatus() == tarnv1.Status_STATUS_MANAGE_STARTING || rep.GetStatus() == tarnv1.Status_STATUS_MANAGE_ERROR
}

func unmanaging(rep *tarnv1.Replica) bool {
	switch rep.GetStatus() {
	case tarnv1.Status_STATUS_UNMANAGE_STARTING, tarnv1.Status_STATUS_UNMANAGE_ERROR,
		tarnv1.Status_STATUS_MANAGE_ERROR_UNMANAGE_STARTING:
		return true
	}
	return false
}

// manageStatus ends a takeover. A share whose size nobody named needs the one that
// the host found; a host that could not do it goes on trying, and may yet succeed.
func manageStatus(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, well bool) tarnv1.Status {
	sized := s.GetSizeGib() > 0 || s.owner() != rep.GetId() || report.GetAppliedSizeGib() > 0
	switch {
	case well && sized:
		return tarnv1.Status_STATUS_AVAILABLE
	case fatal(report):
		return tarnv1.Status_STATUS_MANAGE_ERROR
	}
	return rep.GetStatus()
}

// release follows a dataset that is given back, until its host says that it has been.
func (r *round) release(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, t *raftv1.ReplicaTransition) {
	releasing := report.GetObservedRole() == tarnv1.Role_ROLE_RELEASING
	switch {
	case report.GetGone() && releasing:
		t.Gone = true
	case fatal(report) && releasing && rep.GetStatus() != tarnv1.Status_STATUS_UNMANAGE_ERROR:
		t.Status, t.Error = tarnv1.Status_STATUS_UNMANAGE_ERROR, report.GetError()
		r.complain(s, resourceOf(s, rep), actionUpdate, detailDriver, "The share could not be unmanaged. "+Sentence(report.GetError()))
	case busyForeign(rep, report):
		r.blocked(s, rep, report, t)
	}
}

// busyForeign reports a dataset that cannot change hands because somebody has files of
// it open: the host goes on trying, and nothing else would tell who has to let go.
func busyForeign(rep *tarnv1.Replica, report *tarnv1.ReplicaReport) bool {
	busy := tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_BUSY
	return (managing(rep) || unmanaging(rep)) && report.GetError().GetRetrying() &&
		report.GetError().GetCode() == busy && rep.GetError().GetCode() != busy
}

func (r *round) blocked(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, t *raftv1.ReplicaTransition) {
	t.Error = report.GetError()
	r.complain(s, resourceOf(s, rep), actionUpdate, detailDriver, Sentence(report.GetError()))
}

// manageFailed tells that a snapshot could not be taken over; it is tried on.
func (r *round) manageFailed(s *shareFacts, snap *snapshotFacts, said *tarnv1.SnapshotReport, t *raftv1.SnapshotTransition) {
	if said.GetError() == "" {
		return
	}
	t.Status = tarnv1.Status_STATUS_MANAGE_ERROR
	r.complain(s, snapshotResource(snap), actionCreate, detailDriver,
		"The snapshot could not be managed: the share has no snapshot "+snap.GetManagedFrom()+". Delete this one, and name one that it has.")
}

func (r *round) releaseFailed(s *shareFacts, snap *snapshotFacts, inst *tarnv1.SnapshotInstance, said *tarnv1.SnapshotReport, t *raftv1.SnapshotTransition) {
	if said.GetError() == "" || inst.GetStatus() == tarnv1.Status_STATUS_UNMANAGE_ERROR {
		return
	}
	t.Status = tarnv1.Status_STATUS_UNMANAGE_ERROR
	r.complain(s, snapshotResource(snap), actionUpdate, detailDriver,
		"The snapshot could not be unmanaged. Its former name may be taken; the host tries again.")
}
