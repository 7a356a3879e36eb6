package reconcile

import (
	"time"

	"google.golang.org/protobuf/proto"

	"tarn/controlplane/assignment"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// replica derives one replica's transition from its last report.
func (r *round) replica(s *shareFacts, rep *tarnv1.Replica) {
	t := r.transition(rep)
	report := s.report(rep.GetId())
	switch {
	case deleting(rep):
		r.deletion(s, rep, report, t)
	case unmanaging(rep):
		r.release(s, rep, report, t)
	case report == nil:
		r.replicaState(s, rep, nil, rep.GetStatus(), t)
	default:
		r.living(s, rep, report, t)
	}
	if !changes(t) {
		r.checkpoint(rep, report)
		return
	}
	raiseHead(rep, report, t)
	r.batch.Replicas = append(r.batch.Replicas, t)
	r.unused = nil
}

// transition returns an empty transition: the last one again if it came to nothing,
// as nearly all do.
func (r *round) transition(rep *tarnv1.Replica) *raftv1.ReplicaTransition {
	if r.unused == nil {
		r.unused = &raftv1.ReplicaTransition{}
	}
	r.unused.Id, r.unused.ExpectedRevision = rep.GetId(), rep.GetRevision()
	return r.unused
}

func changes(t *raftv1.ReplicaTransition) bool {
	return t.GetStatus() != 0 || t.GetReplicaState() != 0 || t.GetGone() || t.GetError() != nil || t.GetClearError() ||
		t.GetSetExportLocations() || t.GetSetRuleErrors() || t.GetSetDivergentCopies() ||
		t.AppliedAccessRevision != nil || t.AppliedSizeGib != nil || t.HeadGuid != nil
}

func deleting(rep *tarnv1.Replica) bool {
	return rep.GetStatus() == tarnv1.Status_STATUS_DELETING || rep.GetStatus() == tarnv1.Status_STATUS_ERROR_DELETING
}

func (r *round) deletion(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, t *raftv1.ReplicaTransition) {
	switch {
	case report.GetGone():
		t.Gone = true
	case fatal(report) && rep.GetStatus() == tarnv1.Status_STATUS_DELETING && report.GetObservedRole() == tarnv1.Role_ROLE_DELETING:
		t.Status = tarnv1.Status_STATUS_ERROR_DELETING
		t.Error = report.GetError()
		r.complain(s, resourceOf(s, rep), actionDelete, detailDriver, deleteFailed(report.GetError()))
	}
}

func (r *round) living(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, t *raftv1.ReplicaTransition) {
	status := r.status(s, rep, report)
	if status != rep.GetStatus() || s.launches(rep, report) {
		t.Status = status
	}
	r.errors(s, rep, report, status, t)
	r.replicaState(s, rep, report, status, t)
	r.exports(s, rep, report, t)
	if report.GetAppliedAccessRevision() > rep.GetAppliedAccessRevision() {
		t.AppliedAccessRevision = proto.Uint64(report.GetAppliedAccessRevision())
	}
	if report.GetReady() && !sameRuleErrors(rep.GetRuleErrors(), report.GetRuleErrors()) {
		t.RuleErrors, t.SetRuleErrors = report.GetRuleErrors(), true
	}
	if size := report.GetAppliedSizeGib(); size > 0 && size != rep.GetAppliedSizeGib() {
		t.AppliedSizeGib = proto.Int64(size)
	}
	if report.GetReady() && !sameCopies(rep.GetDivergentCopies(), report.GetDivergentCopies()) {
		t.DivergentCopies, t.SetDivergentCopies = report.GetDivergentCopies(), true
	}
}

// fatal reports an error that the agent does not get over by itself.
func fatal(report *tarnv1.ReplicaReport) bool {
	return report.GetError().GetCode() != 0 && !report.GetError().GetRetrying()
}

// serves reports that the owner accepts writes under the share's epoch.
func (s *shareFacts) serves(rep *tarnv1.Replica, report *tarnv1.ReplicaReport) bool {
	return s.owner() == rep.GetId() && !s.fenced() && report.GetReady() && report.GetWritable() &&
		report.GetObservedRole() == tarnv1.Role_ROLE_ACTIVE && report.GetObservedEpoch() == s.fencing.GetEpoch()
}

// follows reports that a secondary has its dataset and data in it.
func (s *shareFacts) follows(rep *tarnv1.Replica, report *tarnv1.ReplicaReport) bool {
	return s.owner() != rep.GetId() && report.GetReady() && report.GetHeadGuid() != 0
}

// launches reports that a replica which was made available by hand is so in fact, which
// the state has to know: only then a dataset that is missing later is a loss.
func (s *shareFacts) launches(rep *tarnv1.Replica, report *tarnv1.ReplicaReport) bool {
	return rep.GetStatus() == tarnv1.Status_STATUS_AVAILABLE && rep.GetLaunchedAt() == nil && !s.fenced() && s.well(rep, report)
}

// well reports that a replica does what its role asks of it.
func (s *shareFacts) well(rep *tarnv1.Replica, report *tarnv1.ReplicaReport) bool {
	return !fatal(report) && (s.serves(rep, report) || s.follows(rep, report))
}

func (r *round) status(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport) tarnv1.Status {
	well := s.well(rep, report)
	switch rep.GetStatus() {
	case tarnv1.Status_STATUS_CREATING, tarnv1.Status_STATUS_CREATING_FROM_SNAPSHOT, tarnv1.Status_STATUS_ERROR:
		if well {
			return tarnv1.Status_STATUS_AVAILABLE
		}
		if fatal(report) {
			return tarnv1.Status_STATUS_ERROR
		}
	case tarnv1.Status_STATUS_MANAGE_STARTING, tarnv1.Status_STATUS_MANAGE_ERROR:
		return manageStatus(s, rep, report, well)
	case tarnv1.Status_STATUS_REPLICATION_CHANGE:
		// While the promotion runs nothing but the promotion changes its target.
		if !s.fenced() && well {
			return tarnv1.Status_STATUS_AVAILABLE
		}
	case tarnv1.Status_STATUS_AVAILABLE:
		if fatal(report) {
			return tarnv1.Status_STATUS_ERROR
		}
	}
	return rep.GetStatus()
}

func (r *round) errors(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, status tarnv1.Status, t *raftv1.ReplicaTransition) {
	switch {
	case busyForeign(rep, report):
		r.blocked(s, rep, report, t)
	case fatal(report) && rep.GetError().GetCode() != report.GetError().GetCode():
		t.Error = report.GetError()
		action := actionUpdate
		if rep.GetLaunchedAt() == nil && rep.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
			action = actionCreate
		}
		r.complain(s, resourceOf(s, rep), action, detailDriver, Sentence(report.GetError()))
	case !fatal(report) && rep.GetError() != nil && status == tarnv1.Status_STATUS_AVAILABLE:
		t.ClearError = true
	}
}

