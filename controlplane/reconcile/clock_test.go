package reconcile

import (
	"testing"
	"time"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// What a failover loses is never told too small, whatever the leader's wall clock does: it
// is set right by hours after the machine was frozen, or is another than that of the leader
// before. Nor does it make an automatic failover lose more than its type allows.
func TestWallClockDoesNotMakeALossSmaller(t *testing.T) {
	for name, before := range map[string]func(*world){
		"began here":                 func(w *world) { w.soft.Began("op", w.now) },
		"began under another leader": func(w *world) { w.lead() },
	} {
		t.Run(name, func(t *testing.T) {
			w := two(t)
			w.hosts["a"].cut = true
			w.run(time.Minute)
			w.must(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
				Id: w.replicaOn("s", "b").GetId(), OpId: "op", Mode: tarnv1.PromotionMode_PROMOTION_MODE_FORCED,
				ExpectedEpoch: 1, AllowOutOfSync: true, Consent: &tarnv1.Consent{},
			}}})
			before(w)
			var honest time.Duration
			for range 60 {
				w.now = w.now.Add(tick)
				w.hosts["b"].act()
				if loss := w.proofAt(0); loss != nil {
					honest = loss.GetKeptAge().AsDuration()
					break
				}
				for _, c := range Step(w.policy, w.fsm.View(), w.soft.Snapshot(w.now, w.leases), w.now, w.id) {
					w.apply(c)
				}
			}
			if honest < 50*time.Second {
				t.Fatalf("with a good clock %s are lost", honest)
			}
			for _, step := range []time.Duration{-24 * time.Hour, time.Minute, 24 * time.Hour} {
				if got := w.proofAt(step).GetKeptAge().AsDuration(); got < honest {
					t.Errorf("the wall clock is %s off: %s are lost instead of %s", step, got, honest)
				}
			}
		})
	}
}

// proofAt is the loss in the proof that a leader would commit now, whose wall clock is off.
func (w *world) proofAt(off time.Duration) *tarnv1.LossReport {
	for _, c := range Step(w.policy, w.fsm.View(), w.soft.Snapshot(w.now, w.leases), w.now.Add(off), w.id) {
		if p := c.GetCommitProof(); p != nil {
			return p.GetLoss()
		}
	}
	return nil
}

// TestLeaderWhoseClockWasAheadIsForgotten: the state's clock stays where such a leader left
// it. Hosts that fall silent then are down all the same, drains go on, and users are told.
func TestLeaderWhoseClockWasAheadIsForgotten(t *testing.T) {
	w := two(t)
	w.addHost("c", "z3", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	w.run(5 * time.Second)
	right := w.now
	w.now = w.now.Add(20 * 365 * 24 * time.Hour)
	for _, host := range w.order {
		h, _ := w.fsm.View().Host(host)
		w.must(&raftv1.Command{Verb: &raftv1.Command_SetHostAdminState{SetHostAdminState: &raftv1.SetHostAdminState{
			Id: h.GetId(), AdminState: tarnv1.HostAdminState_HOST_ADMIN_STATE_DISABLED,
		}}})
		w.must(&raftv1.Command{Verb: &raftv1.Command_SetHostAdminState{SetHostAdminState: &raftv1.SetHostAdminState{
			Id: h.GetId(), AdminState: tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED,
		}}})
	}
	if res := w.promote("s", "b", "op", tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, 0); res.Err != nil {
		t.Fatal(res.Err)
	}
	if err := w.command(&raftv1.Command{Verb: &raftv1.Command_CancelPromotion{CancelPromotion: &raftv1.CancelPromotion{ShareId: "s", OpId: "op"}}}); err != nil {
		t.Fatal(err)
	}
	w.now = right
	w.lead()
	if res := w.promote("s", "b", "back", tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, 0); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(30 * time.Second)
	if w.fencing().GetOwnerReplicaId() != "s-b" {
		t.Fatalf("not promoted: %v", w.fencing())
	}
	w.hosts["c"].cut = true
	w.run(time.Minute)
	if c, _ := w.fsm.View().Host("c"); c.GetState() != tarnv1.HostState_HOST_STATE_DOWN {
		t.Errorf("a silent host is %v", c.GetState())
	}
	w.hosts["c"].cut = false
	w.must(&raftv1.Command{Verb: &raftv1.Command_SetHostAdminState{SetHostAdminState: &raftv1.SetHostAdminState{
		Id: "b", AdminState: tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING,
	}}})
	w.run(2 * time.Minute)
	if h, _ := w.fsm.View().Host("b"); w.replicaOn("s", "b") != nil {
		t.Errorf("the drain waits for %v", DrainBlockers(w.policy, w.fsm.View(), w.soft.Snapshot(w.now, w.leases), h.GetId()))
	}
	r := &round{policy: w.policy, view: w.fsm.View(), now: w.now}
	if got := r.until(w.policy.MessageTTL).AsTime().Sub(w.fsm.View().Time()); got != w.policy.MessageTTL {
		t.Errorf("what users are told ends %s after it is said", got)
	}
}
