package assignment

import (
	"cmp"
	"slices"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// ForHost returns the whole desired set of a host, in the order of the replicas'
// ids, and its revision: the raft index of the last change that concerns the
// host. Unknown hosts get an empty set.
func ForHost(view *raftfsm.View, hostID string) ([]*tarnv1.Assignment, uint64) {
	revision, _ := view.HostRevision(hostID)
	var out []*tarnv1.Assignment
	gathered := make(map[string]*facts)
	for r := range view.ReplicasOnHost(hostID) {
		f := gathered[r.GetShareId()]
		if f == nil {
			share, ok := view.Share(r.GetShareId())
			if !ok {
				continue
			}
			f = gather(view, share)
			gathered[r.GetShareId()] = f
		}
		out = append(out, f.assignment(r))
	}
	slices.SortFunc(out, func(a, b *tarnv1.Assignment) int { return cmp.Compare(a.GetReplicaId(), b.GetReplicaId()) })
	return out, revision
}

func gather(view *raftfsm.View, share *tarnv1.Share) *facts {
	f := &facts{
		share: share, replicas: view.ReplicasOfShare(share.GetId()), host: view.Host,
		snapshots: slices.SortedFunc(view.SnapshotsOfShare(share.GetId()), older),
		rules:     slices.SortedFunc(view.AccessRulesOfShare(share.GetId()), ruleOrder),
		clone:     cloneSource(view, share),
		holds: func(replicaID, snapshotID string) bool {
			_, ok := view.InstanceOn(snapshotID, replicaID)
			return ok
		},
	}
	for _, s := range f.snapshots {
		for clone := range view.SharesFromSnapshot(s.GetId()) {
			f.guests = append(f.guests, beingCloned(view, clone)...)
		}
	}
	return f
}

func older(a, b *tarnv1.Snapshot) int {
	if c := a.GetCreatedAt().AsTime().Compare(b.GetCreatedAt().AsTime()); c != 0 {
		return c
	}
	return cmp.Compare(a.GetId(), b.GetId())
}

func ruleOrder(a, b *tarnv1.AccessRule) int { return cmp.Compare(a.GetId(), b.GetId()) }

// isBeingCloned reports the first replica of a share that is made from a snapshot, until
// it has served. Its status is no guide: what failed, or was reset by hand, still has to
// start from the snapshot, and must not become an empty share.
func isBeingCloned(share *tarnv1.Share, r *tarnv1.Replica) bool {
	return share.GetSnapshotId() != "" && share.GetFencing().GetOwnerReplicaId() == r.GetId() && r.GetLaunchedAt() == nil &&
		r.GetStatus() != tarnv1.Status_STATUS_DELETING && r.GetStatus() != tarnv1.Status_STATUS_ERROR_DELETING && !unmanaging(r)
}

// beingCloned returns the replica of a share that still copies its snapshot.
func beingCloned(view *raftfsm.View, share *tarnv1.Share) []*tarnv1.Replica {
	r, ok := view.Replica(share.GetFencing().GetOwnerReplicaId())
	if !ok || !isBeingCloned(share, r) {
		return nil
	}
	return []*tarnv1.Replica{r}
}

// cloneSource finds where the snapshot is that a share starts from: on the same
// pool if possible, else preferably on the replica that its own share writes to. While
// it is nowhere the answer names no source: the host waits for one.
func cloneSource(view *raftfsm.View, share *tarnv1.Share) *tarnv1.CloneSource {
	first := beingCloned(view, share)
	if len(first) == 0 {
		return nil
	}
	snap, ok := view.Snapshot(share.GetSnapshotId())
	if !ok || snap.GetGuid() == 0 {
		return &tarnv1.CloneSource{}
	}
	origin, _ := view.Share(snap.GetShareId())
	var chosen *tarnv1.Replica
	for _, r := range view.ReplicasOfShare(snap.GetShareId()) {
		inst, ok := view.InstanceOn(snap.GetId(), r.GetId())
		if !ok || inst.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
			continue
		}
		if samePool(r, first[0]) {
			return newCloneSource(view, snap, r, true)
		}
		if chosen == nil || r.GetId() == origin.GetFencing().GetOwnerReplicaId() {
			chosen = r
		}
	}
	return newCloneSource(view, snap, chosen, false)
}

func newCloneSource(view *raftfsm.View, snap *tarnv1.Snapshot, r *tarnv1.Replica, same bool) *tarnv1.CloneSource {
	source := sourceOf(r, view.Host)
	if source == nil {
		return &tarnv1.CloneSource{ShareId: snap.GetShareId()}
	}
	return &tarnv1.CloneSource{ShareId: snap.GetShareId(), Source: source, Guid: snap.GetGuid(), SamePool: same}
}

func samePool(a, b *tarnv1.Replica) bool {
	return a.GetHostId() == b.GetHostId() && a.GetPool() == b.GetPool()
}
