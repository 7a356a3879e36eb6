package reconcile

import (
	"testing"
	"testing/synctest"
	"time"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// ahead is a world whose state was left ahead by a leader's clock, and has another leader.
func ahead(t *testing.T, by time.Duration) *world {
	t.Helper()
	w := two(t)
	w.run(5 * time.Second)
	right := w.now
	w.now = w.now.Add(by)
	w.must(&raftv1.Command{Verb: &raftv1.Command_SetHostAdminState{SetHostAdminState: &raftv1.SetHostAdminState{
		Id: "a", AdminState: tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED,
	}}})
	w.now = right
	w.lead()
	w.run(5 * time.Second)
	return w
}

func (w *world) promoteFor(wait time.Duration, catchUp bool) {
	w.t.Helper()
	w.must(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
		Id: "s-b", OpId: "op", Mode: tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, ExpectedEpoch: 1, CatchUp: catchUp, Wait: durationOf(wait),
	}}})
	w.soft.SetQuiesce("op", w.now.Add(wait))
}

// A promotion that was given a time begins although the state's clock is ahead by more than
// can be given.
func TestPreparedPromotionBeginsUnderAClockThatIsAhead(t *testing.T) {
	w := ahead(t, 2*time.Hour)
	w.promoteFor(time.Minute, true)
	w.run(30 * time.Second)
	if w.fencing().GetOwnerReplicaId() != "s-b" {
		t.Errorf("not promoted: %v", w.fencing())
	}
}

// Nobody waits for years for a target that does not catch up, or an owner that does not
// stop, whoever leads.
func TestPromotionEndsUnderAClockThatIsAhead(t *testing.T) {
	w := ahead(t, 20*365*24*time.Hour)
	w.hosts["b"].alone = true
	w.run(7 * time.Second)
	w.promoteFor(5*time.Minute, true)
	w.lead()
	w.run(4 * time.Minute)
	if w.fencing().GetPreparing().GetCancelled() {
		t.Error("the preparation ended too early")
	}
	w.run(2 * time.Minute)
	if !w.fencing().GetPreparing().GetCancelled() {
		t.Errorf("the preparation goes on: %v", w.fencing())
	}

	w = ahead(t, 20*365*24*time.Hour)
	w.hosts["a"].busy = true
	w.promoteFor(time.Minute, false)
	w.lead()
	w.run(50 * time.Second)
	if w.fencing().GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_FENCING {
		t.Error("the promotion ended too early")
	}
	w.run(20 * time.Second)
	if w.fencing().GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_ACTIVE {
		t.Errorf("nobody may write: %v", w.fencing())
	}
}

// A promotion that the leader prepares by itself has as long as one that somebody asked for.
func TestDrainMayPrepareAsLongAsAnybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := two(t)
		l, _ := newTestLoop(t, w)
		now := time.Now()
		p := &raftv1.PromoteReplica{Id: "s-b", OpId: "op", Mode: tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, ExpectedEpoch: 1, CatchUp: true}
		cmd := &raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: p}}
		l.after(cmd, w.apply(cmd), now)
		if got := w.soft.Snapshot(now, nil).Quiesce["op"].Sub(now); got != w.policy.PrepareTime {
			t.Errorf("it is given %s, want %s", got, w.policy.PrepareTime)
		}
	})
}
