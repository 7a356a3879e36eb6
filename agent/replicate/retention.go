package replicate

import (
	"slices"
	"strings"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// defaultRecent is how many of the newest replication snapshots stay whatever else
// holds: enough for the control plane to learn a head and protect it on the
// other hosts before they prune it.
const defaultRecent = 16

// defaultAway is for how long a peer that is away keeps a snapshot here from being
// removed. Then a bookmark takes its place: the peer goes on by an increment all
// the same, and a disk does not fill for the sake of who never comes back.
const defaultAway = 24 * time.Hour

// keeping is what retention on one host follows from. It is local: no other host
// can have anything removed here.
type keeping struct {
	versions []zfs.Version // by createtxg
	// tags are the holds on each snapshot, by its name.
	tags map[string][]string
	// late are the holds that are older than a peer may be away.
	late map[release]bool
	// self is this replica; following says that it receives.
	self      string
	following bool
	// peers are the replicas that pull from this one; strange those that nobody has
	// known for long.
	peers   []string
	strange map[string]bool
	// protected are the GUIDs that the control plane counts on, fixed those among
	// them that a bookmark cannot stand for: bases of the lineage.
	protected, fixed map[zfs.GUID]bool
	recent           int
	// users are GUIDs of snapshots that users asked for, whatever their names.
	users map[zfs.GUID]bool
	// policy keeps more, by the age at now.
	policy policy
	now    time.Time
	// clones are datasets that stand on a snapshot, by its name; stuck says what kept
	// a snapshot from being destroyed when that was tried.
	clones map[string][]string
	stuck  map[zfs.GUID]string
}

// release is one hold to let go of.
type release struct {
	tag  string
	name string
}

// conversion is a snapshot whose place bookmarks take, one per replica that may
// need it as a base.
type conversion struct {
	of       zfs.Version
	replicas []string
}

// verdict is what retention does, in this order.
type verdict struct {
	convert []conversion
	release []release
	// stale is how many of release had been forgotten by a replica nobody knows.
	stale int
	// cursors are bookmarks of such replicas.
	cursors []zfs.Version
	destroy []zfs.Version
	// judged are all snapshots with what keeps them, by createtxg.
	judged []judgement
}

// idle reports that there is nothing to do.
func (v verdict) idle() bool {
	return len(v.convert)+len(v.release)+len(v.cursors)+len(v.destroy) == 0
}

// judgement is one snapshot with all that keeps it; nothing does if it goes.
type judgement struct {
	of      zfs.Version
	reasons []reason
	// overdue: the policy is responsible for it and would let it go, other than it
	// nothing of tarn's own needs it, and still it has to stay.
	overdue bool
}

// reason is why a snapshot stays, with what a reader would ask next.
type reason struct {
	kind   tarnv1.RetentionReason
	detail string
}

// Reasons, short.
const (
	whyNewest    = tarnv1.RetentionReason_RETENTION_REASON_NEWEST
	whyRecent    = tarnv1.RetentionReason_RETENTION_REASON_RECENT
	whyPolicy    = tarnv1.RetentionReason_RETENTION_REASON_POLICY
	whyLineage   = tarnv1.RetentionReason_RETENTION_REASON_LINEAGE
	whyBase      = tarnv1.RetentionReason_RETENTION_REASON_BASE
	whyHeld      = tarnv1.RetentionReason_RETENTION_REASON_HELD
	whyClone     = tarnv1.RetentionReason_RETENTION_REASON_CLONED
	whyUser      = tarnv1.RetentionReason_RETENTION_REASON_USER
	whyForeign   = tarnv1.RetentionReason_RETENTION_REASON_FOREIGN
	whyDivergent = tarnv1.RetentionReason_RETENTION_REASON_DIVERGENT
	whyStuck     = tarnv1.RetentionReason_RETENTION_REASON_STUCK
)

// prune decides what goes: holds that guard nothing any more, and replication
// snapshots that no replica can need as a base and the policy does not keep. It is
// pure. What is not the policy's, the newest snapshot, and whatever is held or
// cloned stay.
func (k keeping) prune() (v verdict) {
	var snaps []zfs.Version
	marked := map[zfs.GUID]bool{}
	for _, x := range k.versions {
		id := cursorOwner(x)
		switch {
		case x.Kind == zfs.KindSnapshot:
			snaps = append(snaps, x)
		case id != "" && k.strange[id]:
			v.cursors = append(v.cursors, x)
		case id != "":
			marked[x.GUID] = true
		}
	}
	aged, recent := k.policy.grid(snaps, k.now), k.recents(snaps)
	for i, s := range snaps {
		n := need{newest: i == len(snaps)-1, recent: recent[s.GUID], base: k.protected[s.GUID] && !marked[s.GUID]}
		n.rule, n.aged = aged[s.GUID]
		k.judge(s, n, &v)
	}
	return v
}

// recents are the newest snapshot, whoever's it is, and with it as many as have to stay of
// the newest of tarn's own: however many others there are in between, replicas need time to
// find a base among these.
func (k keeping) recents(snaps []zfs.Version) map[zfs.GUID]bool {
	out := map[zfs.GUID]bool{}
	for i, s := range slices.Backward(snaps) {
		if i == len(snaps)-1 || len(out) < k.recent && len(k.belongs(s)) == 0 {
			out[s.GUID] = true
		}
	}
	return out
}

// need is what tarn itself wants of one snapshot.
type need struct {
	newest, recent, base, aged bool
	rule                       int // of the policy, that keeps it for its age
}

// judge decides about one snapshot.
func (k keeping) judge(s zfs.Version, n need, v *verdict) {
	needed := n.recent || n.base || k.fixed[s.GUID]
	held, away := k.holders(s, needed, v)
	j := judgement{of: s, reasons: k.belongs(s)}
	theirs := len(j.reasons) > 0
	j.reasons = append(j.reasons, k.needs(s, n)...)
	own := len(j.reasons) > 0
	j.reasons = append(j.reasons, held...)
	for _, c := range k.clones[s.Name] {
		j.reasons = append(j.reasons, reason{whyClone, c})
	}
	if why, ok := k.stuck[s.GUID]; ok && len(j.reasons) == 0 {
		j.reasons = append(j.reasons, reason{whyStuck, why})
	}
	pinned := len(held) > 0 || len(k.clones[s.Name]) > 0 || k.stuck[s.GUID] != ""
	switch {
	case theirs || pinned || len(away) > 0 && (n.recent || n.aged || k.fixed[s.GUID]):
		// Late holds stay with what stays anyway.
		for _, replica := range away {
			j.reasons = append(j.reasons, reason{whyHeld, holdStep + replica})
		}
		j.overdue = !own
	case len(away) > 0:
		for _, replica := range away {
			v.release = append(v.release, release{tag: holdStep + replica, name: s.Name})
		}
		v.convert = append(v.convert, conversion{of: s, replicas: append(away, k.silent(s)...)})
		v.destroy = append(v.destroy, s)
		j.reasons = nil
	case !needed && !n.aged:
		v.destroy = append(v.destroy, s)
	}
	v.judged = append(v.judged, j)
}

// belongs tells who else a snapshot belongs to; nobody for what retention may remove.
func (k keeping) belongs(s zfs.Version) []reason {
	switch {
	case k.users[s.GUID] || strings.HasPrefix(s.Name, userPrefix):
		return []reason{{kind: whyUser}}
	case strings.HasPrefix(s.Name, divergentPrefix):
		return []reason{{kind: whyDivergent}}
	case !k.policy.removable(s.Name):
		return []reason{{kind: whyForeign}}
	}
	return nil
}

// needs tells what tarn keeps a snapshot for.
func (k keeping) needs(s zfs.Version, n need) []reason {
	var list []reason
	if n.newest {
		list = append(list, reason{kind: whyNewest})
	}
	if n.recent && !n.newest {
		list = append(list, reason{kind: whyRecent})
	}
	if n.aged {
		list = append(list, reason{whyPolicy, k.policy.ruleText(n.rule)})
	}
	if k.fixed[s.GUID] {
		list = append(list, reason{kind: whyLineage})
	} else if n.base {
		list = append(list, reason{kind: whyBase})
	}
	return list
}

// holders reads the holds on one snapshot: those that keep it, and the peers whose
// own are late. Holds that guard nothing are released.
func (k keeping) holders(s zfs.Version, needed bool, v *verdict) (held []reason, away []string) {
	for _, tag := range k.tags[s.Name] {
		r := release{tag: tag, name: s.Name}
		replica := owner(tag)
		switch {
		case replica != "" && k.strange[replica]:
			v.release = append(v.release, r)
			v.stale++
		case tag == holdLast+k.self && !k.following && !needed:
			// A receipt of a time when this replica still followed.
			v.release = append(v.release, r)
		case k.late[r] && tag == holdStep+replica && slices.Contains(k.peers, replica):
			away = append(away, replica)
		default:
			held = append(held, reason{whyHeld, tag})
		}
	}
	// References whose tag could not be listed are somebody's.
	if s.UserRefs > len(k.tags[s.Name]) {
		held = append(held, reason{whyHeld, "a tag that this storage does not list"})
	}
	return held, away
}

// silent are the peers that may stand on s though they never asked here: the
// control plane protects it, and nothing is held for them.
func (k keeping) silent(s zfs.Version) []string {
	if !k.protected[s.GUID] {
		return nil
	}
	asked := map[string]bool{}
	for _, tags := range k.tags {
		for _, tag := range tags {
			if replica, ok := strings.CutPrefix(tag, holdStep); ok {
				asked[replica] = true
			}
		}
	}
	var list []string
	for _, p := range k.peers {
		if !asked[p] {
			list = append(list, p)
		}
	}
	return list
}
