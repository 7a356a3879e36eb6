package reconcile

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/assignment"
	tarnv1 "tarn/proto/tarn/v1"
)

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// foundGiB is the size of every dataset that is taken over.
const foundGiB = 7

// simHost is a storage host that follows its assignments.
type simHost struct {
	w       *world
	id      string
	session string
	seq     uint64
	// cut off from the control plane and from other hosts; clients still reach it.
	cut bool
	// busy: a demotion does not come to an end.
	busy bool
	// alone: other hosts are out of its reach, the control plane is not.
	alone bool
	// slow: it pulls no more often than it is told to, but for a last snapshot.
	slow bool
	// blind: it does not say which snapshots it has.
	blind bool
	// failing is reported for every replica.
	failing *tarnv1.ReplicaError
	// obstacle keeps it from purging divergent copies; "" for none.
	obstacle string
	// lease is when it was last asked for with success.
	lease time.Time
	data  map[string]*simReplica
}

// simReplica is a dataset: a history of snapshots, and what is newer than them.
type simReplica struct {
	share    string
	role     tarnv1.Role
	epoch    uint64
	dirty    bool
	history  []uint64
	headAt   time.Time
	equalAt  time.Time
	snaps    map[string]uint64
	ack      *tarnv1.DemoteAck
	seal     *tarnv1.DemoteAck
	size     int64
	revision uint64
	gen      uint64
	gone     bool
}

func (r *simReplica) head() uint64 {
	if len(r.history) == 0 {
		return 0
	}
	return r.history[len(r.history)-1]
}

// leased reports that the host may serve writes now.
func (h *simHost) leased() bool { return h.w.now.Before(h.lease.Add(leaseHeld)) }

func (h *simHost) writers(share string) int {
	n := 0
	for _, r := range h.data {
		if r.share == share && r.role == tarnv1.Role_ROLE_ACTIVE && h.leased() {
			n++
		}
	}
	return n
}

// act is one turn: renew the lease, follow the assignments, report.
func (h *simHost) act() {
	if h.cut {
		return
	}
	list, revision := assignment.ForHost(h.w.fsm.View(), h.id)
	for _, a := range list {
		granted, _ := assignment.Entitled(h.w.fsm.View(), h.id, []*tarnv1.LeaseShare{{ShareId: a.GetShareId(), ReplicaId: a.GetReplicaId(), Epoch: a.GetEpoch()}})
		if a.GetRole() == tarnv1.Role_ROLE_ACTIVE && len(granted) == 1 {
			h.w.leases.Grant(h.id, h.w.now)
			h.lease = h.w.now
		}
	}
	report := &tarnv1.ReportRequest{HostId: h.id, SessionId: h.session, Full: true, AssignmentsRevision: revision, OrphansKnown: true, OrphansRevision: revision}
	assigned := make(map[string]bool)
	for _, a := range list {
		assigned[a.GetReplicaId()] = true
		report.Replicas = append(report.Replicas, h.follow(a))
	}
	host, _ := h.w.fsm.View().Host(h.id)
	for _, o := range host.GetPurges() {
		report.Purges = append(report.Purges, &tarnv1.PurgeReport{Guid: o.GetGuid(), Gone: h.obstacle == "", Error: h.obstacle})
	}
	maps.DeleteFunc(h.data, func(id string, r *simReplica) bool { return !assigned[id] && !h.w.restored || r.gone })
	for id, r := range h.data {
		if !assigned[id] {
			report.UnknownReplicas = append(report.UnknownReplicas, &tarnv1.UnknownReplica{
				ReplicaId: id, ShareId: r.share, Pool: "p", Dataset: "p/tarn/" + id, Epoch: r.epoch, Primary: r.role == tarnv1.Role_ROLE_ACTIVE,
			})
		}
	}
	h.seq++
	report.Sequence = h.seq
	h.w.soft.Report(report, h.w.now)
}

func (h *simHost) follow(a *tarnv1.Assignment) *tarnv1.ReplicaReport {
	r := h.data[a.GetReplicaId()]
	if r == nil {
		r = &simReplica{share: a.GetShareId(), snaps: make(map[string]uint64)}
		h.data[a.GetReplicaId()] = r
	}
	out := &tarnv1.ReplicaReport{ReplicaId: a.GetReplicaId(), ShareId: a.GetShareId(), Error: h.failing}
	if a.GetEpoch() < r.epoch && h.w.restored {
		// It is ahead of what it is told, and does nothing.
		h.describe(a, r, out)
		out.Ready, out.Writable, out.Lag = false, false, nil
		out.Error = &tarnv1.ReplicaError{Code: tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL, Retrying: true}
		return out
	}
	if a.GetEpoch() < r.epoch {
		h.w.t.Fatalf("replica %s was told epoch %d after %d", a.GetReplicaId(), a.GetEpoch(), r.epoch)
	}
	if a.GetEpoch() != r.epoch {
		r.equalAt = time.Time{} // An agent knows no more of its lag under another epoch.
	}
	switch a.GetRole() {
	case tarnv1.Role_ROLE_ACTIVE:
		h.serve(a, r)
	case tarnv1.Role_ROLE_SECONDARY:
		h.pull(a, r)
	case tarnv1.Role_ROLE_FENCED:
		h.fence(a, r)
	case tarnv1.Role_ROLE_DELETING:
		r.gone = true
	case tarnv1.Role_ROLE_RELEASING:
		r.gone = h.failing == nil
	}
	if a.GetRole() != tarnv1.Role_ROLE_FENCED || r.role != tarnv1.Role_ROLE_ACTIVE {
		r.role, r.epoch = a.GetRole(), a.GetEpoch()
	}
	if r.size = a.GetSizeGib(); r.size == 0 {
		r.size = foundGiB // what the dataset turned out to have
	}
	r.revision, r.gen = a.GetExports().GetRevision(), a.GetResyncGeneration()
	h.describe(a, r, out)
	return out
}

