package reconcile

import (
	"slices"
	"strings"
	"testing"
	"time"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// moved is a share whose backup knows of hosts a and b, and that was moved to host c since:
// nobody but c has what was written there.
func moved(t *testing.T) (w *world, head uint64) {
	w = two(t)
	w.addHost("c", "z3", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	saved := w.backup()
	w.addReplica("s", "c")
	w.run(10 * time.Second)
	if res := w.promote("s", "c", "op", tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, 0); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(30 * time.Second)
	// The others have not heard of it when they come back: the worst case.
	w.hosts["c"].data["s-c"].dirty = true
	w.hosts["a"].cut, w.hosts["b"].cut = true, true
	w.run(5 * time.Second)
	for _, host := range []string{"a", "b"} {
		w.hosts[host].data["s-"+host].epoch = 1
	}
	w.hosts["a"].data["s-a"].role, w.hosts["b"].data["s-b"].role = tarnv1.Role_ROLE_ACTIVE, tarnv1.Role_ROLE_SECONDARY
	w.hosts["a"].cut, w.hosts["b"].cut = false, false
	head = w.hosts["c"].data["s-c"].head()
	w.restore(saved)
	return w, head
}

func (w *world) writersOf(share string) (n int) {
	for _, h := range w.hosts {
		n += h.writers(share)
	}
	return n
}

// The replica is in no record of the restored state, and all that are say they have nothing
// newer: the share is served by nobody all the same. Adopted, it takes over with all it has.
func TestUnknownReplicaIsAdopted(t *testing.T) {
	w, head := moved(t)
	w.run(time.Minute)
	if list := w.fencing().GetUnknownReplicas(); w.writersOf("s") != 0 || len(list) != 1 || list[0].GetReplicaId() != "s-c" || list[0].GetEpoch() != 2 || !list[0].GetPrimary() {
		t.Fatalf("%d write, found %v", w.writersOf("s"), list)
	}
	if !strings.Contains(w.waiting(), "replica s-c on host c, which it does not know, has data of epoch 2; `tarn replica unknown adopt s-c`") {
		t.Errorf("waits for %q", w.waiting())
	}
	w.settles()
	for _, other := range []string{"a", "b"} {
		cmd := &raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: "s-c", ShareId: "s", HostId: other, Pool: "p"}}
		if w.apply(&raftv1.Command{Verb: &raftv1.Command_CreateReplica{CreateReplica: cmd}}).Err == nil {
			t.Errorf("adopted on host %s, where it is not", other)
		}
	}
	if res := w.addReplica("s", "c"); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(time.Minute)
	if f := w.fencing(); w.writersOf("s") != 0 || f.GetNewerReplicaId() != "s-c" || len(f.GetUnknownReplicas()) != 0 {
		t.Fatalf("%d write, %v", w.writersOf("s"), f)
	}
	if res := w.promote("s", "c", "settle", tarnv1.PromotionMode_PROMOTION_MODE_FORCED, 0); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(time.Minute)
	if f := w.fencing(); f.GetOwnerReplicaId() != "s-c" || f.GetEpoch() != 3 || w.hosts["c"].writers("s") != 1 || w.waiting() != "" {
		t.Fatalf("settled as %v, waits for %q", f, w.waiting())
	}
	for _, host := range []string{"a", "b", "c"} {
		if !slices.Contains(w.hosts[host].data["s-"+host].history, head) {
			t.Errorf("host %s lacks what was written after the backup", host)
		}
	}
}

// Dismissed, the share goes on with the owner that the state names, above the epoch of what
// it leaves behind, whose data stay where they are.
func TestUnknownReplicaIsDismissed(t *testing.T) {
	w, head := moved(t)
	w.hosts["c"].cut = true
	w.run(10 * time.Second)
	if w.writersOf("s") != 0 {
		t.Fatal("settled before every host has had its time")
	}
	w.hosts["c"].cut = false
	w.run(20 * time.Second)
	if w.writersOf("s") != 0 || len(raftfsm.Undecided(&tarnv1.Share{Fencing: w.fencing()})) != 1 {
		t.Fatalf("%d write, %v", w.writersOf("s"), w.fencing())
	}
	w.must(&raftv1.Command{Actor: "operator", Verb: &raftv1.Command_DismissUnknownReplica{DismissUnknownReplica: &raftv1.DismissUnknownReplica{ShareId: "s", ReplicaId: "s-c"}}})
	w.run(time.Minute)
	if f := w.fencing(); w.hosts["a"].writers("s") != 1 || f.GetEpoch() != 3 || f.GetOwnerReplicaId() != "s-a" || w.waiting() != "" {
		t.Fatalf("%v, waits for %q", f, w.waiting())
	}
	if !slices.Contains(w.hosts["c"].data["s-c"].history, head) {
		t.Error("what was dismissed is gone")
	}
	w.settles()
}

// A host that comes when the share is served again stops it: its data are newer.
func TestUnknownReplicaThatComesLate(t *testing.T) {
	w, _ := moved(t)
	w.hosts["c"].cut = true
	w.run(2 * time.Minute)
	if w.hosts["a"].writers("s") != 1 {
		t.Fatalf("a host that stays away is waited for for ever: %q", w.waiting())
	}
	w.hosts["c"].cut = false
	w.run(30 * time.Second)
	if w.writersOf("s") != 0 || !strings.Contains(w.waiting(), "tarn replica unknown dismiss s-c") {
		t.Fatalf("%d write, waits for %q", w.writersOf("s"), w.waiting())
	}
}

// Without a restore nobody is believed to know more than the state.
func TestUnknownReplicasStopNothingWithoutARestore(t *testing.T) {
	w := two(t)
	w.hosts["b"].cut = true
	req := &tarnv1.ReportRequest{HostId: "b", SessionId: "1", Sequence: 1 << 20, Full: true, OrphansKnown: true, UnknownReplicas: []*tarnv1.UnknownReplica{
		{ReplicaId: "x", ShareId: "s", Pool: "p", Dataset: "p/tarn/x", Epoch: 99, Primary: true},
	}}
	w.soft.Report(req, w.now)
	w.run(5 * time.Second)
	if w.hosts["a"].writers("s") != 1 || len(w.fencing().GetUnknownReplicas()) != 0 {
		t.Errorf("a host that lies stops a share: %v", w.fencing())
	}
	n := 0
	for u := range Unknown(w.fsm.View(), w.soft.Snapshot(w.now, w.leases)) {
		if n++; u.GetHostId() != "b" || u.GetReplicaId() != "x" {
			t.Errorf("listed %v", u)
		}
	}
	if n != 1 {
		t.Errorf("%d listed", n)
	}
}
