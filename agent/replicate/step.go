package replicate

import (
	"strings"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// state is all that the next action follows from.
type state struct {
	a     *tarnv1.Assignment
	l     layout
	f     facts
	lease bool

	// export is what the exporter confirmed last; nil when that is not known.
	export *exportState
	// pulling: a stream is being received in the background.
	pulling bool
	// wantPull: the source has, or may have, something new.
	wantPull bool
	// diverged: the source said that histories forked after this GUID (0: nothing in common).
	diverged *zfs.GUID
	// modified: the head of the dataset is not its newest snapshot, though nobody may write.
	modified bool
	// deadToken: the source cannot resume what is half received.
	deadToken bool
	// caughtUp: a pull of this part of life ended with nothing left to send.
	caughtUp bool
	// confirmed: what is here belongs to the source's history, as far as is known.
	// Before, a former owner shows nothing (reliability 3.9, R1).
	confirmed bool
	// flags of the last stream, to be kept with the dataset. otherFlags are tried once
	// where it keeps none and the first try did not fit.
	flags, otherFlags string
	// news is the head that the feed told last.
	news zfs.GUID
	// heldLast is the snapshot known to be held as last received.
	heldLast zfs.GUID
	// heldOlder: others may be held as last received too, and retention is to let them go.
	heldOlder bool
	// sizeRefused is a size that did not fit the data.
	sizeRefused int64
	// taken is the cadence's count that the facts include, mountedAt when the mount
	// state was last looked at or changed.
	taken     uint64
	mountedAt time.Time
	// tracked is the newest snapshot that the cadence saw last.
	tracked zfs.GUID
	// changedAt is when the facts were last read, or changed by an action or a stream:
	// an older listing says nothing about them.
	changedAt time.Time
	// released: an unmount succeeded since the dataset was last mounted, so that no
	// handle is open on it. That it is not mounted proves nothing: the dead-man's
	// fence ends reachability by path and leaves open handles writing.
	released bool
	// opened: the dataset was mounted since this process began.
	opened bool
	// unlisted: the engine does not say whose holds there are.
	unlisted bool
	// compared: the source can go on from the dataset that is to be taken over;
	// unrelated: it cannot. formerFree: nobody has that one open.
	compared, unrelated, formerFree bool
	// pathTried: the former mountpoint was set, or refused.
	pathTried bool
	// untied: nothing of tarn's is held on the dataset that is given back.
	untied bool
	// damage is what the pool cannot read of the dataset.
	damage error
	// keyed: this host keeps keys, so encrypted shares can start here.
	keyed bool
	// keyless is why the key of a locked dataset cannot be loaded; nil when it can be tried.
	keyless error
	// gone: the replica was removed; nothing is to be looked at again.
	gone bool
	// backoff tells actions that failed a moment ago.
	backoff func(kind) bool
}

// exportState is what clients can reach.
type exportState struct {
	active   bool // false: nothing is exported
	revision uint64
	readOnly bool
	at       string // the mountpoint
}

// kind is what an action does.
type kind string

// Actions, each idempotent and safe to be cut anywhere.
const (
	doIdle          kind = "idle"
	doRefuse        kind = "refuse"
	doCreate        kind = "create dataset"
	doClone         kind = "clone snapshot"
	doAdopt         kind = "adopt received dataset"
	doLoadKey       kind = "load encryption key"
	doMark          kind = "mark dataset"
	doKeepFlags     kind = "keep flags of streams"
	doAbort         kind = "abort receive"
	doAbortStaging  kind = "abort staged receive"
	doQuota         kind = "set quota"
	doWritable      kind = "set writable"
	doReadOnly      kind = "set read-only"
	doMount         kind = "mount"
	doUnmount       kind = "unmount"
	doExport        kind = "export"
	doUnexport      kind = "unexport"
	doPull          kind = "pull"
	doPullStaging   kind = "pull everything"
	doHoldLast      kind = "hold received snapshot"
	doReadLog       kind = "read intent log"
	doSealHead      kind = "snapshot diverged head"
	doPutAside      kind = "put aside"
	doRebase        kind = "clone common snapshot"
	doPromote       kind = "promote clone"
	doFinishAside   kind = "record divergent copy"
	doFinal         kind = "final snapshot"
	doNotePeers     kind = "note peers"
	doRetire        kind = "remove user snapshots"
	doDropSnapshots kind = "drop snapshots"
	doDestroy       kind = "destroy dataset"
	doDropStaging   kind = "destroy staging"
	doGone          kind = "gone"
	doPrune         kind = "prune snapshots"
	doSnapshot      kind = "take snapshot" // by the cadence
	doCompare       kind = "compare with the active replica"
	doAdoptSnaps    kind = "take over snapshots"
	doRecord        kind = "record what the dataset is like"
	doFree          kind = "unmount the dataset to take over"
	doTakeOver      kind = "take over dataset"
	doPath          kind = "keep mountpoint"
	doUntie         kind = "release holds"
	doGiveBack      kind = "give back dataset"
	doRestore       kind = "restore properties"
	doRestoreFormer kind = "restore what was given back"
)

// action is the next thing to do. The fields that a kind does not need are zero.
type action struct {
	kind kind
	// marks to set, for doMark.
	marks marks
	// readOnly says how to export.
	readOnly bool
	// want is the one snapshot to pull for a clone.
	want zfs.GUID
	// err and code explain doRefuse.
	err  error
	code tarnv1.ReplicaErrorCode
}

// rule is one condition with its action. A rule that must hold before anything
// behind it is tried is a barrier: its failure stops the list.
type rule struct {
	when    bool
	barrier bool
	act     action
}

// first picks the first rule that applies and is not backing off.
func first(s *state, rules []rule) action {
	for _, r := range rules {
		if !r.when {
			continue
		}
		if r.act.kind == doRefuse || !s.backoff(r.act.kind) {
			return r.act
		}
		if r.barrier {
			return action{kind: doIdle}
		}
	}
	return action{kind: doIdle}
}

func must(when bool, a action) rule { return rule{when: when, barrier: true, act: a} }
func may(when bool, a action) rule  { return rule{when: when, act: a} }
func do(k kind) action              { return action{kind: k} }

func refuse(code tarnv1.ReplicaErrorCode, err error) action {
	return action{kind: doRefuse, code: code, err: err}
}

// step decides the next action. It is pure.
func step(s *state) action {
	if s.gone {
		return do(doIdle)
	}
	switch s.a.GetRole() {
	case tarnv1.Role_ROLE_ACTIVE:
		return first(s, append(guard(s), active(s)...))
	case tarnv1.Role_ROLE_SECONDARY:
		return first(s, append(guard(s), secondary(s)...))
	case tarnv1.Role_ROLE_FENCED:
		return first(s, append(guard(s), fenced(s)...))
	case tarnv1.Role_ROLE_DELETING:
		return first(s, deleting(s))
	case tarnv1.Role_ROLE_RELEASING:
		return first(s, append(unfinished(s), releasing(s)...))
	case tarnv1.Role_ROLE_UNSPECIFIED:
	}
	return refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_UNSUPPORTED, errRole)
}

