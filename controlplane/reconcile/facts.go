package reconcile

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// exports takes over where a replica is reached, when it is being served: a
// suspended or fenced one keeps the locations it had.
func (r *round) exports(s *shareFacts, rep *tarnv1.Replica, report *tarnv1.ReplicaReport, t *raftv1.ReplicaTransition) {
	secondary := s.owner() != rep.GetId() && report.GetObservedRole() == tarnv1.Role_ROLE_SECONDARY && report.GetReady()
	if !secondary && !s.serves(rep, report) {
		return
	}
	if sameExports(rep.GetExportLocations(), report.GetExports()) {
		return
	}
	t.SetExportLocations = true
	for _, e := range report.GetExports() {
		t.ExportLocations = append(t.ExportLocations, &tarnv1.ExportLocation{
			Id: r.exportID(rep, e.GetPath()), ShareId: rep.GetShareId(), ReplicaId: rep.GetId(),
			Path: e.GetPath(), Preferred: e.GetPreferred(), IsAdminOnly: e.GetIsAdminOnly(),
		})
	}
}

func (r *round) exportID(rep *tarnv1.Replica, path string) string {
	for _, have := range rep.GetExportLocations() {
		if have.GetPath() == path {
			return have.GetId()
		}
	}
	return r.ids()
}

func sameExports(have []*tarnv1.ExportLocation, said []*tarnv1.ReportedExport) bool {
	return slices.EqualFunc(have, said, func(a *tarnv1.ExportLocation, b *tarnv1.ReportedExport) bool {
		return a.GetPath() == b.GetPath() && a.GetPreferred() == b.GetPreferred() && a.GetIsAdminOnly() == b.GetIsAdminOnly()
	})
}

func sameRuleErrors(a, b []*tarnv1.RuleError) bool {
	return slices.EqualFunc(a, b, func(a, b *tarnv1.RuleError) bool { return proto.Equal(a, b) })
}

// sameCopies ignores sizes, which move without a decision.
func sameCopies(a, b []*tarnv1.DivergentCopy) bool {
	return slices.EqualFunc(a, b, func(a, b *tarnv1.DivergentCopy) bool {
		return a.GetDataset() == b.GetDataset() && a.GetEpoch() == b.GetEpoch() && a.GetGuid() == b.GetGuid()
	})
}

// raiseHead puts the reported head into a transition that is written anyway.
func raiseHead(rep *tarnv1.Replica, report *tarnv1.ReplicaReport, t *raftv1.ReplicaTransition) {
	if guid := report.GetHeadGuid(); guid != 0 && guid != rep.GetHeadGuid() && !t.GetGone() {
		t.HeadGuid = proto.Uint64(guid)
		t.HeadCreatedAt = report.GetHeadCreatedAt()
	}
}

// checkpoint notes that a head has moved. It has to be written when the durable
// one is older than CheckpointEvery by the source's clock, which decides nothing
// but how often to write.
func (r *round) checkpoint(rep *tarnv1.Replica, report *tarnv1.ReplicaReport) {
	if guid := report.GetHeadGuid(); guid == 0 || guid == rep.GetHeadGuid() || deleting(rep) {
		return
	}
	t := &raftv1.ReplicaTransition{Id: rep.GetId(), ExpectedRevision: rep.GetRevision()}
	raiseHead(rep, report, t)
	behind := report.GetHeadCreatedAt().AsTime().Sub(rep.GetHeadCreatedAt().AsTime())
	if behind < 0 {
		behind = r.now.Sub(rep.GetUpdatedAt().AsTime())
	}
	if rep.GetHeadGuid() == 0 || behind >= r.policy.CheckpointEvery {
		r.due = true
	}
	if rep.GetHeadGuid() == 0 || behind >= min(r.policy.CheckpointEvery, 10*time.Second) {
		r.stale = append(r.stale, t)
	}
}

