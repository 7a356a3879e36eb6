package raftfsm

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// tb is what testing.T, testing.B, testing.F and rapid.T have in common.
type tb interface {
	Helper()
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

// node is one state machine under test, with the log it was fed.
type node struct {
	gap uint64 // of restored states
	t   tb
	f   *FSM
	log []*raft.Log
	at  time.Time
}

var epochStart = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func newNode(t tb) *node {
	return &node{t: t, f: New(Config{}), at: epochStart}
}

func (n *node) index() uint64 { return n.gap + uint64(len(n.log)) }

// entry stamps a command as the leader would and appends it to the log.
func (n *node) entry(cmd *raftv1.Command) *raft.Log {
	n.t.Helper()
	n.at = n.at.Add(time.Second)
	cmd.ProposedAt, cmd.ProposerTerm, cmd.Version = timestamppb.New(n.at), 1, 1
	data, err := proto.Marshal(cmd)
	if err != nil {
		n.t.Fatalf("marshal: %v", err)
	}
	l := &raft.Log{Index: n.index() + 1, Term: 1, Type: raft.LogCommand, Data: data}
	n.log = append(n.log, l)
	return l
}

func (n *node) try(verb any) *Result {
	n.t.Helper()
	return n.f.Apply(n.entry(wrap(n.t, verb))).(*Result)
}

func (n *node) do(verb any) proto.Message {
	n.t.Helper()
	res := n.try(verb)
	if res.Err != nil {
		n.t.Fatalf("%T refused: %v: %v", verb, res.Err.Code, res.Err)
	}
	return res.Record
}

// move applies transitions and fails if any is dropped.
func (n *node) move(t *raftv1.Transitions) {
	n.t.Helper()
	res := n.try(t)
	if res.Err != nil || res.Dropped != 0 {
		n.t.Fatalf("transitions: err %v, dropped %d of %v", res.Err, res.Dropped, t)
	}
}

func (n *node) drops(t *raftv1.Transitions, want int) {
	n.t.Helper()
	if res := n.try(t); res.Err != nil || res.Dropped != want {
		n.t.Errorf("transitions %v: err %v, dropped %d, want %d", t, res.Err, res.Dropped, want)
	}
}

func (n *node) refused(code Code, field string, verb any) *Error {
	n.t.Helper()
	before := dumpRecords(n.t, n.f.View())
	res := n.try(verb)
	if res.Err == nil {
		n.t.Fatalf("%T was accepted, want %v", verb, code)
	}
	if res.Err.Code != code || res.Err.Field != field || res.Err.Message == "" {
		n.t.Errorf("%T: got %v on %q (%s), want %v on %q", verb, res.Err.Code, res.Err.Field, res.Err.Message, code, field)
	}
	if !bytes.Equal(before, dumpRecords(n.t, n.f.View())) {
		n.t.Errorf("%T was refused but changed the state", verb)
	}
	return res.Err
}

// wrap puts a verb into its Command by the type of its field.
func wrap(t tb, verb any) *raftv1.Command {
	t.Helper()
	m, ok := verb.(proto.Message)
	if !ok {
		t.Fatalf("%T is no message", verb)
	}
	cmd := &raftv1.Command{}
	fields := cmd.ProtoReflect().Descriptor().Oneofs().ByName("verb").Fields()
	for i := range fields.Len() {
		if fields.Get(i).Message() == m.ProtoReflect().Descriptor() {
			cmd.ProtoReflect().Set(fields.Get(i), protoValue(m))
			return cmd
		}
	}
	t.Fatalf("%T is no verb", verb)
	return nil
}

func dump(t tb, v *View) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := v.WriteTo(&b); err != nil {
		t.Fatalf("write view: %v", err)
	}
	return b.Bytes()
}

// dumpRecords is dump without the header, which every command changes.
func dumpRecords(t tb, v *View) []byte {
	t.Helper()
	in := newFrameReader(bytes.NewReader(dump(t, v)))
	if _, err := in.frame(); err != nil {
		t.Fatalf("read header: %v", err)
	}
	var out []byte
	for {
		b, err := in.frame()
		if err != nil {
			t.Fatalf("read record: %v", err)
		}
		if b == nil {
			return out
		}
		out = append(out, b...)
	}
}

func restored(t tb, data []byte) *FSM {
	t.Helper()
	f := New(Config{})
	if err := f.Restore(io.NopCloser(bytes.NewReader(data))); err != nil {
		t.Fatalf("restore: %v", err)
	}
	return f
}

// The world of most tests: four hosts in two zones, one replication domain, host h4
// outside of it.

