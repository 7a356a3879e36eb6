package raftfsm

import (
	"reflect"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	tarnv1 "tarn/proto/tarn/v1"
)

func protoValue(m proto.Message) protoreflect.Value {
	return protoreflect.ValueOfMessage(m.ProtoReflect())
}

// checkInvariants holds what must be true of every published state (manila semantics,
// appendix B, and the laws of the design).
func checkInvariants(t tb, v *View) {
	t.Helper()
	for s := range v.Shares() {
		checkShareInvariants(t, v, s)
	}
	for r := range v.Replicas() {
		if _, ok := v.Share(r.GetShareId()); !ok {
			t.Errorf("replica %s of no share", r.GetId())
		}
	}
	for s := range v.Snapshots() {
		if _, ok := v.Share(s.GetShareId()); !ok {
			t.Errorf("snapshot %s of no share", s.GetId())
		}
	}
	for i := range v.SnapshotInstances() {
		_, a := v.Snapshot(i.GetSnapshotId())
		if _, b := v.Replica(i.GetReplicaId()); !a || !b {
			t.Errorf("instance %s hangs in the air", i.GetId())
		}
	}
	for h := range v.Hosts() {
		seen := map[uint64]bool{}
		for _, o := range h.GetPurges() {
			if seen[o.GetGuid()] || o.GetGuid() == 0 || o.GetHostId() != h.GetId() || o.GetRequestedAt() == nil || len(h.GetPurges()) > maxPurges {
				t.Errorf("host %s has the purge %v among %d", h.GetId(), o, len(h.GetPurges()))
			}
			seen[o.GetGuid()] = true
		}
	}
	checkUsage(t, v)
}

func checkShareInvariants(t tb, v *View, s *tarnv1.Share) {
	t.Helper()
	replicas := v.ReplicasOfShare(s.GetId())
	f := s.GetFencing()
	checkSize(t, v, s)
	pools, actives := map[string]bool{}, 0
	for _, r := range replicas {
		if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
			actives++
		}
		if pools[r.GetHost()] {
			t.Errorf("share %s has two replicas on %s", s.GetId(), r.GetHost())
		}
		pools[r.GetHost()] = true
		if v.s.domainOf(r) != v.s.domainOf(replicas[0]) {
			t.Errorf("share %s spans domains", s.GetId())
		}
		if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC {
			checkInSync(t, v, r)
		}
		if r.GetId() == f.GetTargetReplicaId() && r.GetStatus() != tarnv1.Status_STATUS_REPLICATION_CHANGE {
			t.Errorf("share %s in promotion: its target %s is %v", s.GetId(), r.GetId(), r.GetStatus())
		}
	}
	switch s.GetReplicationType() {
	case tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED:
		if actives != 0 || len(replicas) != 1 {
			t.Errorf("unreplicated share %s has %d replicas, %d active", s.GetId(), len(replicas), actives)
		}
	case tarnv1.ReplicationType_REPLICATION_TYPE_READABLE, tarnv1.ReplicationType_REPLICATION_TYPE_DR:
		owner, _ := v.Replica(f.GetOwnerReplicaId())
		if actives != 1 || owner.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
			t.Errorf("share %s has %d active replicas, owner is %v", s.GetId(), actives, owner.GetReplicaState())
		}
	}
	checkLineage(t, v, s)
	if got := v.ProjectShare(s); got.GetHasReplicas() != (len(replicas) > 1) {
		t.Errorf("share %s: has_replicas %v with %d replicas", s.GetId(), got.GetHasReplicas(), len(replicas))
	}
}

// checkSize: only what is being taken over, or was not, may have no size.
func checkSize(t tb, v *View, s *tarnv1.Share) {
	t.Helper()
	owner, _ := v.Replica(s.GetFencing().GetOwnerReplicaId())
	if s.GetSizeGib() < 0 || s.GetSizeGib() == 0 && !managing(owner.GetStatus()) && !unmanaging(owner.GetStatus()) {
		t.Errorf("share %s has size %d while its owner is %v", s.GetId(), s.GetSizeGib(), owner.GetStatus())
	}
}

