package raftfsm

import (
	"testing"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

const (
	manageStarting = tarnv1.Status_STATUS_MANAGE_STARTING
	manageError    = tarnv1.Status_STATUS_MANAGE_ERROR
	unmanage       = tarnv1.Status_STATUS_UNMANAGE_STARTING
	unmanageError  = tarnv1.Status_STATUS_UNMANAGE_ERROR
	unmanageFailed = tarnv1.Status_STATUS_MANAGE_ERROR_UNMANAGE_STARTING
)

// managed asks to take over tank/<name> of h1 as the share of that name.
func managed(name, kind string, size int64) *raftv1.CreateShare {
	c := newShare(name, kind)
	c.Share.SizeGib, c.Replica.ManagedFrom = size, "tank/"+name
	return c
}

func (n *node) replicaOf(id string) *tarnv1.Replica {
	n.t.Helper()
	r, ok := n.f.View().Replica(id)
	if !ok {
		n.t.Fatalf("replica %s is gone", id)
	}
	return r
}

func status(id string, st tarnv1.Status, size int64) *raftv1.Transitions {
	t := &raftv1.ReplicaTransition{Id: id, Status: st}
	if size > 0 {
		t.AppliedSizeGib = proto.Int64(size)
	}
	return &raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{t}}
}

// A dataset whose size nobody named counts with what it turns out to have, whatever
// the quota says: the data are there.
func TestManagedShareTakesItsSizeOver(t *testing.T) {
	n := world(t)
	n.do(&raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p1", Limits: map[string]int64{QuotaGigabytes: 5}}})
	c := managed("old", "readable", 0)
	n.do(c)
	if r := n.replicaOf("old-r1"); r.GetStatus() != manageStarting || r.GetManagedFrom() != "tank/old" || r.GetReplicaState() != active {
		t.Fatalf("replica began as %v", r)
	}
	used := func() amounts { return n.f.View().s.used("p1", "", "") }
	if u := used(); u[useShares] != 1 || u[useGigabytes] != 0 || u[useReplicas] != 1 {
		t.Errorf("while it is taken over, %v is used", u)
	}
	n.drops(status("old-r1", available, 0), 1) // without a size it is no share
	n.drops(status("old-r1", errored, 0), 1)
	n.move(status("old-r1", manageError, 0))
	n.refused(FailedPrecondition, "status", &raftv1.DeleteShare{Id: "old"})
	n.refused(FailedPrecondition, "status", &raftv1.ResetShareStatus{Id: "old", Status: available})
	checkInvariants(t, n.f.View())
	n.move(status("old-r1", available, 7))
	s, _ := n.f.View().Share("old")
	if s.GetSizeGib() != 7 || n.replicaOf("old-r1").GetLaunchedAt() == nil {
		t.Errorf("share is %v", s)
	}
	if u := used(); u[useGigabytes] != 7 || u[useReplicaGigabytes] != 7 {
		t.Errorf("afterwards, %v is used", u)
	}
	n.do(managed("old", "readable", 0)) // a retry, long after
	n.refused(AlreadyExists, "id", managed("old", "readable", 3))
	other := managed("old", "readable", 0)
	other.Replica.ManagedFrom = "tank/other"
	n.refused(AlreadyExists, "id", other)
	checkInvariants(t, n.f.View())
	n.f = restored(t, dump(t, n.f.View()))
	if n.replicaOf("old-r1").GetManagedFrom() != "tank/old" {
		t.Error("a restored state has forgotten where the data came from")
	}
}

func TestManagedSizeMayBeNamed(t *testing.T) {
	n := world(t)
	n.do(managed("old", "dr", 9))
	n.move(status("old-r1", available, 2)) // what the host has put in force is not the share's size
	if s, _ := n.f.View().Share("old"); s.GetSizeGib() != 9 {
		t.Errorf("size is %d", s.GetSizeGib())
	}
	n.do(&raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p1", Limits: map[string]int64{QuotaShares: 1}}})
	n.refused(ResourceExhausted, QuotaShares, managed("two", "dr", 0))
}

func TestUnmanage(t *testing.T) {
	n := world(t)
	n.do(managed("old", "readable", 0))
	n.do(&raftv1.UnmanageShare{Id: "old"}) // it changes its mind
	if st := n.replicaOf("old-r1").GetStatus(); st != unmanage {
		t.Fatalf("replica is %v", st)
	}
	n.drops(status("old-r1", available, 3), 1)
	n.drops(status("old-r1", manageError, 0), 1)
	n.refused(FailedPrecondition, "share_id", &raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{
		Id: "a", ShareId: "old", AccessType: "ip", AccessTo: "10.0.0.9", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW,
	}})
	n.refused(FailedPrecondition, "status", &raftv1.ResetReplicaStatus{Id: "old-r1", Status: available})
	n.move(status("old-r1", unmanageError, 0))
	n.refused(FailedPrecondition, "status", &raftv1.DeleteShare{Id: "old"})
	n.do(&raftv1.UnmanageShare{Id: "old"})
	n.refused(AlreadyExists, "managed_from", with(managed("new", "dr", 0), func(c *raftv1.CreateShare) { c.Replica.ManagedFrom = "tank/old" }))
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "old-r1", Gone: true}}})
	if _, ok := n.f.View().Share("old"); ok || n.f.View().s.used("p1", "", "") != (amounts{}) {
		t.Errorf("given back, %v is used", n.f.View().s.used("p1", "", ""))
	}
	n.do(managed("old", "readable", 0)) // and taken over once more
	n.move(status("old-r1", manageError, 0))
	n.do(&raftv1.UnmanageShare{Id: "old"})
	if st := n.replicaOf("old-r1").GetStatus(); st != unmanageFailed {
		t.Errorf("what could not be taken over is %v", st)
	}
	n.do(&raftv1.DeleteShare{Id: "old", Force: true})
	checkInvariants(t, n.f.View())
}