func (h *simHost) serve(a *tarnv1.Assignment, r *simReplica) {
	r.ack, r.seal = nil, nil
	for _, s := range a.GetSnapshots() {
		if s.GetGuid() == 0 && r.snaps[s.GetSnapshotId()] == 0 {
			r.snaps[s.GetSnapshotId()] = h.snapshot(r)
		}
	}
	if r.dirty || r.head() == 0 {
		h.snapshot(r)
	}
	h.prune(a, r)
}

func (h *simHost) snapshot(r *simReplica) uint64 {
	guid := h.w.newGUID()
	r.history, r.headAt, r.dirty = append(r.history, guid), h.w.now, false
	return guid
}

func (h *simHost) prune(a *tarnv1.Assignment, r *simReplica) {
	for _, s := range a.GetRemovedSnapshots() {
		delete(r.snaps, s.GetSnapshotId())
	}
}

// pull copies the source's history, as far as the source can be reached.
func (h *simHost) pull(a *tarnv1.Assignment, r *simReplica) {
	r.ack, r.seal = nil, nil
	h.prune(a, r)
	source := h.w.hosts[a.GetSource().GetHostId()]
	if source == nil || source.cut || h.alone || h.slow && a.GetOpId() == "" && h.w.now.Sub(r.equalAt) < a.GetCadence().AsDuration() {
		return
	}
	from := source.data[a.GetSource().GetReplicaId()]
	if from == nil || from.head() == 0 {
		return
	}
	// What does not fit the lineage is kept aside, and the common part stays.
	r.history, r.headAt, r.dirty = slices.Clone(from.history), from.headAt, false
	maps.Copy(r.snaps, from.snaps) // what the source has no more stays until it is named
	for _, s := range a.GetRemovedSnapshots() {
		delete(r.snaps, s.GetSnapshotId())
	}
	r.equalAt = h.w.now
}

func (h *simHost) fence(a *tarnv1.Assignment, r *simReplica) {
	if a.GetSeal() {
		if r.head() != 0 {
			r.seal = &tarnv1.DemoteAck{OpId: a.GetOpId(), Epoch: a.GetEpoch(), HeadGuid: r.head(), HeadCreatedAt: timestamppb.New(r.headAt)}
		}
		return
	}
	if h.busy {
		return
	}
	if r.ack.GetOpId() != a.GetOpId() {
		r.role = tarnv1.Role_ROLE_FENCED
		r.ack = &tarnv1.DemoteAck{OpId: a.GetOpId(), Epoch: a.GetEpoch(), HeadGuid: h.snapshot(r), HeadCreatedAt: timestamppb.New(h.w.now)}
	}
}

func (h *simHost) describe(a *tarnv1.Assignment, r *simReplica, out *tarnv1.ReplicaReport) {
	out.ObservedEpoch, out.ObservedRole, out.Gone = r.epoch, r.role, r.gone
	out.Ready = r.head() != 0 && h.failing == nil
	out.Writable = r.role == tarnv1.Role_ROLE_ACTIVE && out.GetReady()
	out.HeadGuid, out.AppliedSizeGib = r.head(), r.size
	out.AppliedAccessRevision, out.ResyncGeneration = r.revision, r.gen
	out.DemoteAck, out.SealAck = r.ack, r.seal
	if r.head() != 0 {
		out.HeadCreatedAt = timestamppb.New(r.headAt)
	}
	if r.role == tarnv1.Role_ROLE_SECONDARY && !r.equalAt.IsZero() {
		out.Lag = durationOf(h.w.now.Sub(r.equalAt))
	}
	if out.GetReady() && r.role != tarnv1.Role_ROLE_FENCED {
		out.Exports = []*tarnv1.ReportedExport{{Path: h.id + ":/" + a.GetReplicaId()}}
	}
	for _, s := range a.GetSnapshots() {
		guid := r.snaps[s.GetSnapshotId()]
		if h.blind {
			guid = 0
		}
		out.Snapshots = append(out.Snapshots, &tarnv1.SnapshotReport{SnapshotId: s.GetSnapshotId(), Guid: guid, Present: guid != 0})
	}
	for _, s := range a.GetRemovedSnapshots() {
		out.Snapshots = append(out.Snapshots, &tarnv1.SnapshotReport{SnapshotId: s.GetSnapshotId(), Removed: true})
	}
}
