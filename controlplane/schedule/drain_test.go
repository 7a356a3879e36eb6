package schedule

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	tarnv1 "tarn/proto/tarn/v1"
)

const (
	available = tarnv1.Status_STATUS_AVAILABLE
	inSync    = tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
	outOfSync = tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC
	active    = tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
)

func TestPlanDrain(t *testing.T) {
	owner := DrainReplica{ID: "a", Owner: true, Status: available, State: active}
	leaving := owner
	leaving.Draining = true
	second := DrainReplica{ID: "b", Draining: true, Status: available, State: inSync}
	new1 := func(replaces string, state tarnv1.ReplicaState) DrainReplica {
		return DrainReplica{ID: "n", Replaces: replaces, Status: available, State: state}
	}
	keyless := new1("a", inSync)
	keyless.Keyless = true
	down := leaving
	down.Down = true
	cases := []struct {
		name     string
		replicas []DrainReplica
		action   DrainAction
		subject  string
		reason   string
	}{
		{"secondary: create first", []DrainReplica{owner, second}, DrainCreate, "b", ""},
		{"secondary: not before it is in sync", []DrainReplica{owner, second, new1("b", outOfSync)}, DrainWait, "", "to be in_sync"},
		{"secondary: another in_sync replica is no replacement", []DrainReplica{owner, second, new1("", inSync)}, DrainCreate, "b", ""},
		{"secondary: delete when replaced", []DrainReplica{owner, second, new1("b", inSync)}, DrainDelete, "b", ""},
		{"owner: create", []DrainReplica{leaving}, DrainCreate, "a", ""},
		{"owner: promote the replacement", []DrainReplica{leaving, new1("a", inSync)}, DrainPromote, "n", ""},
		{"owner: the replacement has no key", []DrainReplica{leaving, keyless}, DrainWait, "", "copy the key file"},
		{"owner is down", []DrainReplica{down, new1("a", inSync)}, DrainWait, "", "--force"},
	}
	for _, c := range cases {
		steps := PlanDrain(DrainShare{ShareID: "s", Name: "home", ReplicationType: readable, Replicas: c.replicas})
		if len(steps) != 1 || steps[0].Action != c.action || steps[0].ReplicaID != c.subject || !strings.Contains(steps[0].Reason, c.reason) {
			t.Errorf("%s: got %+v", c.name, steps)
		}
	}
	steps := PlanDrain(DrainShare{ShareID: "s", Name: "home", Replicas: []DrainReplica{leaving}})
	if len(steps) != 1 || steps[0].Action != DrainWait || !strings.Contains(steps[0].Reason, "not replicated") {
		t.Errorf("unreplicated: got %+v", steps)
	}
}

// TestDrainKeepsEveryCopy carries out the plan in a world where replicas fall
// in and out of sync, and counts good copies whenever one is deleted.
func TestDrainKeepsEveryCopy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		share := DrainShare{ShareID: "s", Name: "home", ReplicationType: readable}
		n := rapid.IntRange(1, 4).Draw(t, "replicas")
		for i := range n {
			share.Replicas = append(share.Replicas, DrainReplica{
				ID: fmt.Sprint("r", i), Owner: i == 0, Status: available, State: outOfSync,
				Draining: rapid.Bool().Draw(t, "draining"),
			})
		}
		share.Replicas[0].State = active
		made := 0
		act := func() {
			for _, step := range PlanDrain(share) {
				switch step.Action {
				case DrainCreate:
					made++
					share.Replicas = append(share.Replicas, DrainReplica{ID: fmt.Sprint("n", made), Replaces: step.ReplicaID, Status: available, State: outOfSync})
				case DrainPromote:
					promote(&share, step.ReplicaID)
				case DrainDelete:
					remove(t, &share, step.ReplicaID, n)
				}
			}
		}
		for range rapid.IntRange(0, 30).Draw(t, "rounds") {
			i := rapid.IntRange(0, len(share.Replicas)-1).Draw(t, "which")
			if r := &share.Replicas[i]; !r.Owner {
				r.State = rapid.SampledFrom([]tarnv1.ReplicaState{inSync, outOfSync}).Draw(t, "state")
			}
			act()
		}
		// When all stay in sync the drain ends.
		for range 20 {
			for i := range share.Replicas {
				if r := &share.Replicas[i]; !r.Owner {
					r.State = inSync
				}
			}
			act()
		}
		for _, r := range share.Replicas {
			if r.Draining {
				t.Fatalf("replica %s never left: %+v", r.ID, share.Replicas)
			}
		}
		if len(share.Replicas) != n {
			t.Fatalf("%d replicas after the drain, %d before", len(share.Replicas), n)
		}
	})
}

func promote(s *DrainShare, id string) {
	for i := range s.Replicas {
		r := &s.Replicas[i]
		if r.Owner {
			r.Owner, r.State = false, outOfSync
		}
		if r.ID == id {
			r.Owner, r.State = true, active
		}
	}
}

func remove(t *rapid.T, s *DrainShare, id string, atLeast int) {
	var kept []DrainReplica
	good := 0
	for _, r := range s.Replicas {
		if r.ID == id {
			if r.Owner {
				t.Fatalf("the owner %s is deleted", id)
			}
			continue
		}
		if r.good() && (r.Replaces == id) {
			good++
		}
		kept = append(kept, r)
	}
	if good == 0 || len(kept) < atLeast {
		t.Fatalf("replica %s deleted with %d good replacements and %d replicas left of %d", id, good, len(kept), atLeast)
	}
	s.Replicas = kept
}
