package raftfsm

import (
	"testing"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// TestHostRevision: a host is told of what concerns it, and of nothing else.
func TestHostRevision(t *testing.T) {
	rw := tarnv1.AccessLevel_ACCESS_LEVEL_RW
	moved := host(1)
	moved.Address = "127.0.0.9:7000"
	relabelled := host(1)
	relabelled.SessionId = "new"
	for _, c := range []struct {
		name string
		verb proto.Message
		want map[string]bool
	}{
		{"rule", &raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{Id: "n", ShareId: "rep", AccessType: "ip", AccessTo: "x", AccessLevel: rw}}, map[string]bool{"h1": true, "h2": true}},
		{"sibling's head", &raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "rep-r2", HeadGuid: proto.Uint64(9)}}}, map[string]bool{"h1": true, "h2": true}},
		{"removal of a replica", &raftv1.DeleteReplica{Id: "rep-r2", Force: true}, map[string]bool{"h1": true, "h2": true}},
		{"source's address", &raftv1.RegisterHost{Host: moved}, map[string]bool{"h1": true, "h2": true}},
		{"own session", &raftv1.RegisterHost{Host: relabelled}, nil},
		{"snapshot", &raftv1.DeleteSnapshot{Id: "snap"}, map[string]bool{"h1": true}},
		{"refused", &raftv1.DeleteSnapshot{Id: "nope"}, nil},
		{"no change", &raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "rep-r2", ReplicaState: inSync}}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := busyWorld(t)
			before := n.f.View()
			res := n.try(c.verb)
			if !closed(before.Changed()) {
				t.Errorf("Changed is open after a later state")
			}
			for _, h := range []string{"h1", "h2", "h3", "h4"} {
				_, ch := before.HostRevision(h)
				rev, now := n.f.View().HostRevision(h)
				if closed(ch) != c.want[h] || (rev == res.Index) != c.want[h] {
					t.Errorf("%s: woken %v at revision %d of %d, want %v", h, closed(ch), rev, res.Index, c.want[h])
				}
				if closed(now) {
					t.Errorf("%s: the new channel is closed", h)
				}
			}
		})
	}
}

func TestCloneWatchesItsSource(t *testing.T) {
	n := busyWorld(t)
	c := newShare("clone", "readable")
	c.Share.SnapshotId, c.Replica.HostId = "snap", "h2"
	n.do(c)
	_, ch := n.f.View().HostRevision("h2")
	n.do(&raftv1.UpdateShare{Id: "single", Name: proto.String("other")})
	if !closed(ch) {
		t.Errorf("the host of a clone was not told of its source")
	}
}

func TestRestoreWakesWatchers(t *testing.T) {
	n := busyWorld(t)
	v := n.f.View()
	rev, ch := v.HostRevision("h1")
	data := dump(t, v)
	g := restored(t, data)
	if got, _ := g.View().HostRevision("h1"); got < rev {
		t.Errorf("revision fell from %d to %d", rev, got)
	}
	if err := n.f.Restore(readCloser(data)); err != nil {
		t.Fatal(err)
	}
	if !closed(ch) || !closed(v.Changed()) {
		t.Errorf("watchers of the old state sleep on")
	}
}

// TestViewsAreImmutable: what a view shows does not move while commands go on.
func TestViewsAreImmutable(t *testing.T) {
	n := busyWorld(t)
	v := n.f.View()
	before := dump(t, v)
	n.promoteAll()
	if string(before) != string(dump(t, v)) {
		t.Errorf("an old view changed")
	}
	for s := range v.Shares() {
		v.ProjectShare(s)
	}
	for r := range v.Replicas() {
		v.ProjectReplica(r)
	}
	for h := range v.Hosts() {
		v.ProjectHost(h)
	}
	if string(before) != string(dump(t, v)) {
		t.Errorf("a projection changed its record")
	}
}

func (n *node) promoteAll() {
	n.t.Helper()
	n.do(&raftv1.CommitDemotion{ShareId: "busy", OpId: "op", Epoch: 1, FinalGuid: 0xf1})
	n.do(&raftv1.Activate{ShareId: "busy", OpId: "op", Epoch: 1, HeadGuid: 0xf1})
	n.available("busy-r2")
	n.do(&raftv1.DeleteReplica{Id: "busy-r1", Force: true})
	n.do(&raftv1.ResizeShare{Id: "rep", NewSizeGib: 9})
	n.do(&raftv1.DeleteSnapshot{Id: "snap"})
}
