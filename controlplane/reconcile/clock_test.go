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
