package chaos

import (
	"bytes"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/agent"
	tarnv1 "tarn/proto/tarn/v1"
)

// A checker that cannot fail proves nothing: what follows are histories that must not
// pass, each beside one that may.

func TestPlansFollowTheSeed(t *testing.T) {
	drawn := map[string]bool{}
	for n := range 1000 {
		steps := plan(1, n, 3)
		if !reflect.DeepEqual(steps, plan(1, n, 3)) {
			t.Fatalf("schedule %d is another one the second time", n)
		}
		for _, s := range steps {
			drawn[s.kind] = true
		}
	}
	if reflect.DeepEqual(plan(1, 0, 3), plan(2, 0, 3)) {
		t.Error("the seed makes no difference")
	}
	for _, k := range kinds() {
		if !drawn[k.name] {
			t.Errorf("%s is never drawn", k.name)
		}
	}
}

var dayOne = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func second(n float64) time.Time { return dayOne.Add(time.Duration(n * float64(time.Second))) }

// twoEpochs: a owns the share from second 0, b from second 10, by force, with what a had
// at second 7.
func twoEpochs() history {
	at := func(n float64) *timestamppb.Timestamp { return timestamppb.New(second(n)) }
	return history{
		share: "s",
		epochs: []*tarnv1.LineageEntry{
			{Epoch: 1, OwnerReplicaId: "a", At: at(0)}, {Epoch: 2, OwnerReplicaId: "b", At: at(10)},
		},
		losses: map[uint64]*tarnv1.Fencing{2: {
			Epoch: 2, Mode: tarnv1.PromotionMode_PROMOTION_MODE_FORCED,
			Loss: &tarnv1.LossReport{EpochFrom: 1, EpochTo: 2, KeptCreatedAt: at(7)},
		}},
	}
}

func TestWritersAreJudged(t *testing.T) {
	for name, c := range map[string]struct {
		replica      string
		begun, acked float64
		epoch        uint64 // 0: nobody's
	}{
		"owner":                        {"a", 1, 2, 1},
		"owner, across the handover":   {"a", 9.9, 10.1, 1},
		"former owner":                 {"a", 10.1, 10.2, 0},
		"successor":                    {"b", 11, 12, 2},
		"successor, before its time":   {"b", 5, 6, 0},
		"copy that never owned it":     {"c", 5, 6, 0},
		"owner, long after the others": {"a", 50, 51, 0},
	} {
		epoch, err := twoEpochs().epochOf(written{replica: c.replica, begun: second(c.begun), acked: second(c.acked)})
		if (err == nil) != (c.epoch != 0) || epoch != c.epoch {
			t.Errorf("%s: epoch %d, %v", name, epoch, err)
		}
	}
}

func TestLossesAreJudged(t *testing.T) {
	lost := func(acked float64) written { return written{replica: "a", acked: second(acked)} }
	if err := twoEpochs().declared(lost(8), 1); err != nil {
		t.Error(err)
	}
	if twoEpochs().declared(lost(6), 1) == nil {
		t.Error("a file of before the kept snapshot is lost, and that is found right")
	}
	if twoEpochs().declared(lost(12), 2) == nil {
		t.Error("a file of the last epoch is lost, and that is found right")
	}
	planned := twoEpochs()
	planned.losses[2].Mode = tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	if planned.declared(lost(8), 1) == nil {
		t.Error("a planned promotion lost a file, and that is found right")
	}
	silent := twoEpochs()
	silent.losses[2].Loss = nil
	if silent.declared(lost(8), 1) == nil {
		t.Error("a failover without a report lost a file, and that is found right")
	}
}

