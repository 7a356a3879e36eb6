package raftfsm

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

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

// TestTimeOfAPlannedPromotion is in the state from version 4 on: that of a preparation,
// and that of an owner that has to stop. Both end with their promotion.
func TestTimeOfAPlannedPromotion(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: WaitVersion})
	n.replicated("s", "readable")
	given := func(c *raftv1.PromoteReplica, wait time.Duration) *raftv1.PromoteReplica {
		c = proto.CloneOf(c)
		c.Wait = durationpb.New(wait)
		return c
	}
	for _, wait := range []time.Duration{-time.Second, 0, longestWait + 1} {
		n.refused(InvalidArgument, "wait", given(prepareOf("s-r2", "op"), wait))
	}
	n.refused(InvalidArgument, "wait", given(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1}, time.Minute))

	n.do(given(prepareOf("s-r2", "op"), time.Minute))
	p := preparing(n.getShare("s"))
	if got := p.GetUntil().AsTime().Sub(p.GetSince().AsTime()); got != time.Minute || VersionOf(wrap(t, given(prepareOf("s-r2", "op"), 1))) != WaitVersion {
		t.Errorf("prepared for %s", got)
	}
	n.do(given(began(prepareOf("s-r2", "op")), 30*time.Second))
	f := n.getShare("s").GetFencing()
	if got := f.GetQuiesceUntil().AsTime().Sub(f.GetStartedAt().AsTime()); got != 30*time.Second {
		t.Errorf("begun for %s", got)
	}
	n.do(&raftv1.CancelPromotion{ShareId: "s", OpId: "op"})
	if until := n.getShare("s").GetFencing().GetQuiesceUntil(); until != nil {
		t.Errorf("cancelled, and stops at %v", until)
	}
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "other", Mode: planned, ExpectedEpoch: 2})
	if until := n.getShare("s").GetFencing().GetQuiesceUntil(); until != nil {
		t.Errorf("nobody said how long: %v", until)
	}
	checkInvariants(t, n.f.View())
}

// TestTimesWaitForTheirVersion: older nodes do not look at them.
func TestTimesWaitForTheirVersion(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: WaitVersion - 1})
	n.replicated("s", "readable")
	c := prepareOf("s-r2", "op")
	c.Wait = durationpb.New(-1)
	n.do(c)
	if until := preparing(n.getShare("s")).GetUntil(); until != nil {
		t.Errorf("kept %v", until)
	}
}
