package assignment

import (
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

type log struct {
	t     *testing.T
	fsm   *raftfsm.FSM
	index uint64
}

func (l *log) apply(cmd *raftv1.Command) {
	l.t.Helper()
	l.index++
	cmd.ProposedAt = &timestamppb.Timestamp{Seconds: int64(l.index)}
	data, err := proto.Marshal(cmd)
	if err != nil {
		l.t.Fatal(err)
	}
	if r, ok := l.fsm.Apply(&raft.Log{Index: l.index, Term: 1, Type: raft.LogCommand, Data: data}).(*raftfsm.Result); !ok || r.Err != nil {
		l.t.Fatalf("refused: %v", r.Err)
	}
}

func (l *log) host(id string, pools ...string) {
	h := &tarnv1.Host{Id: id, Name: id, AvailabilityZone: "z", Backend: "b", Address: id + ":9", SessionId: "1"}
	for _, p := range pools {
		h.Pools = append(h.Pools, &tarnv1.Pool{Name: p, ReplicationDomain: "d", TotalCapacityGib: 100, FreeCapacityGib: 100})
	}
	l.apply(&raftv1.Command{Verb: &raftv1.Command_RegisterHost{RegisterHost: &raftv1.RegisterHost{Host: h}}})
}

func (l *log) share(id, snapshot, host, pool string) {
	l.apply(&raftv1.Command{Verb: &raftv1.Command_CreateShare{CreateShare: &raftv1.CreateShare{
		Share: &tarnv1.Share{
			Id: id, Name: id, ProjectId: "p", SizeGib: 1, ShareProto: "NFS", ShareTypeId: "t", SnapshotId: snapshot,
			SnapshotSupport: true, CreateShareFromSnapshotSupport: true,
		},
		Replica: &tarnv1.Replica{Id: id + "-1", HostId: host, Pool: pool},
	}}})
}

func (l *log) transitions(t *raftv1.Transitions) {
	l.apply(&raftv1.Command{Verb: &raftv1.Command_Transitions{Transitions: t}})
}

// TestForHostClones follows a share that is made from a snapshot on another host:
// it learns its source, and the source learns who may pull.
func TestForHostClones(t *testing.T) {
	l := &log{t: t, fsm: raftfsm.New(raftfsm.Config{})}
	l.host("h1", "p1", "p2")
	l.host("h2", "p1")
	l.apply(&raftv1.Command{Verb: &raftv1.Command_PutShareType{PutShareType: &raftv1.PutShareType{ShareType: &tarnv1.ShareType{
		Id: "t", Name: "t", ExtraSpecs: map[string]string{"replication_type": "readable", "driver_handles_share_servers": "false"},
	}}}})
	l.share("origin", "", "h1", "p1")
	l.transitions(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "origin-1", Status: tarnv1.Status_STATUS_AVAILABLE}}})
	l.apply(&raftv1.Command{Verb: &raftv1.Command_CreateSnapshot{CreateSnapshot: &raftv1.CreateSnapshot{
		Snapshot: &tarnv1.Snapshot{Id: "snap", ShareId: "origin"}, InstanceIds: map[string]string{"origin-1": "i1"},
	}}})
	l.transitions(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "snap", ReplicaId: "origin-1", Status: tarnv1.Status_STATUS_AVAILABLE, Guid: 77}}})
	_, before := ForHost(l.fsm.View(), "h1")

	l.share("far", "snap", "h2", "p1")
	far, _ := ForHost(l.fsm.View(), "h2")
	if c := far[0].GetCloneSource(); c.GetGuid() != 77 || c.GetSamePool() || c.GetSource().GetAddress() != "h1:9" {
		t.Errorf("the clone on another host is told %v", c)
	}
	near, after := ForHost(l.fsm.View(), "h1")
	if peers := near[0].GetPeers(); len(peers) != 1 || peers[0].GetReplicaId() != "far-1" {
		t.Errorf("the source lets %v pull", peers)
	}
	if after <= before {
		t.Errorf("revision of the source's host is %d after %d: it would not learn of its guest", after, before)
	}
	l.share("near", "snap", "h1", "p1")
	near, _ = ForHost(l.fsm.View(), "h1")
	if len(near) != 2 || near[0].GetReplicaId() != "near-1" || !near[0].GetCloneSource().GetSamePool() {
		t.Errorf("the clone on the same pool is told %v", near)
	}
	l.transitions(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "far-1", Status: tarnv1.Status_STATUS_AVAILABLE}}})
	if far, _ = ForHost(l.fsm.View(), "h2"); far[0].GetCloneSource() != nil {
		t.Error("a finished clone still has a source")
	}
	if none, _ := ForHost(l.fsm.View(), "nobody"); len(none) != 0 {
		t.Errorf("an unknown host is told %v", none)
	}
}

