package reconcile

import (
	"strings"
	"testing"
	"time"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// copies counts what a share could be served from without loss.
func (w *world) copies(share string) int {
	n := 0
	for _, r := range w.fsm.View().ReplicasOfShare(share) {
		switch r.GetReplicaState() {
		case tarnv1.ReplicaState_REPLICA_STATE_ACTIVE, tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC:
			n++
		}
	}
	return n
}

// drainWorld has shares of all kinds on host a: as owner, as secondary, as the only
// copy, and one that cannot be replicated.
func drainWorld(t *testing.T) (w *world, copies map[string]int) {
	t.Helper()
	w = newWorld(t)
	for i, name := range []string{"a", "b", "c", "d"} {
		w.addHost(name, "z"+string(rune('1'+i%2)), tarnv1.FenceClass_FENCE_CLASS_HELPER)
	}
	copies = map[string]int{"owned": 2, "second": 2, "three": 3, "dr": 2, "alone": 1, "plain": 0}
	w.addShare("owned", "a", "readable", 10*time.Second)
	w.addShare("second", "b", "readable", 10*time.Second)
	w.addShare("three", "a", "readable", time.Minute)
	w.addShare("dr", "a", "dr", 10*time.Second)
	w.addShare("alone", "a", "readable", 10*time.Second)
	w.addShare("plain", "a", "plain", 10*time.Second)
	w.run(2 * time.Second)
	w.addSnapshot("owned", "snap")
	for _, r := range [][2]string{{"owned", "b"}, {"second", "a"}, {"three", "b"}, {"three", "c"}, {"dr", "d"}} {
		if res := w.addReplica(r[0], r[1]); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	w.run(time.Minute)
	for share, want := range copies {
		if n := w.copies(share); n != want {
			t.Fatalf("share %s begins with %d copies, want %d", share, n, want)
		}
	}
	return w, copies
}

// TestDrainLosesNoCopyOfAnyShare drains a host of everything, under writes, and
// counts at every moment.
func TestDrainLosesNoCopyOfAnyShare(t *testing.T) {
	w, copies := drainWorld(t)
	w.must(&raftv1.Command{Verb: &raftv1.Command_SetHostAdminState{SetHostAdminState: &raftv1.SetHostAdminState{
		Id: "a", AdminState: tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING,
	}}})
	for range 20 * 60 {
		for _, h := range w.hosts {
			for _, r := range h.data {
				r.dirty = r.dirty || h.w.now.Second()%7 == 0
			}
		}
		w.run(time.Second)
		for share, want := range copies {
			if n := w.copies(share); n < want {
				t.Fatalf("share %s is down to %d copies, want %d", share, n, want)
			}
		}
	}
	for share, want := range copies {
		if n, all := w.copies(share), len(w.fsm.View().ReplicasOfShare(share)); n != want || share != "plain" && all != want {
			t.Errorf("share %s ends with %d copies of %d replicas, want %d", share, n, all, want)
		}
		if left := w.replicaOn(share, "a"); left != nil && share != "plain" {
			t.Errorf("share %s is still on the drained host: %v", share, left)
		}
	}
	blockers := DrainBlockers(w.policy, w.fsm.View(), w.soft.Snapshot(w.now, w.leases), "a")
	if len(blockers) != 1 || !strings.Contains(blockers[0], "plain") {
		t.Errorf("the drain waits for %q, want the unreplicated share alone", blockers)
	}
	snap, _ := w.fsm.View().Snapshot("snap")
	for _, r := range w.fsm.View().ReplicasOfShare("owned") {
		if inst, ok := w.fsm.View().InstanceOn(snap.GetId(), r.GetId()); !ok || inst.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
			t.Errorf("the snapshot is not on %s: %v", r.GetId(), inst)
		}
	}
}
