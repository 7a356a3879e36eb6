package replicate

import (
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// view is what other goroutines may see of a worker.
type view struct {
	report *tarnv1.ReplicaReport // everything but lag and progress
	head   zfs.GUID
	clock  lagClock
	behind int
	follow *stream.Following
	ahead  ahead
	pull   *stream.Pull
	flags  string // of the streams by which the dataset came to be
	// What retention found when it last ran.
	ranAt   time.Time
	strange map[string]bool
	stuck   map[zfs.GUID]string
}

// Report is what is known of the replica now, with lag and progress of this
// moment; nil before the first round after Assign.
func (w *Worker) Report() *tarnv1.ReplicaReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := &w.view
	if v.report == nil {
		return nil
	}
	r := proto.CloneOf(v.report)
	if v.pull != nil {
		r.Transfer = v.pull.Progress()
	}
	switch r.GetObservedRole() {
	case tarnv1.Role_ROLE_SECONDARY:
		v.addLag(r, time.Now())
	case tarnv1.Role_ROLE_ACTIVE:
		if t, ok := w.cfg.Cadence.Tracking(w.cfg.ReplicaID); ok && !t.Listed.IsZero() {
			r.DirtyBytes, r.UsedBytes = t.Dirty, t.Used
		}
	}
	return r
}

// addLag measures the lag of a secondary.
func (v *view) addLag(r *tarnv1.ReplicaReport, now time.Time) {
	r.LagBytes, r.LagSnapshots = -1, int64(v.behind)
	if v.follow != nil {
		if seen, ok := v.follow.Seen(); ok {
			v.clock.saw(seen.GUID, seen.AsOf)
			if r.Error == nil {
				r.Error = v.ahead.problem(seen)
			}
			if seen.GUID == v.head {
				r.LagBytes, r.LagSnapshots = seen.Dirty, 0
			} else {
				r.LagSnapshots = max(r.LagSnapshots, 1)
			}
		}
	}
	v.clock.holds(v.head)
	if lag, ok := v.clock.lag(now); ok && r.GetReady() {
		r.Lag = durationpb.New(lag)
	}
}

// report builds what is observed and publishes it when it changed.
func (w *Worker) report() {
	r := w.observation()
	further := w.ahead(zfs.GUID(r.GetHeadGuid()), time.Now())
	w.mu.Lock()
	w.view.ahead = further.after(w.view.ahead)
	w.view.report, w.view.head, w.view.flags = r, zfs.GUID(r.GetHeadGuid()), w.s.f.flags()
	w.mu.Unlock()
	if proto.Equal(r, w.last) {
		return
	}
	w.last = r
	w.cfg.Publish(w.Report())
}

func (w *Worker) observation() *tarnv1.ReplicaReport {
	a, f := w.s.a, &w.s.f
	r := &tarnv1.ReplicaReport{
		ReplicaId: a.GetReplicaId(), ShareId: a.GetShareId(), ObservedRole: w.role(), ObservedEpoch: w.epoch(),
		Ready: w.ready(), Exports: w.paths, RuleErrors: w.ruleErrs, Gone: w.s.gone, DirtyBytes: -1,
		ResyncGeneration: w.resynced, Error: w.problem(), DivergentCopies: copies(f.asides),
		Snapshots: w.snapshots(), AppliedAccessRevision: w.accessRevision(),
	}
	if f.ds != nil && !w.s.gone {
		w.describe(r)
		w.describeKey(r)
	}
	if w.s.acked() {
		w.acknowledge(r)
	}
	return r
}

// describe adds what only a dataset has.
func (w *Worker) describe(r *tarnv1.ReplicaReport) {
	f, n := &w.s.f, w.s.f.newest()
	r.Writable = r.GetReady() && r.GetObservedRole() == tarnv1.Role_ROLE_ACTIVE && w.s.lease && f.ds.Mounted &&
		!f.ds.ReadOnly && w.s.exported(false)
	r.UsedBytes, r.HeadGuid = f.ds.Used, uint64(n.GUID)
	if n.GUID != 0 && !n.Creation.IsZero() {
		r.HeadCreatedAt = timestamppb.New(n.Creation)
	}
	if f.ds.Mounted {
		r.Mountpoint = f.ds.Mountpoint
	}
	if w.s.a.GetRole() == tarnv1.Role_ROLE_ACTIVE {
		r.AppliedSizeGib = f.ds.RefQuota / gib
		if w.s.a.GetSizeGib() == 0 {
			r.AppliedSizeGib = foundSize(f.ds)
		}
		r.SizeBelowUsed = w.s.sizeRefused != 0 && w.s.sizeRefused == w.s.a.GetSizeGib()*gib
	} else {
		// Nothing limits a secondary, so that every size is in force.
		r.AppliedSizeGib = w.s.a.GetSizeGib()
	}
}

