package raftfsm

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func prepareOf(replica, op string) *raftv1.PromoteReplica {
	return &raftv1.PromoteReplica{Id: replica, OpId: op, Mode: planned, ExpectedEpoch: 1, CatchUp: true}
}

// began is the same command as the leader repeats it.
func began(c *raftv1.PromoteReplica) *raftv1.PromoteReplica {
	next := proto.CloneOf(c)
	next.CatchUp = false
	return next
}

// TestPreparedPromotion stops nothing until the leader begins it.
func TestPreparedPromotion(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CatchUpVersion})
	n.replicated("s", "readable")
	n.do(prepareOf("s-r2", "op"))
	n.do(prepareOf("s-r2", "op"))
	s := n.getShare("s")
	if fencing(s) || s.GetFencing().GetEpoch() != 1 || s.GetFencing().GetOpId() != "" || preparing(s).GetTargetReplicaId() != "s-r2" {
		t.Errorf("prepared: %v", s.GetFencing())
	}
	r := n.getReplica("s-r2")
	if r.GetStatus() != tarnv1.Status_STATUS_AVAILABLE || n.f.View().ProjectReplica(r).GetStatus() != tarnv1.Status_STATUS_REPLICATION_CHANGE {
		t.Errorf("the target is %v, shown as %v", r.GetStatus(), n.f.View().ProjectReplica(r).GetStatus())
	}
	n.refused(FailedPrecondition, "id", prepareOf("s-r2", "other"))
	n.refused(FailedPrecondition, "id", began(prepareOf("s-r2", "other")))
	n.refused(FailedPrecondition, "op_id", prepareOf("s-r1", "op"))
	n.do(began(prepareOf("s-r2", "op")))
	n.do(began(prepareOf("s-r2", "op")))
	n.do(prepareOf("s-r2", "op")) // late
	s = n.getShare("s")
	if !fencing(s) || s.GetFencing().GetPreparing() != nil || s.GetFencing().GetOpId() != "op" {
		t.Errorf("begun: %v", s.GetFencing())
	}
	n.refused(FailedPrecondition, "id", prepareOf("s-r2", "third"))
	checkInvariants(t, n.f.View())
}

// TestCancelledPreparation: nothing happened, no epoch went by, and the leader that was
// about to begin comes too late.
func TestCancelledPreparation(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CatchUpVersion})
	n.replicated("s", "readable")
	n.do(prepareOf("s-r2", "op"))
	for range 2 {
		n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: "op"})
	}
	if f := n.getShare("s").GetFencing(); f.GetEpoch() != 1 || fencing(n.getShare("s")) {
		t.Errorf("cancelled: %v", f)
	}
	n.refused(FailedPrecondition, "op_id", began(prepareOf("s-r2", "op")))
	n.refused(FailedPrecondition, "op_id", prepareOf("s-r2", "op"))
	n.do(prepareOf("s-r2", "next"))
	n.refused(FailedPrecondition, "op_id", &raftv1.CancelPromotion{ShareId: "s", OpId: "op"})
	checkInvariants(t, n.f.View())
}

// TestForcedTakesThePlaceOfAPreparation, whether it has the same number or its own.
func TestForcedTakesThePlaceOfAPreparation(t *testing.T) {
	for _, op := range []string{"op", "other"} {
		n := world(t)
		n.do(&raftv1.SetCommandVersion{Version: CatchUpVersion})
		n.replicated("s", "readable")
		n.do(prepareOf("s-r2", "op"))
		n.refused(InvalidArgument, "catch_up", &raftv1.PromoteReplica{Id: "s-r2", OpId: op, Mode: forced, ExpectedEpoch: 1, CatchUp: true})
		n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: op, Mode: forced, ExpectedEpoch: 1})
		if f := n.getShare("s").GetFencing(); !fencing(n.getShare("s")) || f.GetMode() != forced || f.GetPreparing() != nil {
			t.Errorf("%s: %v", op, f)
		}
		n.refused(FailedPrecondition, "id", began(prepareOf("s-r2", "late")))
		checkInvariants(t, n.f.View())
	}
}

// TestPreparingWaitsForItsVersion: older nodes begin at once, and so does a new one in
// their company.
func TestPreparingWaitsForItsVersion(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CatchUpVersion - 1})
	n.replicated("s", "readable")
	n.do(prepareOf("s-r2", "op"))
	if !fencing(n.getShare("s")) || VersionOf(wrap(t, prepareOf("s-r2", "op"))) != CatchUpVersion {
		t.Errorf("%v", n.getShare("s").GetFencing())
	}
	if !bytes.Equal(dump(t, restored(t, dump(t, n.f.View())).View()), dump(t, n.f.View())) {
		t.Error("it does not survive a restore")
	}
}