func checkLineage(t tb, v *View, s *tarnv1.Share) {
	t.Helper()
	f := s.GetFencing()
	if len(f.GetLineage()) == 0 {
		t.Errorf("share %s has no lineage", s.GetId())
		return
	}
	// Epochs rise one by one, but for those that a state restored from a backup did not know.
	past := uint64(0)
	if len(f.GetLineage()) == maxLineage {
		past = f.GetLineage()[0].GetEpoch() - 1 // what was before is forgotten
	}
	for i, e := range f.GetLineage() {
		if e.GetEpoch() != past+1 && (e.GetEpoch() <= past || !v.Restored()) {
			t.Errorf("share %s: lineage entry %d has epoch %d after %d", s.GetId(), i, e.GetEpoch(), past)
		}
		past = e.GetEpoch()
	}
	if past != f.GetEpoch() && (past > f.GetEpoch() || !fencing(s) || !v.Restored()) {
		t.Errorf("share %s: epoch %d, the lineage ends with %d", s.GetId(), f.GetEpoch(), past)
	}
	if last := f.GetLineage()[len(f.GetLineage())-1]; last.GetOwnerReplicaId() != f.GetOwnerReplicaId() {
		t.Errorf("share %s: owner %s is not the last of the lineage", s.GetId(), f.GetOwnerReplicaId())
	}
	if fencing(s) && f.GetPreparing() != nil {
		t.Errorf("share %s is in promotion %s and prepares %s", s.GetId(), f.GetOpId(), f.GetPreparing().GetOpId())
	}
	if fencing(s) != (f.GetTargetReplicaId() != "") {
		t.Errorf("share %s: phase %v with target %q", s.GetId(), f.GetPhase(), f.GetTargetReplicaId())
	}
}

func checkInSync(t tb, v *View, r *tarnv1.Replica) {
	t.Helper()
	if r.GetStatus() == tarnv1.Status_STATUS_DELETING {
		return
	}
	for snap := range v.SnapshotsOfShare(r.GetShareId()) {
		i, ok := v.InstanceOn(snap.GetId(), r.GetId())
		if v.SnapshotStatus(snap) == tarnv1.Status_STATUS_AVAILABLE && (!ok || i.GetStatus() != tarnv1.Status_STATUS_AVAILABLE) {
			t.Errorf("replica %s is in_sync without the available snapshot %s", r.GetId(), snap.GetId())
		}
	}
}

// checkUsage recounts everything that is kept as counters.
func checkUsage(t tb, v *View) {
	t.Helper()
	want := map[usageRow]amounts{}
	add := func(project, user, kind string, a amounts) {
		keys := map[usageRow]bool{{project: project}: true, {project: project, user: user}: true, {project: project, shareType: kind}: true}
		for k := range keys {
			want[k] = want[k].plus(a)
		}
	}
	wantPools := map[poolRow]poolRow{}
	var states [stateCount]int
	for s := range v.Shares() {
		n := int64(0)
		for _, r := range v.ReplicasOfShare(s.GetId()) {
			n++
			key := poolRow{host: r.GetHostId(), pool: r.GetPool()}
			row := wantPools[key]
			row.gib += max(s.GetSizeGib(), s.GetPendingSizeGib())
			row.replicas++
			wantPools[key] = row
			states[r.GetReplicaState()]++
		}
		size := max(s.GetSizeGib(), s.GetPendingSizeGib())
		a := amounts{useShares: 1, useGigabytes: size}
		if s.GetReplicationType() != 0 {
			a[useReplicas], a[useReplicaGigabytes] = n, n*size
		}
		add(s.GetProjectId(), s.GetUserId(), s.GetShareTypeId(), a)
	}
	for s := range v.Snapshots() {
		share, _ := v.Share(s.GetShareId())
		add(s.GetProjectId(), s.GetUserId(), share.GetShareTypeId(), amounts{useSnapshots: 1, useSnapshotGigabytes: s.GetSizeGib()})
	}
	compareRows(t, v, want, wantPools)
	if states != v.s.states {
		t.Errorf("replica states %v, recounted %v", v.s.states, states)
	}
}

func compareRows(t tb, v *View, want map[usageRow]amounts, wantPools map[poolRow]poolRow) {
	t.Helper()
	got := map[usageRow]amounts{}
	for row := range v.s.usage.all() {
		got[usageRow{project: row.project, user: row.user, shareType: row.shareType}] = row.used
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("usage %v, recounted %v", got, want)
	}
	gotPools := map[poolRow]poolRow{}
	for row := range v.s.pools.all() {
		gotPools[poolRow{host: row.host, pool: row.pool}] = poolRow{gib: row.gib, replicas: row.replicas}
	}
	if !reflect.DeepEqual(gotPools, wantPools) {
		t.Errorf("pools %v, recounted %v", gotPools, wantPools)
	}
}