// replicaState applies the law that in_sync is a measured fact.
func (r *round) replicaState(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, status tarnv1.Status, t *raftv1.ReplicaTransition) {
	if !s.mirrors() || s.owner() == rep.GetId() || (s.fenced() && s.fencing.GetTargetReplicaId() == rep.GetId()) {
		return
	}
	if want := r.measured(s, rep, report, status); want != rep.GetReplicaState() {
		t.ReplicaState = want
		if fault := s.fault(report); fault != nil && want == tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC {
			r.complain(s, resourceOf(s, rep), actionUpdate, detailDriver, "The replica has fallen behind. "+Sentence(fault))
		}
	}
}

// mirrors reports a type with one active replica and secondaries that follow it.
func (s *shareFacts) mirrors() bool {
	t := s.GetReplicationType()
	return t == tarnv1.ReplicationType_REPLICATION_TYPE_READABLE || t == tarnv1.ReplicationType_REPLICATION_TYPE_DR
}

func (r *round) measured(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, status tarnv1.Status) tarnv1.ReplicaState {
	const (
		inSync    = tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
		outOfSync = tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC
	)
	switch {
	case fatal(report):
		return tarnv1.ReplicaState_REPLICA_STATE_ERROR
	case rep.GetReplicaState() == inSync && r.staysInSync(s, rep, report):
		return inSync
	case rep.GetReplicaState() != inSync && status == tarnv1.Status_STATUS_AVAILABLE && r.entersInSync(s, rep, report):
		return inSync
	case report == nil && rep.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ERROR:
		return rep.GetReplicaState()
	}
	return outOfSync
}

// hold is how far beyond the RPO a lag may go before in_sync is lost, so that a
// replica at the edge does not flap. A lag grows as time passes: beyond RPO plus
// hold it has been beyond the RPO for that long.
func hold(rpo time.Duration) time.Duration { return max(2*time.Second, rpo/4) }

func (r *round) staysInSync(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport) bool {
	rpo := assignment.RPO(s.Share)
	limit := rpo + hold(rpo)
	seen := s.heard(rep.GetId())
	lag, known := r.obs.Lag(seen)
	switch {
	case report == nil && known:
		return lag <= limit
	case report == nil:
		// A new leader has heard nothing yet; the old one had.
		return r.obs.Now.Sub(r.obs.Since) <= max(limit, 2*r.obs.TTL)
	}
	current := report.GetObservedEpoch() == s.fencing.GetEpoch() && report.GetObservedRole() == tarnv1.Role_ROLE_SECONDARY
	if !known {
		// Before the agent has acted on its new role it has nothing to say.
		return !current && r.obs.Now.Sub(seen.At) <= limit
	}
	return lag <= limit && (!current || s.holdsAll(rep, report, true)) && report.GetResyncGeneration() >= rep.GetResyncGeneration()
}

func (r *round) entersInSync(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport) bool {
	lag, known := r.obs.Lag(s.heard(rep.GetId()))
	return known && report.GetLag() != nil && lag <= assignment.RPO(s.Share) &&
		report.GetReady() && report.GetHeadGuid() != 0 &&
		report.GetObservedRole() == tarnv1.Role_ROLE_SECONDARY && report.GetObservedEpoch() == s.fencing.GetEpoch() &&
		report.GetResyncGeneration() >= rep.GetResyncGeneration() && s.holdsAll(rep, report, false)
}

// holdsAll reports that every snapshot that users may rely on is on the replica:
// those available on the owner, or, for a replica that is in sync already, those
// that were available on itself.
func (s *shareFacts) holdsAll(rep *tarnv1.Replica, report *tarnv1.ReplicaReport, own bool) bool {
	where := s.owner()
	if own {
		where = rep.GetId()
	}
	for i := range s.snapshots {
		snap := &s.snapshots[i]
		if snap.GetDeleting() || snap.GetGuid() == 0 || snap.on[where].GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
			continue
		}
		if !hasSnapshot(report, snap.GetId(), snap.GetGuid()) {
			return false
		}
	}
	return true
}

func hasSnapshot(report *tarnv1.ReplicaReport, id string, guid uint64) bool {
	e := snapshotReport(report, id)
	return e.GetPresent() && e.GetGuid() == guid
}

func snapshotReport(report *tarnv1.ReplicaReport, id string) *tarnv1.SnapshotReport {
	for _, e := range report.GetSnapshots() {
		if e.GetSnapshotId() == id {
			return e
		}
	}
	return nil
}
