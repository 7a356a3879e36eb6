package reconcile

import (
	"bytes"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// backup is the whole state at this moment.
func (w *world) backup() []byte {
	w.t.Helper()
	var b bytes.Buffer
	if _, err := w.fsm.View().WriteTo(&b); err != nil {
		w.t.Fatalf("%v", err)
	}
	return b.Bytes()
}

// restore loses the control plane and starts it again from a backup.
func (w *world) restore(saved []byte) {
	w.t.Helper()
	var state bytes.Buffer
	if err := raftfsm.RestoredState(&state, bytes.NewReader(saved)); err != nil {
		w.t.Fatalf("%v", err)
	}
	if err := w.fsm.Restore(io.NopCloser(&state)); err != nil {
		w.t.Fatalf("%v", err)
	}
	w.restored, w.index = true, w.fsm.View().Index()
	w.lead()
}

// two is a share on hosts a, its owner, and b.
func two(t *testing.T) *world {
	w := newWorld(t)
	w.addHost("a", "z1", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	w.addHost("b", "z2", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	w.addShare("s", "a", "dr", 10*time.Second)
	w.run(2 * time.Second)
	w.addReplica("s", "b")
	w.run(10 * time.Second)
	return w
}

func (w *world) fencing() *tarnv1.Fencing {
	s, _ := w.fsm.View().Share("s")
	return s.GetFencing()
}

func (w *world) waiting() string {
	s, _ := w.fsm.View().Share("s")
	return WaitingFor(w.policy, w.fsm.View(), w.soft.Snapshot(w.now, w.leases), s, true)
}

// promotedToB checks that b owns the share, and gives the snapshot of what is written there.
func (w *world) promotedToB() (head uint64) {
	w.t.Helper()
	if w.fencing().GetOwnerReplicaId() != "s-b" || w.hosts["b"].writers("s") != 1 {
		w.t.Fatalf("not promoted: %v", w.fencing())
	}
	w.hosts["b"].data["s-b"].dirty = true
	w.run(5 * time.Second)
	return w.hosts["b"].data["s-b"].head()
}

// bothHave checks that what was written after the backup is on both hosts.
func (w *world) bothHave(head uint64) {
	w.t.Helper()
	for _, host := range []string{"a", "b"} {
		if got := w.hosts[host].data["s-"+host]; got.history[0] == 0 || !slices.Contains(got.history, head) {
			w.t.Fatalf("host %s lacks what was written after the backup: %v", host, got.history)
		}
	}
}

// A share is promoted while its owner is away, and the control plane is lost and restored
// from before. The former owner, which nobody ever told, comes back first and gets no
// lease; the new one's data go on, by the operator's word, and nothing of them is lost.
func TestPromotionAfterTheBackupIsFound(t *testing.T) {
	w := two(t)
	saved := w.backup()
	w.hosts["a"].cut = true
	w.run(time.Minute)
	if res := w.promote("s", "b", "op", tarnv1.PromotionMode_PROMOTION_MODE_FORCED, 0); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(time.Minute)
	head := w.promotedToB()

	w.restore(saved)
	w.hosts["a"].cut, w.hosts["b"].cut = false, true
	w.run(time.Minute)
	if w.hosts["a"].writers("s") != 0 || !strings.Contains(w.waiting(), "not yet of replica s-b in zone z2 on host b") {
		t.Fatalf("the former owner came first: %d write, waits for %q", w.hosts["a"].writers("s"), w.waiting())
	}
	w.hosts["b"].cut = false
	w.run(time.Minute)
	if f := w.fencing(); f.GetNewerEpoch() != 2 || f.GetNewerReplicaId() != "s-b" || f.GetOwnerReplicaId() != "s-a" {
		t.Fatalf("found %v", f)
	}
	if w.hosts["a"].writers("s")+w.hosts["b"].writers("s") != 0 || !strings.Contains(w.waiting(), "replica s-b in zone z2 on host b has data of epoch 2; promote that one with --force") {
		t.Errorf("waits for %q", w.waiting())
	}
	told := 0
	for m := range w.fsm.View().Messages() {
		if strings.Contains(m.GetUserMessage(), "older than a promotion of this share") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("users were told %d times", told)
	}
	w.settles()
	if res := w.promote("s", "b", "again", tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, 0); res.Err == nil {
		t.Error("the former owner may demote itself for a planned promotion")
	}
	if res := w.promote("s", "b", "settle", tarnv1.PromotionMode_PROMOTION_MODE_FORCED, 0); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(time.Minute)
	if f := w.fencing(); f.GetOwnerReplicaId() != "s-b" || f.GetEpoch() != 3 || w.hosts["b"].writers("s") != 1 || w.waiting() != "" {
		t.Fatalf("settled as %v, waits for %q", f, w.waiting())
	}
	w.bothHave(head)
}

// The backup is of the middle of a planned promotion that ended afterwards: its former owner,
// which is the first to be heard, does not get the epoch that the new one has, and the
// promotion ends as it did.
func TestBackupOfAPromotion(t *testing.T) {
	w := two(t)
	w.hosts["b"].alone = true
	w.hosts["a"].data["s-a"].dirty = true
	if res := w.promote("s", "b", "op", tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, 0); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.run(3 * time.Second)
	saved := w.backup()
	if f := w.fencing(); f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED || f.GetEpoch() != 1 {
		t.Fatalf("not in the middle: %v", f)
	}
	w.hosts["b"].alone = false
	w.run(10 * time.Second)
	head := w.promotedToB()

	w.restore(saved)
	w.hosts["b"].cut = true
	w.run(5 * time.Minute)
	if f := w.fencing(); f.GetEpoch() != 1 || w.hosts["a"].writers("s") != 0 {
		t.Fatalf("the former owner came first: %d write, %v", w.hosts["a"].writers("s"), f)
	}
	w.hosts["b"].cut = false
	w.run(time.Minute)
	if f := w.fencing(); f.GetOwnerReplicaId() != "s-b" || f.GetEpoch() != 2 || w.hosts["b"].writers("s") != 1 || w.waiting() != "" {
		t.Fatalf("settled as %v, waits for %q", f, w.waiting())
	}
	w.bothHave(head)
}

// Nothing was promoted since: when all hosts have spoken the share is served as before.
// Where a promotion was cancelled since, its owner goes on above the epoch it has seen.
func TestRestoreWithoutAPromotion(t *testing.T) {
	for name, meanwhile := range map[string]func(*world){
		"nothing": func(*world) {},
		"cancelled": func(w *world) {
			w.hosts["a"].busy = true
			w.promote("s", "b", "op", tarnv1.PromotionMode_PROMOTION_MODE_FORCED, 0)
			w.run(2 * time.Second)
			w.must(cancelRunning(w))
			w.hosts["a"].busy = false
			w.run(5 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := two(t)
			saved := w.backup()
			meanwhile(w)
			before := w.fencing().GetEpoch()
			w.restore(saved)
			w.run(time.Minute)
			f := w.fencing()
			if f.GetOwnerReplicaId() != "s-a" || w.hosts["a"].writers("s") != 1 || w.waiting() != "" || raftfsm.Unsettled(&tarnv1.Share{Fencing: f}) {
				t.Fatalf("%v, waits for %q", f, w.waiting())
			}
			if name == "nothing" && f.GetEpoch() != before || name != "nothing" && f.GetEpoch() <= before {
				t.Errorf("epoch %d after %d", f.GetEpoch(), before)
			}
			w.settles()
		})
	}
}

// A host that is silent is waited for; deleting its replica is the operator's word that
// there is nothing newer.
func TestRestoreWaitsForTheSilent(t *testing.T) {
	w := two(t)
	saved := w.backup()
	w.hosts["b"].cut = true
	w.restore(saved)
	w.run(5 * time.Minute)
	if w.hosts["a"].writers("s") != 0 {
		t.Fatal("served, though a host may have newer data")
	}
	del := deleteOf(w.replicaOn("s", "b"))
	del.GetDeleteReplica().Force = true
	w.must(del)
	w.run(time.Minute)
	if w.hosts["a"].writers("s") != 1 || w.waiting() != "" {
		t.Errorf("not served: waits for %q, %v", w.waiting(), w.fencing())
	}
}

// TestNoEpochIsTheLast: after what a broken or hostile host names no epoch could follow, and
// the share would be lost to everybody. Such a host has not spoken.
func TestNoEpochIsTheLast(t *testing.T) {
	w, _ := moved(t)
	w.hosts["b"].data["s-b"].epoch = math.MaxUint64
	w.hosts["c"].data["s-c"].epoch = math.MaxUint64 - 1
	w.run(time.Minute)
	if f := w.fencing(); f.GetEpoch() != 1 || f.GetNewerEpoch() != 0 || len(f.GetUnknownReplicas()) != 0 || w.writersOf("s") != 0 {
		t.Errorf("believed: %v", f)
	}
	if !strings.Contains(w.waiting(), "not yet of replica s-b") {
		t.Errorf("waits for %q", w.waiting())
	}
	w.settles()
	if err := w.command(&raftv1.Command{Verb: &raftv1.Command_DeleteReplica{DeleteReplica: &raftv1.DeleteReplica{Id: "s-b", Force: true}}}); err != nil {
		t.Fatal(err)
	}
	w.run(time.Minute)
	if f := w.fencing(); f.GetEpoch() != 1 || w.hosts["a"].writers("s") != 1 {
		t.Errorf("without that replica: %v, %d write", f, w.hosts["a"].writers("s"))
	}
}
