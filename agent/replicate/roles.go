package replicate

import (
	"errors"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Why an assignment is not followed.
var (
	errRole       = errors.New("assignment without a role that this agent knows")
	errForeign    = errors.New("a dataset of this name is not marked as this replica's: move it away, tarn does not touch it")
	errEpochAhead = errors.New("the dataset is sealed under a later epoch than the assignment's: waiting for a newer assignment")
	errMissing    = errors.New("the dataset is missing: restore it, or promote another replica and delete this one")
	errNoBase     = errors.New("the dataset lacks the snapshot from which its epoch starts: somebody has rolled it back, or destroyed that. Promote another replica: this one then follows it, and what it has is put aside")
	errNoSource   = errors.New("assignment names no source to pull from")
	errNoOrigin   = errors.New("no replica has the snapshot that the share is made from: repair one that should have it, or delete the share")
)

// gib is one GiB in bytes.
const gib = int64(1) << 30

// active holds for the replica that may write. What ends reachability without a
// lease comes before everything that needs one.
func active(s *state) []rule {
	f, epoch := &s.f, s.a.GetEpoch()
	switch {
	case s.takesOver():
		return takeover(s)
	case f.ds == nil:
		return creating(s)
	}
	suspended := !s.lease
	ro := f.ds.ReadOnly
	rules := []rule{
		must(suspended && s.reachable(), do(doUnexport)),
		must(suspended && s.open(), do(doUnmount)),
		must(suspended && !ro, do(doReadOnly)),
		must(s.token(), do(doAbort)),
		fitting(s),
		must(f.marks.role != rolePrimary && !s.hasBase(), refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DIVERGED, errNoBase)),
		must(f.marks.role != rolePrimary || f.marks.epoch < epoch, s.marksFor(rolePrimary, epoch, "")),
		may(s.unlisted && len(unnoted(*f.ds, peerReplicas(s.a))) > 0, do(doNotePeers)),
		may(s.resize(), do(doQuota)),
	}
	return append(append(rules, unlocking(s)...), serving(s)...)
}

// serving lets the clients of an active replica in.
func serving(s *state) []rule {
	f := &s.f
	return []rule{
		must(s.lease && f.ds.ReadOnly, do(doWritable)),
		// Clients would write into the directory that is below.
		must(s.reachable() && !f.ds.Mounted || s.elsewhere(), do(doUnexport)),
		must(s.lease && s.misplaced(), do(doPath)),
		must(s.lease && !f.ds.Mounted, do(doMount)),
		may(s.lease && !s.exported(false), action{kind: doExport}),
		may(s.unadopted(), do(doAdoptSnaps)),
		may(s.unwanted(), do(doRetire)),
	}
}

// resize reports that the quota is not what is wanted, and was not refused.
func (s *state) resize() bool {
	want := s.a.GetSizeGib() * gib
	return want > 0 && (s.f.ds.RefQuota != want || s.f.ds.Quota != 0) && s.sizeRefused != want
}

// hasBase checks that the epoch's first snapshot is here, when the lineage says which.
func (s *state) hasBase() bool {
	for _, e := range s.a.GetLineage() {
		if e.GetEpoch() == s.a.GetEpoch() && e.GetOwnerReplicaId() == s.a.GetReplicaId() && e.GetBaseGuid() != 0 {
			_, ok := s.f.holding(zfs.GUID(e.GetBaseGuid()))
			return ok
		}
	}
	return true
}

// creating holds while an active replica has no dataset. An empty one is made
// only for a replica that never was: a missing dataset is not an empty share.
func creating(s *state) []rule {
	src := s.a.GetCloneSource()
	want := zfs.GUID(src.GetGuid())
	complete := s.f.arrived != 0
	return append(vanished(s), []rule{
		must(s.a.GetEstablished() || s.a.GetEpoch() > 1, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_MISSING, errMissing)),
		must(s.a.GetEncrypted() && src != nil, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_UNSUPPORTED, errKeyedClone)),
		must(s.a.GetEncrypted() && !s.keyed, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_UNSUPPORTED, errNoKeys)),
		must(src != nil && src.GetSource() == nil, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL, errNoOrigin)),
		must(s.deadToken && s.stagingToken(), do(doAbortStaging)),
		must(s.junk(), do(doDropStaging)),
		must(src != nil && complete, do(doAdopt)),
		must(src != nil && src.GetSamePool(), do(doClone)),
		must(src != nil && !s.pulling, action{kind: doPullStaging, want: want}),
		must(src == nil, do(doCreate)),
	}...)
}

