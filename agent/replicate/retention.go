package replicate

import (
	"strings"

	"tarn/zfs"
)

// defaultRecent is how many of the newest replication snapshots stay whatever else
// holds: enough for the control plane to learn a head and protect it on the
// other hosts before they prune it.
const defaultRecent = 16

// keeping is what retention on one host follows from. It is local: no other host
// can have anything removed here.
type keeping struct {
	versions []zfs.Version // by createtxg
	// tags are the holds on each snapshot, by its name.
	tags map[string][]string
	// self is this replica; following says that it receives.
	self      string
	following bool
	// peers are the replicas that pull from this one.
	peers []string
	// protected are the GUIDs that the control plane counts on, and lineage bases.
	protected map[zfs.GUID]bool
	recent    int
}

// release is one hold to let go of.
type release struct {
	tag  string
	name string
}

// prune decides what goes: holds that guard nothing any more, and replication
// snapshots that no replica can need as a base. It is pure. What has no name of
// tarn's, the newest snapshot, and whatever is held stay.
func (k keeping) prune() (releases []release, destroy []zfs.Version) {
	var snaps []zfs.Version
	for _, v := range k.versions {
		if v.Kind == zfs.KindSnapshot {
			snaps = append(snaps, v)
		}
	}
	for i, v := range snaps {
		needed := len(snaps)-i <= max(k.recent, 1) || k.protected[v.GUID]
		stale, held := k.stale(v, needed)
		releases = append(releases, stale...)
		if !held && !needed && prunable(v.Name) {
			destroy = append(destroy, v)
		}
	}
	return releases, destroy
}

// stale sorts the holds of a snapshot into those to let go and those that stay.
func (k keeping) stale(v zfs.Version, needed bool) (stale []release, held bool) {
	tags := k.tags[v.Name]
	for _, tag := range tags {
		if k.dead(tag, needed) {
			stale = append(stale, release{tag: tag, name: v.Name})
		} else {
			held = true
		}
	}
	// A reference whose tag could not be listed is somebody's.
	return stale, held || v.UserRefs > len(tags)
}

// dead reports that a hold of tarn's own guards nothing: a step of a replica that
// is no peer any more, or a receipt of a time when this replica still followed.
func (k keeping) dead(tag string, needed bool) bool {
	if replica, ok := strings.CutPrefix(tag, holdStep); ok {
		return !contains(k.peers, replica)
	}
	if replica, ok := strings.CutPrefix(tag, holdLast); ok && replica == k.self {
		return !k.following && !needed
	}
	return false
}