// TestCloneNeverBecomesEmpty: an agent makes an empty dataset where nothing says that the
// share is made from a snapshot. What fails meanwhile, or is reset by hand, must not say so.
func TestCloneNeverBecomesEmpty(t *testing.T) {
	l := &log{t: t, fsm: raftfsm.New(raftfsm.Config{})}
	l.host("h1", "p1")
	l.host("h2", "p1")
	l.apply(&raftv1.Command{Verb: &raftv1.Command_PutShareType{PutShareType: &raftv1.PutShareType{ShareType: &tarnv1.ShareType{
		Id: "t", Name: "t", ExtraSpecs: map[string]string{"driver_handles_share_servers": "false"},
	}}}})
	l.share("origin", "", "h1", "p1")
	l.transitions(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "origin-1", Status: tarnv1.Status_STATUS_AVAILABLE}}})
	l.apply(&raftv1.Command{Verb: &raftv1.Command_CreateSnapshot{CreateSnapshot: &raftv1.CreateSnapshot{
		Snapshot: &tarnv1.Snapshot{Id: "snap", ShareId: "origin"}, InstanceIds: map[string]string{"origin-1": "i1"},
	}}})
	instance := func(st tarnv1.Status) {
		l.transitions(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "snap", ReplicaId: "origin-1", Status: st, Guid: 77}}})
	}
	instance(tarnv1.Status_STATUS_AVAILABLE)
	l.share("clone", "snap", "h2", "p1")
	told := func() *tarnv1.Assignment {
		list, _ := ForHost(l.fsm.View(), "h2")
		return list[0]
	}
	guests := func() int {
		list, _ := ForHost(l.fsm.View(), "h1")
		return len(list[0].GetPeers())
	}
	for _, st := range []tarnv1.Status{tarnv1.Status_STATUS_ERROR, tarnv1.Status_STATUS_CREATING, tarnv1.Status_STATUS_AVAILABLE} {
		l.apply(&raftv1.Command{Verb: &raftv1.Command_ResetShareStatus{ResetShareStatus: &raftv1.ResetShareStatus{Id: "clone", Status: st}}})
		if a := told(); a.GetCloneSource().GetGuid() != 77 || a.GetCloneSource().GetSource() == nil || guests() != 1 {
			t.Errorf("%v: told %v, and %d may pull", st, a, guests())
		}
	}
	instance(tarnv1.Status_STATUS_ERROR)
	if c := told().GetCloneSource(); c == nil || c.GetSource() != nil || c.GetGuid() != 0 {
		t.Errorf("while nobody has the snapshot: told %v", c)
	}
	instance(tarnv1.Status_STATUS_AVAILABLE)
	l.transitions(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "clone-1", Status: tarnv1.Status_STATUS_AVAILABLE}}})
	if a := told(); a.GetCloneSource() != nil || !a.GetEstablished() || guests() != 0 {
		t.Errorf("once it has served: told %v, and %d may pull", a, guests())
	}
	l.apply(&raftv1.Command{Verb: &raftv1.Command_DeleteShare{DeleteShare: &raftv1.DeleteShare{Id: "clone"}}})
	if a := told(); a.GetRole() != tarnv1.Role_ROLE_DELETING || a.GetCloneSource() != nil {
		t.Errorf("on its way out: told %v", a)
	}
}