// vanished holds where the dataset is not there: nobody reaches what is in its place by
// now, and one that was renamed is neither made anew nor sent again.
func vanished(s *state) []rule {
	return []rule{
		must(s.exposed(), do(doUnexport)),
		must(s.f.away != "", refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_MISSING, renamedAway{s.f.away, s.l.dataset()})),
	}
}

// secondary holds for a replica that follows another one.
func secondary(s *state) []rule {
	f, epoch := &s.f, s.a.GetEpoch()
	if s.takesOver() {
		return takeover(s)
	}
	if f.ds == nil {
		return append(vanished(s), []rule{
			must(s.a.GetSource() == nil, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL, errNoSource)),
			must(s.deadToken && s.stagingToken(), do(doAbortStaging)),
			must(s.junk(), do(doDropStaging)),
			must(f.arrived != 0, do(doAdopt)),
			may(!s.pulling, do(doPullStaging)),
		}...)
	}
	former := f.marks.role != roleReplica
	_, rebasing := f.marks.rebase()
	leave := former || rebasing || s.diverged != nil || s.modified
	// What the old owner wrote after its newest snapshot becomes a snapshot of its
	// own, so that divergence is always a matter of GUIDs.
	unknown := f.ds.Written < 0 && f.marks.role == rolePrimary && !strings.HasPrefix(f.newest().Name, divergentPrefix)
	dirty := s.modified || former && (f.ds.Written > 0 || unknown)
	empty := f.newest().GUID == 0 && !s.pulling && f.ds.ResumeToken == ""
	rules := []rule{
		must(leave && s.reachable(), do(doUnexport)),
		must(leave && s.mounted() || former && s.open(), do(doUnmount)),
		must(!f.ds.ReadOnly, do(doReadOnly)),
		must(f.marks.role == rolePrimary && !rebasing && s.unread(), do(doReadLog)),
		must(dirty && !rebasing, do(doSealHead)),
		must(s.dead(), do(doAbort)),
		must(rebasing, do(doPutAside)),
		must(s.diverged != nil, s.rebaseTo(s.diverged)),
		must(empty, s.rebaseTo(new(zfs.GUID))),
		must(former || f.marks.epoch < epoch, s.marksFor(roleReplica, epoch, "")),
		must(s.unheld() && s.promised(), do(doHoldLast)),
		fitting(s),
	}
	return append(append(rules, leftover(s)...), following(s)...)
}

// leftover drops a full stream on its way in the place of a dataset that is here: that one
// was away, under another name, and has come back.
func leftover(s *state) []rule {
	return []rule{
		may(s.stagingToken() && !s.pulling, do(doAbortStaging)),
		may(s.f.staging != nil && !s.stagingToken() && !s.pulling, do(doDropStaging)),
	}
}

// unread reports that the intent log may have what is in no snapshot (see readLog), and can
// be read.
func (s *state) unread() bool { return s.unseen() && !s.locked() && s.f.ds.Mountpoint != "" }

// unseen reports that the dataset was not mounted since this process began, nor was its
// last epoch ended by a life before.
func (s *state) unseen() bool { return !s.opened && !s.floored() }

// promised reports that a promotion counts on the newest snapshot. At other times
// retention holds what was received last, before it removes anything.
func (s *state) promised() bool {
	final := zfs.GUID(s.a.GetFinalGuid())
	return final != 0 && s.f.newest().GUID == final
}

// unheld reports that the newest snapshot is not yet held as last received. A
// sealed head is not: it was never received.
func (s *state) unheld() bool {
	n := s.f.newest()
	return n.GUID != 0 && n.GUID != s.heldLast && !strings.HasPrefix(n.Name, divergentPrefix)
}

func (s *state) rebaseTo(common *zfs.GUID) action {
	g := zfs.GUID(0)
	if common != nil {
		g = *common
	}
	return s.marksFor(s.f.marks.role, s.f.marks.epoch, rebasePrefix+g.String())
}