func TestObserverNoticesBrokenHistories(t *testing.T) {
	share := func(epoch uint64, owner string, proof tarnv1.FencingProof) *tarnv1.Share {
		s := &tarnv1.Share{Id: "s", Fencing: &tarnv1.Fencing{
			Epoch: epoch, Phase: tarnv1.FencingPhase_FENCING_PHASE_ACTIVE, OwnerReplicaId: owner, Proof: proof,
			Lineage: []*tarnv1.LineageEntry{{Epoch: 1, OwnerReplicaId: "a"}},
		}}
		if epoch == 2 {
			s.Fencing.Lineage = append(s.Fencing.Lineage, &tarnv1.LineageEntry{Epoch: 2, OwnerReplicaId: owner})
		}
		return s
	}
	none, expired := tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED, tarnv1.FencingProof_FENCING_PROOF_LEASE_EXPIRED
	for name, c := range map[string]struct {
		seen   []*tarnv1.Share
		broken int
	}{
		"with a proof":        {[]*tarnv1.Share{share(1, "a", none), share(2, "b", expired)}, 0},
		"without a proof":     {[]*tarnv1.Share{share(1, "a", none), share(2, "b", none)}, 1},
		"epoch that falls":    {[]*tarnv1.Share{share(2, "b", expired), share(1, "a", none)}, 1},
		"past that changes":   {[]*tarnv1.Share{share(2, "b", expired), share(2, "c", expired)}, 1},
		"cancelled promotion": {[]*tarnv1.Share{share(1, "a", none), share(2, "a", none)}, 0},
	} {
		o := newObserver(nil)
		for _, s := range c.seen {
			o.noteShare(s)
		}
		if got := o.failures(); len(got) != c.broken {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestRegistersCanBeWrong(t *testing.T) {
	op := func(call, end int64, q asked, a answered) porcupine.Operation {
		q.name, q.id = "n", "x"
		if a.outcome == outOK && q.op != opDelete {
			a.id = "x"
		}
		return porcupine.Operation{Input: q, Output: a, Call: call, Return: end}
	}
	create := op(0, 1, asked{op: opCreate, value: "1"}, answered{outcome: outOK, value: "1", revision: 1})
	for name, c := range map[string]struct {
		then []porcupine.Operation
		want bool
	}{
		"read of what was written": {[]porcupine.Operation{op(2, 3, asked{op: opGet}, answered{outcome: outOK, value: "1", revision: 1})}, true},
		"read that is stale": {[]porcupine.Operation{
			op(2, 3, asked{op: opUpdate, value: "2"}, answered{outcome: outOK, value: "2", revision: 2}),
			op(4, 5, asked{op: opGet}, answered{outcome: outOK, value: "1", revision: 1})}, false},
		"unknown change, seen": {[]porcupine.Operation{
			op(2, 99, asked{op: opUpdate, value: "2"}, answered{}),
			op(4, 5, asked{op: opGet}, answered{outcome: outOK, value: "2", revision: 7})}, true},
		"change done twice": {[]porcupine.Operation{
			op(2, 9, asked{op: opUpdate, value: "2"}, answered{outcome: outOK, value: "2", revision: 4}),
			op(3, 4, asked{op: opGet}, answered{outcome: outOK, value: "2", revision: 2})}, false},
		"wrong refusal": {[]porcupine.Operation{op(2, 3, asked{op: opCompare, value: "2", revision: 1}, answered{outcome: outAborted})}, false},
		"lost":          {[]porcupine.Operation{op(2, 3, asked{op: opGet}, answered{outcome: outNotFound})}, false},
	} {
		if got := porcupine.CheckOperations(registers(), append([]porcupine.Operation{create}, c.then...)); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestAnAgentThatTookItselfForAnotherIsFound(t *testing.T) {
	var log bytes.Buffer
	said := slog.New(slog.NewTextHandler(&log, nil))
	said.Warn("lease was not renewed", "err", "no leader")
	if err := onlyLife("one", log.Bytes()); err != nil {
		t.Error(err)
	}
	said.Error("another life of this host goes on", "err", agent.ErrAnotherLife)
	said.Info("later")
	if err := onlyLife("one", log.Bytes()); err == nil || strings.Contains(err.Error(), "later") || !strings.Contains(err.Error(), "level=ERROR") {
		t.Error(err)
	}
}