// guard holds for every role but removal: unfinished rebases end first, foreign
// datasets and later epochs are left alone.
func guard(s *state) []rule {
	f := &s.f
	return append(unfinished(s),
		must(f.ds != nil && !s.own(), refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_PERMISSION_DENIED, errForeign)),
		must(f.ds != nil && s.ahead(), refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL, errEpochAhead)),
	)
}

// unfinished ends a rebase that was cut.
func unfinished(s *state) []rule {
	f := &s.f
	cloneOf := f.ds != nil && f.moved != nil && strings.HasPrefix(f.ds.Origin, f.moved.Name+"@")
	return []rule{
		must(f.moved != nil && f.ds == nil && f.common() != 0, do(doRebase)),
		must(cloneOf, do(doPromote)),
		must(f.moved != nil, do(doFinishAside)),
	}
}

// own reports that the dataset carries this replica's local marks.
func (s *state) own() bool {
	return s.f.marks.share == s.a.GetShareId() && s.f.marks.replica == s.a.GetReplicaId()
}

// ahead reports that the dataset is sealed against this assignment's epoch. The
// promotion that raised the floor goes on acting under the epoch that it ends.
func (s *state) ahead() bool {
	m, epoch := s.f.marks, s.a.GetEpoch()
	if s.a.GetRole() == tarnv1.Role_ROLE_FENCED && m.role == roleFenced && m.op == s.a.GetOpId() {
		return m.epoch > epoch+1
	}
	return m.epoch > epoch
}

func (s *state) marksFor(role string, epoch uint64, op string) action {
	return action{kind: doMark, marks: marks{share: s.a.GetShareId(), replica: s.a.GetReplicaId(), role: role, epoch: epoch, op: op}}
}

// reachable reports that clients may reach the dataset, or that it is not known.
func (s *state) reachable() bool { return s.export == nil || s.export.active }

// exposed reports that clients may reach where the dataset was, whatever is there now.
func (s *state) exposed() bool { return s.export != nil && s.export.active }

func (s *state) mounted() bool { return s.f.ds != nil && s.f.ds.Mounted }

// open reports that somebody may still write: by path, or through a handle.
func (s *state) open() bool { return s.f.ds != nil && (s.f.ds.Mounted || !s.released) }

func (s *state) token() bool { return s.f.ds != nil && s.f.ds.ResumeToken != "" }

// dead reports half a receive that cannot be ended: the source does not know it, or the
// dataset got another newest snapshot since, which ZFS finds out at its very end, each time
// that it is resumed.
func (s *state) dead() bool {
	stranded := s.f.base != 0 && s.f.newest().GUID != s.f.base && !s.pulling
	return s.token() && (s.deadToken || stranded)
}

// stagingToken reports half a full stream.
func (s *state) stagingToken() bool { return s.f.staging != nil && s.f.staging.ResumeToken != "" }

// junk reports a staging dataset that is neither half received nor complete.
func (s *state) junk() bool {
	return s.f.staging != nil && s.f.staging.ResumeToken == "" && s.f.arrived == 0 && !s.pulling
}

// exported reports that the wanted rules are in force.
func (s *state) exported(readOnly bool) bool {
	e := s.export
	return e != nil && e.active && e.readOnly == readOnly && e.revision == s.a.GetExports().GetRevision() && !s.elsewhere()
}

// elsewhere reports that clients reach the path where the dataset was mounted before
// somebody gave it another mountpoint: what they find there is something else.
func (s *state) elsewhere() bool {
	return s.exposed() && s.f.ds != nil && s.export.at != "" && s.export.at != s.f.ds.Mountpoint
}

// unwanted reports that a snapshot is here which the control plane wants removed.
func (s *state) unwanted() bool {
	for _, r := range s.a.GetRemovedSnapshots() {
		if _, ok := s.f.named(userPrefix + r.GetSnapshotId()); ok && !keepsName(r) {
			return true
		}
	}
	return false
}