// following is the steady life of a secondary: seen by its clients, and pulling.
func following(s *state) []rule {
	show := s.readable() && !s.locked()
	return []rule{
		may(s.f.ds.Quota != 0 || s.f.ds.RefQuota != 0, do(doQuota)),
		may(s.misplaced(), do(doPath)),
		may(s.locked() && s.keyless == nil, do(doLoadKey)),
		// Clients would look at the directory that is below.
		may(s.reachable() && !s.f.ds.Mounted || s.elsewhere(), do(doUnexport)),
		may(show && s.confirmed && !s.f.ds.Mounted && !s.reachable(), do(doMount)),
		may(show && s.confirmed && s.f.ds.Mounted && !s.exported(true), action{kind: doExport, readOnly: true}),
		may(!show && s.reachable(), do(doUnexport)),
		may(!show && s.f.ds.Mounted, do(doUnmount)),
		may(s.unwanted(), do(doRetire)),
		may(s.a.GetSource() == nil, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL, errNoSource)),
		// What cannot be read is not built on.
		may(s.damage != nil, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED, s.damage)),
		may(!s.pulling && s.flags != "" && s.f.flags() == "", do(doKeepFlags)),
		may(s.wantPull && !s.pulling, do(doPull)),
	}
}

// readable reports that clients of a secondary may look at it.
func (s *state) readable() bool {
	switch s.a.GetReplicationType() {
	case tarnv1.ReplicationType_REPLICATION_TYPE_READABLE, tarnv1.ReplicationType_REPLICATION_TYPE_WRITABLE:
		return true
	case tarnv1.ReplicationType_REPLICATION_TYPE_DR:
		return false
	case tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED:
	}
	return len(s.a.GetExports().GetRules()) > 0
}

// fenced holds for an owner that gives up (reliability 3.6, D1 to D8) and for a
// target that is sealed (3.8, F2). Each step is verified by looking again.
func fenced(s *state) []rule {
	f := &s.f
	if f.ds == nil {
		return vanished(s)
	}
	floor := s.marksFor(roleFenced, s.a.GetEpoch()+1, s.a.GetOpId())
	if s.a.GetSeal() {
		return []rule{
			must(s.token(), do(doAbort)),
			must(!s.floored(), floor),
			may(s.reachable(), do(doUnexport)),
			may(f.ds.Mounted, do(doUnmount)),
		}
	}
	return []rule{
		must(s.reachable(), do(doUnexport)),
		must(s.open(), do(doUnmount)),
		must(!f.ds.ReadOnly, do(doReadOnly)),
		must(!s.final(), do(doFinal)),
		must(!s.floored(), floor),
	}
}

// final reports that the newest snapshot is the epoch's last and nothing was
// written after it.
func (s *state) final() bool {
	return isFinal(s.f.newest().Name, s.a.GetEpoch()) && s.f.ds.Written <= 0 && s.heldLast == s.f.newest().GUID
}

// floored reports that the dataset refuses the epoch that ends.
func (s *state) floored() bool {
	m := s.f.marks
	return m.role == roleFenced && m.epoch == s.a.GetEpoch()+1 && m.op == s.a.GetOpId()
}

// acked reports that the promotion may count on this side.
func (s *state) acked() bool {
	if s.a.GetRole() != tarnv1.Role_ROLE_FENCED || s.pulling {
		return false
	}
	if s.a.GetSeal() {
		return s.f.ds == nil && s.f.away == "" || s.floored() && !s.token()
	}
	return s.f.ds != nil && !s.reachable() && !s.open() && s.f.ds.ReadOnly && s.final() && s.floored()
}

// deleting holds for a replica that is to leave this host. Divergent copies stay.
func deleting(s *state) []rule {
	f := &s.f
	mine := f.ds != nil && s.own()
	return []rule{
		must(f.moved != nil, do(doFinishAside)),
		must(f.ds == nil && s.exposed(), do(doUnexport)),
		must(mine && s.reachable(), do(doUnexport)),
		must(mine && f.ds.Mounted, do(doUnmount)),
		must(mine && s.token(), do(doAbort)),
		must(mine && f.newest().GUID != 0, do(doDropSnapshots)),
		must(mine, do(doDestroy)),
		must(s.stagingToken(), do(doAbortStaging)),
		must(f.staging != nil, do(doDropStaging)),
		must(true, do(doGone)),
	}
}
