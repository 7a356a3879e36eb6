package replicate

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// tracked says what the cadence has to do for this replica; ok is false while it
// may not snapshot it: not active, or not yet marked so.
func (w *Worker) tracked() (t Tracked, ok bool) {
	a, f := w.s.a, &w.s.f
	if a.GetRole() != tarnv1.Role_ROLE_ACTIVE || f.ds == nil || !w.s.own() || f.marks.role != rolePrimary || f.marks.epoch != a.GetEpoch() {
		return Tracked{}, false
	}
	t = Tracked{
		Share: a.GetShareId(), Replica: a.GetReplicaId(), Dataset: w.l.dataset(), Epoch: a.GetEpoch(),
		Every: a.GetCadence().AsDuration(), Peers: peerHosts(a), Notify: w.poke,
	}
	for _, s := range a.GetSnapshots() {
		if s.GetGuid() == 0 && s.GetManagedFrom() == "" {
			t.Wanted = append(t.Wanted, userPrefix+s.GetSnapshotId())
		}
	}
	return t, true
}

func peerHosts(a *tarnv1.Assignment) []string {
	var hosts []string
	for _, p := range a.GetPeers() {
		hosts = append(hosts, p.GetHostId())
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func peerReplicas(a *tarnv1.Assignment) []string {
	var ids []string
	for _, p := range a.GetPeers() {
		ids = append(ids, p.GetReplicaId())
	}
	return ids
}

// noticeTracking looks at what the cadence saw: snapshots that are waited for, and
// a dataset that was unmounted behind our back.
func (w *Worker) noticeTracking() {
	t, ok := w.cfg.Cadence.Tracking(w.cfg.ReplicaID)
	if !ok || t.Listed.IsZero() {
		return
	}
	// A command that failed may have taken its snapshot all the same.
	if t.Taken != w.s.taken || t.Head.GUID != w.s.tracked {
		w.s.taken, w.s.tracked = t.Taken, t.Head.GUID
		w.stale = w.stale || w.missingUserSnapshots()
		if _, known := w.s.f.holding(t.Head.GUID); !known && t.Head.GUID != 0 {
			w.s.f.versions = append(w.s.f.versions, t.Head)
			w.s.changedAt = time.Now()
		}
	}
	if w.s.f.ds.Mounted && !t.Mounted && t.Listed.After(w.s.mountedAt) {
		w.stale = true
		w.lostMount(t.Listed.Sub(w.s.mountedAt))
		w.s.mountedAt = t.Listed
	}
}

// lastsFor is how long a mount has to last for its end to be somebody's doing, which is
// mended at once.
const lastsFor = time.Minute

// errMountLost: zfs-fuse serves a thousand filesystems, and lets go of the next one a
// moment after its mount has succeeded.
var errMountLost = errors.New("the dataset does not stay mounted: look who unmounts it, and whether there are more filesystems than zfs-fuse can serve (1,000)")

// lostMount holds up the next mount the longer the more often the last ones were short.
func (w *Worker) lostMount(lasted time.Duration) {
	if lasted > lastsFor {
		w.brief = 0
		return
	}
	f := &failure{count: w.brief, since: time.Now()}
	if w.brief++; w.brief > 1 {
		f.add(errMountLost, time.Now())
		w.failures[doMount] = f
	}
}

func (w *Worker) missingUserSnapshots() bool {
	for _, s := range w.s.a.GetSnapshots() {
		if _, ok := w.s.f.named(userPrefix + s.GetSnapshotId()); !ok && s.GetGuid() == 0 {
			return true
		}
	}
	return false
}

// postFrozen lets the followers of a demoted owner see its final snapshot; others
// post nothing.
func (w *Worker) postFrozen() {
	a, n := w.s.a, w.s.f.newest()
	if !w.s.acked() || n.GUID == 0 {
		w.cfg.Board.Withdraw(w.cfg.ReplicaID)
		return
	}
	w.cfg.Board.Publish(stream.Head{
		Share: a.GetShareId(), Replica: a.GetReplicaId(), Epoch: a.GetEpoch(), GUID: n.GUID, Created: n.Creation,
		Frozen: true, Peers: peerHosts(a),
	})
}

// followSource watches the source's heads and wants to pull when they change.
func (w *Worker) followSource() {
	src := w.s.a.GetSource()
	key := fmt.Sprintf("%s %s %s %d", src.GetHostId(), src.GetAddress(), src.GetReplicaId(), w.s.a.GetEpoch())
	if w.follow == nil || w.source != key {
		w.unfollow()
		w.follow, w.source = w.cfg.Feed.Follow(src, w.poke), key
		w.mu.Lock()
		w.view.follow = w.follow
		w.mu.Unlock()
	}
	seen, ok := w.follow.Seen()
	if !ok || seen.Epoch != w.s.a.GetEpoch() {
		return
	}
	if seen.GUID != w.s.news {
		w.s.news = seen.GUID
		_, held := w.s.f.holding(seen.GUID)
		w.s.wantPull = w.s.wantPull || !held
	}
}

func (w *Worker) unfollow() {
	if w.follow == nil {
		return
	}
	w.follow.Stop()
	w.follow, w.source = nil, ""
	w.mu.Lock()
	w.view.follow = nil
	w.mu.Unlock()
}

// remounted reports that somebody mounted or unmounted the dataset, by a listing that was
// begun at a moment.
func (w *Worker) remounted(mounted bool, begun time.Time) bool {
	return w.s.f.ds != nil && w.s.f.ds.Mounted != mounted && begun.After(w.s.mountedAt)
}

// differs reports that somebody else changed the dataset, put another one in its place,
// or took or destroyed its newest snapshot, by a listing that was begun at a moment.
func (w *Worker) differs(d zfs.Dataset, versions []zfs.Version, begun time.Time) bool {
	ds := w.s.f.ds
	if ds == nil || w.s.pulling || !begun.After(w.s.changedAt) {
		return false
	}
	return d.GUID != ds.GUID || d.ReadOnly != ds.ReadOnly || d.Mountpoint != ds.Mountpoint || d.Quota != ds.Quota || d.RefQuota != ds.RefQuota ||
		marksOf(d) != w.s.f.marks || (&facts{versions: versions}).newest().GUID != w.s.f.newest().GUID
}

// mountSeen remembers when the mount state was set by us: an older listing of the
// cadence says nothing about it.
func (w *Worker) mountSeen() { w.s.mountedAt = time.Now() }
