package raftfsm

import (
	"errors"
	"strings"
	"testing"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestRefusals is the table of manila semantics 2.6 and of the protocol: the class,
// the field, and that the state is what it was.
func TestRefusals(t *testing.T) {
	rw := tarnv1.AccessLevel_ACCESS_LEVEL_RW
	replica := func(id, share, host, pool string) *raftv1.CreateReplica {
		return &raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: id, ShareId: share, HostId: host, Pool: pool}}
	}
	promote := func(id, op string, epoch uint64) *raftv1.PromoteReplica {
		return &raftv1.PromoteReplica{Id: id, OpId: op, Mode: planned, ExpectedEpoch: epoch}
	}
	rule := func(id, to string) *raftv1.AllowAccess {
		return &raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{Id: id, ShareId: "rep", AccessType: "ip", AccessTo: to, AccessLevel: rw}}
	}
	long := strings.Repeat("x", 10000)
	for _, c := range []struct {
		name  string
		code  Code
		field string
		verb  any
	}{
		{"purge without GUID", InvalidArgument, "guid", &raftv1.PurgeDivergentCopy{}},
		{"purge of no dataset", InvalidArgument, "dataset", &raftv1.PurgeDivergentCopy{Order: &tarnv1.PurgeOrder{Guid: 1}}},
		{"purge for a long reason", InvalidArgument, "reason", &raftv1.PurgeDivergentCopy{Order: &tarnv1.PurgeOrder{Guid: 1, Dataset: "d", Reason: long}}},
		{"purge on an unknown host", NotFound, "host_id", &raftv1.PurgeDivergentCopy{Order: &tarnv1.PurgeOrder{Guid: 1, Dataset: "d", HostId: "nope"}}},
		{"purge of what a replica has not", NotFound, "guid", &raftv1.PurgeDivergentCopy{Order: &tarnv1.PurgeOrder{Guid: 1, Dataset: "d", HostId: "h1", ReplicaId: "rep-r1"}}},
		{"share without id", InvalidArgument, "id", with(newShare("", "dr"), func(*raftv1.CreateShare) {})},
		{"share without anything", InvalidArgument, "id", &raftv1.CreateShare{}},
		{"share of nobody", InvalidArgument, "project_id", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.ProjectId = "" })},
		{"share of negative size", InvalidArgument, "size_gib", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.SizeGib = -1 })},
		{"share with long name", InvalidArgument, "name", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.Name = long })},
		{"share with empty metadata key", InvalidArgument, "metadata", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.Metadata = map[string]string{"": "v"} })},
		{"share of unknown type", NotFound, "share_type_id", newShare("n", "nope")},
		{"share placed on old specs", Aborted, "share_type_id", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.ExtraSpecs = map[string]string{"a": "b"} })},
		{"share on unknown host", FailedPrecondition, "host_id", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Replica.HostId = "h9" })},
		{"share on down host", FailedPrecondition, "host_id", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Replica.HostId = "h3" })},
		{"share on unknown pool", FailedPrecondition, "pool", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Replica.Pool = "puddle" })},
		{"share with a replica's id taken", AlreadyExists, "replica.id", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Replica.Id = "rep-r1" })},
		{"share id with other content", AlreadyExists, "id", with(newShare("rep", "readable"), func(c *raftv1.CreateShare) { c.Share.SizeGib = 3 })},
		{"share from unknown snapshot", NotFound, "snapshot_id", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.SnapshotId = "nope" })},
		{"share from another project's snapshot", NotFound, "snapshot_id", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.SnapshotId, c.Share.ProjectId = "snap", "p2" })},
		{"share smaller than its snapshot", InvalidArgument, "size_gib", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.SnapshotId, c.Share.SizeGib = "snap", 1 })},
		{"share out of reach of its snapshot", FailedPrecondition, "pool", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.SnapshotId, c.Replica.HostId = "snap", "h4" })},
		{"share from snapshot in the making", FailedPrecondition, "snapshot_id", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.SnapshotId = "young" })},
		{"share managed from another pool", InvalidArgument, "managed_from", with(managed("n", "dr", 0), func(c *raftv1.CreateShare) { c.Replica.ManagedFrom = "dozer/n" })},
		{"share managed from a whole pool", InvalidArgument, "managed_from", with(managed("n", "dr", 0), func(c *raftv1.CreateShare) { c.Replica.ManagedFrom = "tank" })},
		{"share of no size that is not managed", InvalidArgument, "size_gib", with(newShare("n", "dr"), func(c *raftv1.CreateShare) { c.Share.SizeGib = 0 })},
		{"share managed with a negative size", InvalidArgument, "size_gib", managed("n", "dr", -1)},
		{"share managed from a snapshot", InvalidArgument, "snapshot_id", with(managed("n", "dr", 0), func(c *raftv1.CreateShare) { c.Share.SnapshotId = "snap" })},
		{"share managed from what is being taken over", AlreadyExists, "managed_from", with(managed("n", "dr", 0), func(c *raftv1.CreateShare) { c.Replica.ManagedFrom = "tank/taken" })},
		{"replica managed from another pool", InvalidArgument, "managed_from", &raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: "n", ShareId: "rep", HostId: "h2", Pool: "dozer", ManagedFrom: "tank/n"}}},
		{"replica's id with another dataset", AlreadyExists, "id", &raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: "rep-r2", ShareId: "rep", HostId: "h2", Pool: "tank", ManagedFrom: "tank/n"}}},
		{"snapshot managed with replicas", FailedPrecondition, "share_id", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "n", ShareId: "rep", ManagedFrom: "monday"}}},
		{"snapshot managed that is tarn's", InvalidArgument, "managed_from", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "n", ShareId: "single", ManagedFrom: "tarn-user-x"}}},
		{"snapshot managed by its full name", InvalidArgument, "managed_from", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "n", ShareId: "single", ManagedFrom: "p/d@x"}}},
		{"snapshot id with another origin", AlreadyExists, "id", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "snap", ShareId: "single", Name: "snap", ManagedFrom: "monday"}}},
		{"unmanage no snapshot", NotFound, "id", &raftv1.UnmanageSnapshot{Id: "nope"}},
		{"unmanage snapshot on an old revision", Aborted, "expected_revision", &raftv1.UnmanageSnapshot{Id: "snap", ExpectedRevision: 1}},
		{"unmanage a snapshot in the making", FailedPrecondition, "status", &raftv1.UnmanageSnapshot{Id: "young"}},
		{"unmanage nothing", NotFound, "id", &raftv1.UnmanageShare{Id: "nope"}},
		{"unmanage on an old revision", Aborted, "expected_revision", &raftv1.UnmanageShare{Id: "plain", ExpectedRevision: 1}},
		{"unmanage with replicas", FailedPrecondition, "id", &raftv1.UnmanageShare{Id: "rep"}},
		{"unmanage with snapshots", FailedPrecondition, "id", &raftv1.UnmanageShare{Id: "single"}},
		{"unmanage while creating", FailedPrecondition, "status", &raftv1.UnmanageShare{Id: "new"}},
		{"unmanage no replica", NotFound, "id", &raftv1.UnmanageReplica{Id: "nope"}},
		{"unmanage replica on an old revision", Aborted, "expected_revision", &raftv1.UnmanageReplica{Id: "rep-r2", ExpectedRevision: 1}},
		{"unmanage the active replica", FailedPrecondition, "id", &raftv1.UnmanageReplica{Id: "rep-r1"}},
		{"unmanage the target of a promotion", FailedPrecondition, "id", &raftv1.UnmanageReplica{Id: "busy-r2"}},
		{"share update of nothing", NotFound, "id", &raftv1.UpdateShare{Id: "nope"}},
		{"share update on old revision", Aborted, "expected_revision", &raftv1.UpdateShare{Id: "rep", ExpectedRevision: 1}},
		{"share delete with replicas", FailedPrecondition, "id", &raftv1.DeleteShare{Id: "rep"}},
		{"share force delete with replicas", FailedPrecondition, "id", &raftv1.DeleteShare{Id: "rep", Force: true}},
		{"share delete with snapshots", FailedPrecondition, "id", &raftv1.DeleteShare{Id: "single"}},
		{"share delete while creating", FailedPrecondition, "status", &raftv1.DeleteShare{Id: "new"}},
		{"extend to less", InvalidArgument, "new_size_gib", &raftv1.ResizeShare{Id: "rep", NewSizeGib: 2}},
		{"shrink to more", InvalidArgument, "new_size_gib", &raftv1.ResizeShare{Id: "rep", NewSizeGib: 2, Shrink: true}},
		{"shrink to nothing", InvalidArgument, "new_size_gib", &raftv1.ResizeShare{Id: "rep", Shrink: true}},
		{"extend while creating", FailedPrecondition, "status", &raftv1.ResizeShare{Id: "new", NewSizeGib: 5}},
		{"extend beyond quota", ResourceExhausted, QuotaGigabytes, &raftv1.ResizeShare{Id: "rep", NewSizeGib: 5000}},
		{"share reset to replication_change", InvalidArgument, "status", &raftv1.ResetShareStatus{Id: "rep", Status: changing}},
		{"share reset to deleting", InvalidArgument, "status", &raftv1.ResetShareStatus{Id: "rep", Status: deleting}},
		{"replica of nothing", NotFound, "share_id", replica("n", "nope", "h2", "tank")},
		{"replica without id", InvalidArgument, "id", &raftv1.CreateReplica{}},
		{"replica of unreplicated share", FailedPrecondition, "share_id", replica("n", "plain", "h2", "tank")},
		{"replica without active source", FailedPrecondition, "share_id", replica("n", "new", "h2", "tank")},
		{"replica on the same pool", FailedPrecondition, "pool", replica("n", "rep", "h1", "tank")},
		{"replica outside of the domain", FailedPrecondition, "replication_domain", replica("n", "rep", "h4", "tank")},
		{"replica blind to a new snapshot", Aborted, "snapshot_instance_ids", replica("n", "single", "h2", "tank")},
		{"replica with another's id", AlreadyExists, "id", replica("rep-r1", "single", "h2", "tank")},
		{"replica delete of the last active", FailedPrecondition, "id", &raftv1.DeleteReplica{Id: "rep-r1"}},
		{"replica delete of unreplicated share", FailedPrecondition, "id", &raftv1.DeleteReplica{Id: "plain-r1"}},
		{"replica delete on old revision", Aborted, "expected_revision", &raftv1.DeleteReplica{Id: "rep-r2", ExpectedRevision: 1}},
		{"replica delete in promotion", FailedPrecondition, "id", &raftv1.DeleteReplica{Id: "busy-r2", Force: true}},
		{"promote nothing", NotFound, "id", promote("nope", "o", 1)},
		{"promote without op", InvalidArgument, "op_id", promote("rep-r2", "", 1)},
		{"promote without mode", InvalidArgument, "mode", &raftv1.PromoteReplica{Id: "rep-r2", OpId: "o", ExpectedEpoch: 1}},
		{"promote the active", FailedPrecondition, "id", promote("rep-r1", "o", 1)},
		{"promote under an old epoch", Aborted, "expected_epoch", promote("rep-r2", "o", 7)},
		{"promote twice at once", FailedPrecondition, "id", promote("busy-r2", "o", 1)},
		{"promote an out_of_sync one", FailedPrecondition, "replica_state", promote("lag-r2", "o", 1)},
		{"promote unreplicated", FailedPrecondition, "id", promote("plain-r1", "o", 1)},
		{"seal a planned promotion", FailedPrecondition, "op_id", &raftv1.CommitSeal{ShareId: "busy", OpId: "op", Epoch: 1, HeadGuid: 1}},
		{"prove a planned promotion", FailedPrecondition, "op_id", &raftv1.CommitProof{ShareId: "busy", OpId: "op", Epoch: 1, Proof: proofLease}},
		{"demotion without snapshot", InvalidArgument, "final_guid", &raftv1.CommitDemotion{ShareId: "busy", OpId: "op", Epoch: 1}},
		{"demotion of an old epoch", Aborted, "epoch", &raftv1.CommitDemotion{ShareId: "busy", OpId: "op", Epoch: 9, FinalGuid: 1}},
		{"demotion without promotion", FailedPrecondition, "op_id", &raftv1.CommitDemotion{ShareId: "rep", OpId: "op", Epoch: 1, FinalGuid: 1}},
		{"replica state reset of the active", FailedPrecondition, "replica_state", &raftv1.ResetReplicaState{Id: "rep-r1", ReplicaState: outOfSync}},
		{"replica state reset to active", FailedPrecondition, "replica_state", &raftv1.ResetReplicaState{Id: "rep-r2", ReplicaState: active}},
		{"replica state reset to nothing", InvalidArgument, "replica_state", &raftv1.ResetReplicaState{Id: "rep-r2"}},
		{"replica state reset of unreplicated", FailedPrecondition, "id", &raftv1.ResetReplicaState{Id: "plain-r1", ReplicaState: inSync}},
		{"replica reset in promotion", FailedPrecondition, "status", &raftv1.ResetReplicaStatus{Id: "busy-r2", Status: available}},
		{"replica reset to replication_change", InvalidArgument, "status", &raftv1.ResetReplicaStatus{Id: "rep-r2", Status: changing}},
		{"snapshot of nothing", NotFound, "share_id", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "n", ShareId: "nope"}}},
		{"snapshot blind to a new replica", Aborted, "instance_ids", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "n", ShareId: "rep"}}},
		{"snapshot while creating", FailedPrecondition, "share_id", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "n", ShareId: "new"}}},
		{"snapshot in promotion", FailedPrecondition, "share_id", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "n", ShareId: "busy"}}},
		{"snapshot id with other content", AlreadyExists, "id", &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: "snap", ShareId: "rep"}}},
		{"snapshot delete while creating", FailedPrecondition, "status", &raftv1.DeleteSnapshot{Id: "young"}},
		{"snapshot reset to available untaken", FailedPrecondition, "status", &raftv1.ResetSnapshotStatus{Id: "young", Status: available}},
		{"rule of nothing", NotFound, "share_id", &raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{Id: "n", ShareId: "x", AccessType: "ip", AccessTo: "a", AccessLevel: rw}}},
		{"rule for a user", InvalidArgument, "access_type", &raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{Id: "n", ShareId: "rep", AccessType: "user", AccessTo: "a", AccessLevel: rw}}},
		{"rule without level", InvalidArgument, "access_level", &raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{Id: "n", ShareId: "rep", AccessType: "ip", AccessTo: "a"}}},
		{"rule twice", AlreadyExists, "access_to", rule("n", "10.0.0.1")},
		{"rule id with other content", AlreadyExists, "id", rule("rule", "10.0.0.2")},
		{"rule update of nothing", NotFound, "id", &raftv1.UpdateAccess{Id: "nope", AccessLevel: rw}},
		{"rule deny of nothing", NotFound, "id", &raftv1.DenyAccess{Id: "nope"}},
		{"type without name", InvalidArgument, "name", &raftv1.PutShareType{ShareType: &tarnv1.ShareType{Id: "n"}}},
		{"type with a name taken", AlreadyExists, "name", &raftv1.PutShareType{ShareType: &tarnv1.ShareType{Id: "n", Name: "type dr"}}},
		{"type of odd replication", InvalidArgument, "extra_specs[replication_type]", &raftv1.PutShareType{ShareType: &tarnv1.ShareType{Id: "n", Name: "n", ExtraSpecs: map[string]string{"replication_type": "magic"}}}},
		{"type on old revision", Aborted, "expected_revision", &raftv1.PutShareType{ShareType: &tarnv1.ShareType{Id: "t-dr", Name: "n"}, ExpectedRevision: 1}},
		{"type delete in use", FailedPrecondition, "id", &raftv1.DeleteShareType{Id: "t-readable"}},
		{"quota of odd key", InvalidArgument, "limits[shoes]", &raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p1", Limits: map[string]int64{"shoes": 1}}}},
		{"quota below -1", InvalidArgument, "limits[shares]", &raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p1", Limits: map[string]int64{"shares": -2}}}},
		{"quota of a user above the project's", InvalidArgument, "limits[shares]", &raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p1", UserId: "u", Limits: map[string]int64{"shares": 51}}}},
		{"quota of user and type", InvalidArgument, "share_type_id", &raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p1", UserId: "u", ShareTypeId: "t-dr", Limits: map[string]int64{"shares": 1}}}},
		{"host with a name taken", AlreadyExists, "name", &raftv1.RegisterHost{Host: with2(host(9), func(h *tarnv1.Host) { h.Name = "node1" })}},
		{"host moves with replicas", FailedPrecondition, "availability_zone", &raftv1.RegisterHost{Host: with2(host(1), func(h *tarnv1.Host) { h.AvailabilityZone = "z9" })}},
		{"pool leaves its domain", FailedPrecondition, "replication_domain", &raftv1.RegisterHost{Host: with2(host(1), func(h *tarnv1.Host) { h.Pools[0].ReplicationDomain = "d9" })}},
		{"host removal with replicas", FailedPrecondition, "id", &raftv1.RemoveHost{Id: "h1"}},
		{"host in an odd admin state", InvalidArgument, "admin_state", &raftv1.SetHostAdminState{Id: "h1"}},
		{"message delete of nothing", NotFound, "id", &raftv1.DeleteMessage{Id: "nope"}},
		{"another cluster's id", AlreadyExists, "cluster_id", &raftv1.InitCluster{ClusterId: "c2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := busyWorld(t)
			n.do(managed("taken", "dr", 0))
			err := n.refused(c.code, c.field, c.verb)
			var target *Error
			if !errors.As(error(err), &target) || target.Code != c.code {
				t.Errorf("errors.As does not find the refusal")
			}
			if (c.code == ResourceExhausted) != (err.Quota != nil) {
				t.Errorf("quota detail %v with code %v", err.Quota, err.Code)
			}
		})
	}
}

func with2(h *tarnv1.Host, edit func(*tarnv1.Host)) *tarnv1.Host { edit(h); return h }

// busyWorld has a share in every situation that refusals speak of; h3 is down.
func busyWorld(t tb) *node {
	n := world(t)
	n.replicated("rep", "readable")
	n.do(&raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{Id: "rule", ShareId: "rep", AccessType: "ip", AccessTo: "10.0.0.1", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW}})
	n.share("single", "readable")
	n.snapshot("single", "snap")
	n.arrives("snap", "single-r1", 0x51)
	n.snapshot("single", "young")
	n.do(newShare("new", "dr"))
	n.share("plain", "")
	n.replicated("busy", "readable")
	n.do(&raftv1.PromoteReplica{Id: "busy-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.replicated("lag", "dr")
	n.setState("lag-r2", outOfSync)
	n.move(&raftv1.Transitions{Hosts: []*raftv1.HostTransition{{Id: "h3", State: tarnv1.HostState_HOST_STATE_DOWN}}})
	checkInvariants(t, n.f.View())
	return n
}