func with(c *raftv1.CreateShare, edit func(*raftv1.CreateShare)) *raftv1.CreateShare {
	edit(c)
	return c
}

func TestManagedReplica(t *testing.T) {
	n := world(t)
	n.share("s", "readable")
	c := &raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: "s-r2", ShareId: "s", HostId: "h2", Pool: "tank", ManagedFrom: "tank/copy"}}
	n.do(c)
	if r := n.replicaOf("s-r2"); r.GetStatus() != manageStarting || r.GetReplicaState() != outOfSync {
		t.Errorf("replica began as %v", r)
	}
	n.do(proto.CloneOf(c))
	n.refused(FailedPrecondition, "id", &raftv1.UnmanageShare{Id: "s"})
	n.refused(FailedPrecondition, "id", &raftv1.UnmanageReplica{Id: "s-r1"})
	n.refused(FailedPrecondition, "status", &raftv1.DeleteReplica{Id: "s-r2"})
	n.move(status("s-r2", available, 0))
	n.setState("s-r2", inSync)
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1})
	n.refused(FailedPrecondition, "id", &raftv1.UnmanageReplica{Id: "s-r2"})
	n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: "op"})
	n.do(&raftv1.UnmanageReplica{Id: "s-r2"})
	n.do(&raftv1.UnmanageReplica{Id: "s-r2"})
	n.refused(FailedPrecondition, "id", &raftv1.ResyncReplica{Id: "s-r2"})
	n.refused(FailedPrecondition, "status", &raftv1.DeleteReplica{Id: "s-r2"})
	n.drops(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "s-r2", ReplicaState: outOfSync}}}, 1)
	checkInvariants(t, n.f.View())
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "s-r2", Gone: true}}})
	n.do(&raftv1.UnmanageShare{Id: "s"})
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "s-r1", Gone: true}}})
	if _, ok := n.f.View().Share("s"); ok {
		t.Error("the share outlives its last replica")
	}
	checkInvariants(t, n.f.View())
}

func TestManagedSnapshot(t *testing.T) {
	n := world(t)
	n.do(managed("old", "readable", 4))
	n.move(status("old-r1", available, 0))
	c := n.newSnapshot("old", "mon")
	c.Snapshot.ManagedFrom = "monday"
	n.do(c)
	if st := n.snapshotStatus("mon"); st != manageStarting {
		t.Errorf("begins as %v", st)
	}
	instance := func(st tarnv1.Status, guid uint64) *raftv1.Transitions {
		return &raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "mon", ReplicaId: "old-r1", Status: st, Guid: guid}}}
	}
	n.move(instance(manageError, 0))
	n.do(&raftv1.DeleteSnapshot{Id: "mon"}) // nothing else helps where it is not
	n.move(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "mon", ReplicaId: "old-r1", Removed: true}}})
	n.do(proto.CloneOf(c))
	n.move(instance(available, 0x77))
	n.do(proto.CloneOf(c)) // a retry
	n.refused(AlreadyExists, "managed_from", with2snap(n.newSnapshot("old", "tue"), "monday"))
	n.drops(instance(manageError, 0), 1)
	n.refused(FailedPrecondition, "id", &raftv1.UnmanageShare{Id: "old"})
	n.do(&raftv1.UnmanageSnapshot{Id: "mon"})
	n.do(&raftv1.UnmanageSnapshot{Id: "mon"})
	if st := n.snapshotStatus("mon"); st != unmanage {
		t.Errorf("is %v", st)
	}
	n.drops(instance(tarnv1.Status_STATUS_ERROR_DELETING, 0), 1)
	n.move(instance(unmanageError, 0))
	if st := n.snapshotStatus("mon"); st != unmanageError {
		t.Errorf("is %v", st)
	}
	checkInvariants(t, n.f.View())
	n.f = restored(t, dump(t, n.f.View()))
	n.move(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "mon", ReplicaId: "old-r1", Removed: true}}})
	if st := n.snapshotStatus("mon"); st != 0 {
		t.Errorf("given back, it is %v", st)
	}
	n.secondary("old", 2)
	n.refused(FailedPrecondition, "share_id", with2snap(n.newSnapshot("old", "tue"), "tuesday"))
	checkInvariants(t, n.f.View())
}

func with2snap(c *raftv1.CreateSnapshot, from string) *raftv1.CreateSnapshot {
	c.Snapshot.ManagedFrom = from
	return c
}
