package reconcile

import (
	"strings"
	"testing"
	"time"

	"tarn/controlplane/assignment"
	tarnv1 "tarn/proto/tarn/v1"
)

// An administrator destroys a user's snapshot on the active replica's host: users are
// told once, the copies keep theirs, and nobody is told to remove anything.
func TestSnapshotThatIsGoneFromTheOwner(t *testing.T) {
	w := two(t)
	if res := w.addSnapshot("s", "kept"); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(30 * time.Second)
	on := func(host string) tarnv1.Status {
		for i := range w.fsm.View().InstancesOfSnapshot("kept") {
			if i.GetReplicaId() == "s-"+host {
				return i.GetStatus()
			}
		}
		return 0
	}
	available := tarnv1.Status_STATUS_AVAILABLE
	if on("a") != available || on("b") != available {
		t.Fatalf("before: %v on the owner, %v on the copy", on("a"), on("b"))
	}
	delete(w.hosts["a"].data["s-a"].snaps, "kept")
	w.run(time.Minute)
	snap, ok := w.fsm.View().Snapshot("kept")
	if !ok || snap.GetDeleting() || on("a") != tarnv1.Status_STATUS_ERROR || on("b") != available {
		t.Fatalf("afterwards: %v, %v on the owner, %v on the copy", snap, on("a"), on("b"))
	}
	told := 0
	for m := range w.fsm.View().Messages() {
		if m.GetResourceId() == "kept" && strings.Contains(m.GetUserMessage(), "Other replicas may have it") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("users were told %d times", told)
	}
	list, _ := assignment.ForHost(w.fsm.View(), "b")
	if len(list) != 1 || len(list[0].GetRemovedSnapshots()) != 0 || len(list[0].GetSnapshots()) != 1 || w.hosts["b"].data["s-b"].snaps["kept"] == 0 {
		t.Errorf("the copy is told %v", list)
	}
	w.settles()
	// The copy takes over and has it.
	if res := w.promote("s", "b", "op", tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, 0); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(time.Minute)
	if got := w.fsm.View().SnapshotStatus(snap); w.fencing().GetOwnerReplicaId() != "s-b" || got != available {
		t.Errorf("after a promotion to %s it is %v", w.fencing().GetOwnerReplicaId(), got)
	}
}