// resize ends an extend or shrink when the owner has applied or refused it.
func (r *round) resize(s *shareFacts) {
	pending := s.GetPendingSizeGib()
	report := s.report(s.owner())
	if pending == 0 || report == nil || report.GetObservedEpoch() != s.fencing.GetEpoch() || s.fenced() {
		return
	}
	t := &raftv1.ShareTransition{Id: s.GetId(), ExpectedPendingSizeGib: pending}
	shrinking := s.GetResizeStatus() == tarnv1.Status_STATUS_SHRINKING
	switch {
	case report.GetAppliedSizeGib() == pending:
		t.ResizeStatus, t.CommitSize = tarnv1.Status_STATUS_AVAILABLE, true
	case shrinking && report.GetSizeBelowUsed():
		t.ResizeStatus = tarnv1.Status_STATUS_SHRINKING_POSSIBLE_DATA_LOSS_ERROR
		r.complain(s, shareResource(s), actionUpdate, detailDriver,
			"The share was not shrunk: its data would not fit. Remove data or choose a larger size.")
	default:
		return
	}
	r.batch.Shares = append(r.batch.Shares, t)
}

// snapshotsOn carries what a host said of snapshots on one replica.
func (r *round) snapshotsOn(s *shareFacts, rep *tarnv1.Replica) {
	report := s.report(rep.GetId())
	for i := range s.snapshots {
		snap := &s.snapshots[i]
		inst := snap.on[rep.GetId()]
		if inst == nil {
			continue
		}
		t := &raftv1.SnapshotTransition{SnapshotId: snap.GetId(), ReplicaId: rep.GetId()}
		said := snapshotReport(report, snap.GetId())
		if snap.GetDeleting() {
			r.removal(s, rep, snap, inst, said, t)
		} else if said != nil {
			r.presence(s, rep, snap, inst, said, t)
		}
		if t.GetStatus() != 0 || t.GetRemoved() {
			r.batch.Snapshots = append(r.batch.Snapshots, t)
		}
	}
}

func (r *round) removal(s *shareFacts, rep *tarnv1.Replica, snap *snapshotFacts, inst *tarnv1.SnapshotInstance, said *tarnv1.SnapshotReport, t *raftv1.SnapshotTransition) {
	switch {
	case said.GetRemoved():
		t.Removed = true
	case snap.GetGuid() == 0 && s.owner() != rep.GetId():
		t.Removed = true // Never taken, so it cannot be on a secondary.
	case snap.GetUnmanaging():
		r.releaseFailed(s, snap, inst, said, t)
	case said.GetError() != "" && inst.GetStatus() != tarnv1.Status_STATUS_ERROR_DELETING:
		t.Status = tarnv1.Status_STATUS_ERROR_DELETING
		r.complain(s, snapshotResource(snap), actionDelete, detailDriver,
			"The snapshot could not be removed from one of the share's replicas. The host tries again.")
	}
}

func (r *round) presence(s *shareFacts, rep *tarnv1.Replica, snap *snapshotFacts, inst *tarnv1.SnapshotInstance, said *tarnv1.SnapshotReport, t *raftv1.SnapshotTransition) {
	const available = tarnv1.Status_STATUS_AVAILABLE
	owner := s.owner() == rep.GetId()
	current := s.report(rep.GetId()).GetObservedEpoch() == s.fencing.GetEpoch()
	switch {
	case said.GetPresent() && snap.GetGuid() == 0:
		if owner && said.GetGuid() != 0 {
			t.Status, t.Guid, t.TakenAt, t.ProviderLocation = available, said.GetGuid(), said.GetTakenAt(), said.GetProviderLocation()
		}
	case said.GetPresent() && said.GetGuid() == snap.GetGuid():
		if inst.GetStatus() != available {
			t.Status, t.ProviderLocation = available, said.GetProviderLocation()
		}
	case inst.GetStatus() == tarnv1.Status_STATUS_ERROR, inst.GetStatus() == tarnv1.Status_STATUS_MANAGE_ERROR:
	case inst.GetStatus() == tarnv1.Status_STATUS_MANAGE_STARTING:
		r.manageFailed(s, snap, said, t)
	case said.GetError() != "" && owner, inst.GetStatus() == available && current:
		t.Status = tarnv1.Status_STATUS_ERROR
		r.complain(s, snapshotResource(snap), actionUpdate, detailDriver,
			"The snapshot is not on the replica that should hold it. Other replicas may have it; see its instances.")
	}
}
