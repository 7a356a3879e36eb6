package reconcile

import (
	"testing"
	"time"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestMadeAvailableByHand: the state has to know that a replica was there once, also if
// somebody has reset its status before it was. Without that its host takes a dataset that
// is lost later for one that was never made, and makes an empty one.
func TestMadeAvailableByHand(t *testing.T) {
	w := newWorld(t)
	w.addHost("a", "z1", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	w.addShare("s", "a", "readable", 10*time.Second)
	w.must(&raftv1.Command{Verb: &raftv1.Command_ResetShareStatus{ResetShareStatus: &raftv1.ResetShareStatus{
		Id: "s", Status: tarnv1.Status_STATUS_AVAILABLE,
	}}})
	if r := w.replicaOn("s", "a"); r.GetLaunchedAt() != nil {
		t.Fatalf("a word alone launched it: %v", r)
	}
	w.run(10 * time.Second)
	if r := w.replicaOn("s", "a"); r.GetLaunchedAt() == nil || r.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
		t.Errorf("it serves, and the state has %v", r)
	}
	w.settles()
}
