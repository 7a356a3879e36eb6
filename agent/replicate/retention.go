package replicate

import (
	"strings"
	"time"

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
}

// prune decides what goes: holds that guard nothing any more, and replication
// snapshots that no replica can need as a base. It is pure. What has no name of
// tarn's, the newest snapshot, and whatever is held stay.
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
	for i, s := range snaps {
		recent := len(snaps)-i <= max(k.recent, 1)
		needed := recent || k.fixed[s.GUID] || k.protected[s.GUID] && !marked[s.GUID]
		k.judge(s, recent, needed, &v)
	}
	return v
}

// judge decides about one snapshot.
func (k keeping) judge(s zfs.Version, recent, needed bool, v *verdict) {
	stays := s.UserRefs - len(k.tags[s.Name]) // references whose tag could not be listed are somebody's
	var away []string
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
		case k.late[r] && tag == holdStep+replica && contains(k.peers, replica):
			away = append(away, replica)
		default:
			stays++
		}
	}
	if stays > 0 || !prunable(s.Name) {
		return
	}
	if len(away) > 0 {
		if recent || k.fixed[s.GUID] {
			return
		}
		for _, replica := range away {
			v.release = append(v.release, release{tag: holdStep + replica, name: s.Name})
		}
		v.convert = append(v.convert, conversion{of: s, replicas: append(away, k.silent(s)...)})
		v.destroy = append(v.destroy, s)
		return
	}
	if !needed {
		v.destroy = append(v.destroy, s)
	}
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