func host(i int) *tarnv1.Host {
	h := &tarnv1.Host{
		Id: fmt.Sprintf("h%d", i), Name: fmt.Sprintf("node%d", i), AvailabilityZone: fmt.Sprintf("z%d", 1+i%2),
		Address: fmt.Sprintf("127.0.0.%d:7000", i), Backend: "zfs", FenceClass: tarnv1.FenceClass_FENCE_CLASS_HELPER,
		Pools: []*tarnv1.Pool{
			{Name: "tank", ReplicationDomain: "d1", TotalCapacityGib: 100, FreeCapacityGib: 80},
			{Name: "dozer", ReplicationDomain: "d1", TotalCapacityGib: 100, FreeCapacityGib: 80},
		},
	}
	if i == 4 {
		h.Pools[0].ReplicationDomain = "elsewhere"
	}
	return h
}

func world(t tb) *node {
	n := newNode(t)
	n.do(&raftv1.InitCluster{ClusterId: "c1"})
	for i := 1; i <= 4; i++ {
		n.do(&raftv1.RegisterHost{Host: host(i)})
	}
	for _, name := range []string{"readable", "dr", "writable", ""} {
		st := &tarnv1.ShareType{Id: "t-" + name, Name: "type " + name, ExtraSpecs: map[string]string{}}
		if name != "" {
			st.ExtraSpecs[specReplicationType] = name
		}
		n.do(&raftv1.PutShareType{ShareType: st})
	}
	return n
}

func newShare(id, kind string) *raftv1.CreateShare {
	return &raftv1.CreateShare{
		Share: &tarnv1.Share{
			Id: id, ProjectId: "p1", UserId: "u1", Name: "name of " + id, SizeGib: 2, ShareProto: "NFS", ShareTypeId: "t-" + kind,
			SnapshotSupport: true, CreateShareFromSnapshotSupport: true,
		},
		Replica: &tarnv1.Replica{Id: id + "-r1", HostId: "h1", Pool: "tank"},
	}
}

// share makes an available share with its active replica on h1.
func (n *node) share(id, kind string) {
	n.t.Helper()
	n.do(newShare(id, kind))
	n.available(id + "-r1")
}

func (n *node) available(replica string) {
	n.t.Helper()
	guid := uint64(0xa0)
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{
		Id: replica, Status: tarnv1.Status_STATUS_AVAILABLE, HeadGuid: &guid,
		SetExportLocations: true,
		ExportLocations:    []*tarnv1.ExportLocation{{Id: replica + "-e", Path: "host:/" + replica}},
	}}})
}

// replicated makes a share with an in_sync second replica on h2.
func (n *node) replicated(id, kind string) {
	n.t.Helper()
	n.share(id, kind)
	n.secondary(id, 2)
}

func (n *node) secondary(share string, i int) {
	n.t.Helper()
	id := fmt.Sprintf("%s-r%d", share, i)
	n.do(&raftv1.CreateReplica{
		Replica:             &tarnv1.Replica{Id: id, ShareId: share, HostId: fmt.Sprintf("h%d", i), Pool: "tank"},
		SnapshotInstanceIds: n.instanceIDs(share, id),
	})
	n.available(id)
	n.setState(id, tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC)
}

func (n *node) instanceIDs(share, replica string) map[string]string {
	ids := map[string]string{}
	for s := range n.f.View().SnapshotsOfShare(share) {
		ids[s.GetId()] = s.GetId() + "-" + replica
	}
	return ids
}

func (n *node) setState(replica string, st tarnv1.ReplicaState) {
	n.t.Helper()
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: replica, ReplicaState: st}}})
}

// snapshot asks for a snapshot on every replica of the share.
func (n *node) snapshot(share, id string) {
	n.t.Helper()
	n.do(n.newSnapshot(share, id))
}

func (n *node) newSnapshot(share, id string) *raftv1.CreateSnapshot {
	ids := map[string]string{}
	for _, r := range n.f.View().ReplicasOfShare(share) {
		ids[r.GetId()] = id + "-" + r.GetId()
	}
	return &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{Id: id, ShareId: share, UserId: "u1", Name: id}, InstanceIds: ids}
}

// arrives reports a snapshot from a replica's host.
func (n *node) arrives(snapshot, replica string, guid uint64) {
	n.t.Helper()
	n.move(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{
		SnapshotId: snapshot, ReplicaId: replica, Status: tarnv1.Status_STATUS_AVAILABLE, Guid: guid,
	}}})
}

func (n *node) getShare(id string) *tarnv1.Share {
	n.t.Helper()
	s, ok := n.f.View().Share(id)
	if !ok {
		n.t.Fatalf("share %s does not exist", id)
	}
	return n.f.View().ProjectShare(s)
}

func (n *node) getReplica(id string) *tarnv1.Replica {
	n.t.Helper()
	r, ok := n.f.View().Replica(id)
	if !ok {
		n.t.Fatalf("replica %s does not exist", id)
	}
	return r
}

func (n *node) snapshotStatus(id string) tarnv1.Status {
	n.t.Helper()
	s, ok := n.f.View().Snapshot(id)
	if !ok {
		return tarnv1.Status_STATUS_UNSPECIFIED
	}
	return n.f.View().ProjectSnapshot(s).GetStatus()
}

var _ tb = (*testing.T)(nil)