func (w *Worker) acknowledge(r *tarnv1.ReplicaReport) {
	n := w.s.f.newest()
	ack := &tarnv1.DemoteAck{OpId: w.s.a.GetOpId(), Epoch: w.s.a.GetEpoch(), HeadGuid: uint64(n.GUID)}
	if !n.Creation.IsZero() {
		ack.HeadCreatedAt = timestamppb.New(n.Creation)
	}
	if w.s.a.GetSeal() {
		r.SealAck = ack
	} else {
		r.DemoteAck = ack
	}
}

// conforms reports that the dataset's marks say what the assignment says.
func (w *Worker) conforms() bool {
	m, a := w.s.f.marks, w.s.a
	switch a.GetRole() {
	case tarnv1.Role_ROLE_ACTIVE:
		return m.role == rolePrimary && m.epoch == a.GetEpoch()
	case tarnv1.Role_ROLE_SECONDARY:
		return m.role == roleReplica && m.epoch == a.GetEpoch() && m.op == ""
	case tarnv1.Role_ROLE_FENCED:
		return w.s.floored()
	}
	return a.GetRole() == tarnv1.Role_ROLE_DELETING || a.GetRole() == tarnv1.Role_ROLE_RELEASING
}

// role is what the replica is, which may not yet be what it is to become.
func (w *Worker) role() tarnv1.Role {
	if w.s.f.ds == nil || w.conforms() {
		return w.s.a.GetRole()
	}
	switch w.s.f.marks.role {
	case rolePrimary:
		return tarnv1.Role_ROLE_ACTIVE
	case roleReplica:
		return tarnv1.Role_ROLE_SECONDARY
	case roleFenced:
		return tarnv1.Role_ROLE_FENCED
	}
	return tarnv1.Role_ROLE_UNSPECIFIED
}

func (w *Worker) epoch() uint64 {
	if w.s.f.ds == nil || w.conforms() {
		return w.s.a.GetEpoch()
	}
	return w.s.f.marks.epoch
}

// ready reports that the dataset is what the assignment says, apart from lag.
func (w *Worker) ready() bool {
	f := &w.s.f
	if f.ds == nil || !w.s.own() || f.moved != nil || w.refusal != nil || !w.conforms() {
		return false
	}
	switch w.s.a.GetRole() {
	case tarnv1.Role_ROLE_ACTIVE:
		return true
	case tarnv1.Role_ROLE_SECONDARY:
		return w.s.diverged == nil && !w.s.modified && f.newest().GUID != 0 && !strings.HasPrefix(f.newest().Name, divergentPrefix)
	case tarnv1.Role_ROLE_FENCED:
		return w.s.acked()
	}
	return false
}

// accessRevision is up to which revision the rules are in force here. Where
// nothing may be reached, every revision is, as soon as nothing is.
func (w *Worker) accessRevision() uint64 {
	e := w.s.export
	switch {
	case w.s.f.ds == nil || e == nil:
		return 0
	case e.active:
		return e.revision
	case w.s.a.GetRole() == tarnv1.Role_ROLE_SECONDARY && (!w.s.readable() || w.s.locked()):
		return w.s.a.GetExports().GetRevision()
	}
	return 0
}

func (w *Worker) snapshots() []*tarnv1.SnapshotReport {
	var list []*tarnv1.SnapshotReport
	for _, s := range w.s.a.GetSnapshots() {
		v, ok := w.s.f.holding(zfs.GUID(s.GetGuid()))
		if s.GetGuid() == 0 && w.s.a.GetRole() == tarnv1.Role_ROLE_ACTIVE {
			v, ok = w.s.f.named(userPrefix + s.GetSnapshotId())
		}
		r := &tarnv1.SnapshotReport{SnapshotId: s.GetSnapshotId(), Guid: s.GetGuid(), Present: ok}
		if ok {
			r.Guid, r.TakenAt, r.ProviderLocation = uint64(v.GUID), timestamppb.New(v.Creation), v.FullName()
		} else if w.s.adopts(s) {
			r.Error = w.errorsOf[s.GetSnapshotId()]
		} else if t, tracked := w.cfg.Cadence.Tracking(w.cfg.ReplicaID); tracked && t.Err != nil && s.GetGuid() == 0 {
			r.Error = t.Err.Error()
		}
		list = append(list, r)
	}
	for _, s := range w.s.a.GetRemovedSnapshots() {
		_, here := w.s.f.named(userPrefix + s.GetSnapshotId())
		list = append(list, &tarnv1.SnapshotReport{
			SnapshotId: s.GetSnapshotId(), Guid: s.GetGuid(), Present: here, Error: w.errorsOf[s.GetSnapshotId()],
			Removed: !here && w.settled() || keepsName(s),
		})
	}
	return list
}

