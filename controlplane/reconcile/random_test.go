package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestRandomWorld lets hosts vanish, leaders change and promotions overlap, and
// holds every tick to the laws: one writer at most, one active replica, nothing
// asked for twice; and when all is well again, everything ends in_sync.
func TestRandomWorld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		names := []string{"a", "b", "c"}
		for i, n := range names {
			w.addHost(n, fmt.Sprint("z", i%2), rapid.SampledFrom([]tarnv1.FenceClass{
				tarnv1.FenceClass_FENCE_CLASS_HELPER, tarnv1.FenceClass_FENCE_CLASS_NONE,
			}).Draw(t, "class"))
		}
		w.addShare("s", "a", rapid.SampledFrom([]string{"readable", "dr"}).Draw(t, "type"), 10*time.Second)
		w.run(2 * time.Second)
		w.addReplica("s", "b")
		w.run(2 * time.Second)
		for i := range rapid.IntRange(1, 20).Draw(t, "steps") {
			w.disturb(t, names, i)
			w.run(time.Duration(rapid.IntRange(1, 40).Draw(t, "ticks")) * tick)
			w.checkPlannedLosesNothing(t)
		}
		w.calm(names)
	})
}

func (w *world) disturb(t *rapid.T, names []string, i int) {
	host := rapid.SampledFrom(names).Draw(t, "host")
	h := w.hosts[host]
	op := fmt.Sprint("op", i)
	switch rapid.SampledFrom([]string{"cut", "heal", "write", "write", "snapshot", "planned", "forced", "cancel", "busy", "leader", "failover", "failover", "replica", "delete", "attest"}).Draw(t, "event") {
	case "cut":
		h.cut = true
	case "heal":
		h.cut = false
	case "write":
		for _, r := range h.data {
			r.dirty = r.role == tarnv1.Role_ROLE_ACTIVE && h.leased()
		}
	case "snapshot":
		w.addSnapshot("s", fmt.Sprint("snap", i))
	case "planned", "forced":
		if w.replicaOn("s", host) == nil {
			return
		}
		w.promote("s", host, op, rapid.SampledFrom([]tarnv1.PromotionMode{1, 2}).Draw(t, "mode"), 0)
	case "failover":
		// The active host vanishes for the cluster, not for its clients.
		s, _ := w.fsm.View().Share("s")
		owner, _ := w.fsm.View().Replica(s.GetFencing().GetOwnerReplicaId())
		w.hosts[owner.GetHostId()].cut = true
		if host != owner.GetHostId() && w.replicaOn("s", host) != nil {
			h.cut = false
			w.promote("s", host, op, tarnv1.PromotionMode_PROMOTION_MODE_FORCED, 0)
		}
		if rapid.Bool().Draw(t, "with the leader") {
			w.lead()
		}
	case "cancel":
		_ = w.command(cancelRunning(w))
	case "busy":
		h.busy = !h.busy
	case "leader":
		w.lead()
	case "replica":
		w.addReplica("s", host)
	case "delete":
		if r := w.replicaOn("s", host); r != nil {
			_ = w.command(deleteOf(r))
		}
	case "attest":
		// True only where nobody can write: the operator does not lie.
		s, _ := w.fsm.View().Share("s")
		owner, _ := w.fsm.View().Replica(s.GetFencing().GetOwnerReplicaId())
		if w.hosts[owner.GetHostId()].cut && !w.hosts[owner.GetHostId()].leased() {
			w.attest("s")
		}
	}
}

// checkPlannedLosesNothing: an owner that came by a planned promotion holds the
// snapshot that ended the writes of the one before.
func (w *world) checkPlannedLosesNothing(t *rapid.T) {
	s, _ := w.fsm.View().Share("s")
	f := s.GetFencing()
	if f.GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_ACTIVE || f.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_PLANNED ||
		f.GetProof() != tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK {
		return
	}
	owner, _ := w.fsm.View().Replica(f.GetOwnerReplicaId())
	base := f.GetLineage()[len(f.GetLineage())-1].GetBaseGuid()
	if data := w.hosts[owner.GetHostId()].data[owner.GetId()]; data == nil || !slices.Contains(data.history, base) {
		t.Fatalf("the new owner %s does not hold %d", owner.GetId(), base)
	}
}

// heed is the operator of a promotion that would lose what another replica has (as
// reliability 3.8 wants it, that waits for a word): it does what it is told to do.
func (w *world) heed() {
	view := w.fsm.View()
	s, _ := view.Share("s")
	_, advice, asked := strings.Cut(WaitingFor(w.policy, view, w.soft.Snapshot(w.now, w.leases), s, true), ", which replica ")
	if !asked {
		return
	}
	holder, _, _ := strings.Cut(advice, " ")
	if err := w.command(cancelRunning(w)); err != nil {
		w.t.Fatalf("the promotion says that it can be cancelled, but: %v: %v", err, s.GetFencing())
	}
	w.run(20 * time.Second)
	r, _ := w.fsm.View().Replica(holder)
	if r := w.promote("s", r.GetHostId(), "heeded", tarnv1.PromotionMode_PROMOTION_MODE_FORCED, 0); r.Err != nil {
		w.t.Fatalf("the promotion says to promote %s, but: %v", holder, r.Err)
	}
	w.run(40 * time.Second)
}

// calm heals everything, finishes what runs and expects the replicas to recover.
func (w *world) calm(names []string) {
	for _, n := range names {
		w.hosts[n].cut, w.hosts[n].busy = false, false
	}
	w.run(40 * time.Second)
	w.heed()
	w.settles()
	view := w.fsm.View()
	s, _ := view.Share("s")
	if s.GetFencing().GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_ACTIVE {
		w.t.Fatalf("a promotion never ends: %v", s.GetFencing())
	}
	if p := s.GetFencing().GetPreparing(); p != nil && !p.GetCancelled() {
		w.t.Fatalf("a promotion never begins: %v", s.GetFencing())
	}
	for _, r := range view.ReplicasOfShare("s") {
		want := tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
		if r.GetId() == s.GetFencing().GetOwnerReplicaId() {
			want = tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
		}
		if r.GetStatus() != tarnv1.Status_STATUS_AVAILABLE || r.GetReplicaState() != want {
			w.t.Fatalf("replica %s ends %v %v, want %v: %v", r.GetId(), r.GetStatus(), r.GetReplicaState(), want, r)
		}
	}
}