// mayCome reports a snapshot that is to be removed, is not here, and was not to be removed
// by the assignment before: what the source had of it may be on its way.
func (s *state) mayCome(old *tarnv1.Assignment) bool {
	for _, r := range s.a.GetRemovedSnapshots() {
		same := func(o *tarnv1.WantedSnapshot) bool { return o.GetSnapshotId() == r.GetSnapshotId() }
		if _, here := s.f.named(userPrefix + r.GetSnapshotId()); !here && !slices.ContainsFunc(old.GetRemovedSnapshots(), same) {
			return true
		}
	}
	return false
}

// settled reports that a snapshot which is not here will not come: a secondary
// that has not caught up may still receive it.
func (w *Worker) settled() bool {
	return w.s.a.GetRole() != tarnv1.Role_ROLE_SECONDARY || w.s.caughtUp
}

// problem is the error that the control plane hears: what stands in the way now.
func (w *Worker) problem() *tarnv1.ReplicaError {
	if w.refusal != nil {
		return w.refusalReport()
	}
	var worst *failure
	var of kind
	for k, f := range w.failures {
		if !f.normal() && (worst == nil || f.since.Before(worst.since)) {
			worst, of = f, k
		}
	}
	if t, ok := w.cfg.Cadence.Tracking(w.cfg.ReplicaID); worst == nil && ok && t.Err != nil {
		// Followers fall behind, and this replica alone knows why.
		worst, of = &failure{since: t.Failing, err: t.Err}, doSnapshot
	}
	if worst == nil {
		return w.damageReport()
	}
	code, sentence := explain(of, worst.err)
	return &tarnv1.ReplicaError{Code: code, Message: sentence, Since: timestamppb.New(worst.since), Retrying: true}
}

// damageReport is said of a replica that serves or follows in spite of what its pool
// cannot read.
func (w *Worker) damageReport() *tarnv1.ReplicaError {
	if w.s.damage == nil {
		return nil
	}
	return &tarnv1.ReplicaError{Code: tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED, Message: w.s.damage.Error(), Retrying: true}
}

func (w *Worker) refusalReport() *tarnv1.ReplicaError {
	r := w.refusal
	// A newer assignment is on its way, normally.
	waits := errors.Is(r.err, errEpochAhead) || errors.Is(r.err, errNoSource)
	_, renamed := errors.AsType[renamedAway](r.err)
	// Looked for again and again, and mended by somebody else.
	mendable := renamed || w.code == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_KEY_UNAVAILABLE || w.code == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED
	if waits && time.Since(r.since) < quietFor {
		return nil
	}
	return &tarnv1.ReplicaError{Code: w.code, Message: r.err.Error(), Since: timestamppb.New(r.since), Retrying: waits || mendable}
}

func copies(asides []zfs.Dataset) []*tarnv1.DivergentCopy {
	var list []*tarnv1.DivergentCopy
	for _, d := range asides {
		if c := CopyOf(d); c != nil {
			list = append(list, c)
		}
	}
	return list
}

// Harmless reports that a replica is unmounted or read-only, for certain: the
// demotion was finished, the copy follows another, or nothing is left. A dead-man
// need not guard it any more.
func Harmless(r *tarnv1.ReplicaReport) bool {
	if r.GetWritable() {
		return false
	}
	switch r.GetObservedRole() {
	case tarnv1.Role_ROLE_FENCED:
		return r.GetDemoteAck() != nil
	case tarnv1.Role_ROLE_SECONDARY:
		return r.GetReady()
	case tarnv1.Role_ROLE_DELETING, tarnv1.Role_ROLE_RELEASING:
		return r.GetGone()
	}
	return false
}
