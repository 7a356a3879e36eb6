package replicate

import (
	"os"
	"strings"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// An explicit-state model of who may write and of what becomes of the data
// (reliability 3.10), over the product's own decisions: raftfsm.FSM, reconcile.Step,
// observe.Leases, assignment.ForHost and Entitled, lease.Rights and Asked, and of this
// package the worker's adopt, refresh, step, execute, pulled and observation. What the
// model adds is the world around them: ZFS and the export server of two hosts, the
// network, clocks, the dead-man, operators and clients, and what goes wrong.
//
// A scope says what may happen and how often; the search goes breadth first through
// everything that can, and holds every world and every step to the laws. A mutant
// replaces one rule of the product at a seam that it has; the same search has to find
// what it breaks, or the laws prove nothing. docs/design/0003-model.md tells what is left
// out and why.
//
// TARN_SLOW=1 runs the larger scopes, TARN_MODEL_TRACE=1 prints what leads to a mutant's
// fault.

// scoped is a named scope.
type scoped struct {
	name string
	slow bool
	set  func(*options)
}

func scopes() []scoped {
	return []scoped{
		{"planned", false, func(o *options) { plannedOnce(o); o.cancels = 1 }},
		{"planned, prepared first", false, func(o *options) { plannedOnce(o); o.cancels, o.ahead = 1, true }},
		{"planned, dr", false, func(o *options) { plannedOnce(o); o.kind = "dr" }},
		{"planned, with writes", false, func(o *options) { plannedOnce(o); o.writes = 1 }},
		{"forced, cancelled", false, func(o *options) { forcedOnce(o); o.cancels = 1 }},
		{"forced, slow clocks", false, func(o *options) { forcedOnce(o); o.drift = true }},
		{"forced, pauses", false, func(o *options) { forcedOnce(o); o.steps, o.late = true, true; o.limit = 60000 }},
		{"forced, new leader", false, func(o *options) { forcedOnce(o); o.leaders = 1; o.limit = 60000 }},
		{"forced, with writes", false, func(o *options) { forcedOnce(o); o.writes = 1 }},
		{"forced, nothing ends a lease", false, func(o *options) { forcedOnce(o); o.class, o.unguarded = tarnv1.FenceClass_FENCE_CLASS_NONE, true }},
		{"planned twice, old assignments, crashes", true, func(o *options) { o.ops, o.planned, o.lags, o.crashes = 2, 2, 1, 1 }},
		{"planned, cancelled, every step, crashes", true, func(o *options) { plannedOnce(o); o.steps, o.crashes, o.cancels = true, 1, 1 }},
		{"planned, with writes, every step, crashes", true, func(o *options) { plannedOnce(o); o.writes, o.steps, o.crashes = 2, true, 1 }},
		{"planned, prepared first, then forced", true, func(o *options) { o.ops, o.planned, o.forced, o.ahead = 2, 1, 1, true }},
		{"planned, then forced", true, func(o *options) { o.ops, o.planned, o.forced = 2, 1, 1 }},
		{"forced twice, slow clocks", true, func(o *options) { o.ops, o.forced, o.drift = 2, 2, true }},
		{"forced, two new leaders, slow clocks", true, func(o *options) { forcedOnce(o); o.leaders, o.drift = 2, true }},
		{"forced, new leader, every part of an answer, plans", true, func(o *options) { forcedOnce(o); o.parts, o.plans, o.leaders = true, true, 1 }},
		{"forced, every step, crashes", true, func(o *options) { forcedOnce(o); o.steps, o.crashes = true, 1 }},
		{"forced, reboot, old assignments, attested", true, func(o *options) { forcedOnce(o); o.boots, o.lags, o.attests = 1, 1, 1 }},
		{"forced, pauses, slow clocks", true, func(o *options) { forcedOnce(o); o.steps, o.late, o.drift = true, true, true }},
		{"forced, misled answers", true, func(o *options) { forcedOnce(o); o.stray, o.losses, o.drift = true, 2, true }},
		{"forced, with writes, every step, crashes", true, func(o *options) { forcedOnce(o); o.writes, o.steps, o.crashes = 2, true, 1 }},
		{"forced, a user's snapshot", true, func(o *options) { forcedOnce(o); o.writes, o.users = 1, 1 }},
		{"forced, a user's snapshot on the owner alone", true, func(o *options) { forcedOnce(o); o.users, o.apart = 1, true }},
	}
}

// slowLimit bounds what the larger scopes may take of memory.
const slowLimit = 3_000_000

func scopeOf(set func(*options)) options {
	o := options{kind: "readable", class: tarnv1.FenceClass_FENCE_CLASS_HELPER, limit: slowLimit}
	set(&o)
	return o
}

func slowModel() bool { return os.Getenv("TARN_SLOW") != "" }

// TestModel explores what the product does, and finds no law broken.
func TestModel(t *testing.T) {
	for _, sc := range scopes() {
		if sc.slow && !slowModel() {
			t.Logf("%s: a larger scope, which TARN_SLOW=1 runs", sc.name)
			continue
		}
		t.Run(sc.name, func(t *testing.T) {
			o := scopeOf(sc.set)
			if slowModel() {
				o.limit = slowLimit
			}
			r := theProduct()
			r.guard = !o.unguarded
			begun := time.Now()
			m := newMachine(o, r)
			s, v := explore(m)
			t.Logf("%d states, depth %d, all of them: %v; %d states of the log, %d of a host; %v",
				len(s.worlds), s.depth, !s.cut, len(m.ctl.states.all), len(m.agents.all), time.Since(begun).Round(time.Millisecond))
			if v != nil {
				t.Errorf("%v\n%s%s", v.err, s.trace(v.at), m.picture(s.worlds[v.at]))
				return
			}
			s.reaches(t)
			if at, err := s.allEnd(t); err != nil {
				t.Errorf("%v\n%s", err, s.trace(at))
			}
		})
	}
}

// reaches checks that the search saw promotions through: laws hold in an empty world, too.
func (s *space) reaches(t *testing.T) {
	seen := 0
	for _, w := range s.worlds {
		if s.m.state(w).fencing.GetEpoch() > 1 && s.m.agents.get(w.agents[1]).disk.serving() {
			seen++
		}
	}
	if seen == 0 && !s.m.opt.unguarded {
		t.Error("in no world the target of a promotion serves")
	}
}

// allEnd takes some of the worlds with a running promotion to its end; the error is of
// the world at.
func (s *space) allEnd(t *testing.T) (at int32, err error) {
	if s.m.opt.unguarded {
		return 0, nil // without a proof there is none to be expected
	}
	running, tried := 0, 0
	for i, w := range s.worlds {
		if !s.m.state(w).fenced() {
			continue
		}
		if running++; running%97 != 1 {
			continue
		}
		tried++
		if err := s.m.ends(w); err != nil {
			return int32(i), err
		}
	}
	t.Logf("%d of %d worlds with a running promotion were driven to its end", tried, running)
	return 0, nil
}

// TestModelMutants shows that the search finds what each mutant breaks, and how soon.
func TestModelMutants(t *testing.T) {
	for _, mu := range mutants() {
		if mu.slow && !slowModel() {
			t.Logf("%s: takes a larger scope, which TARN_SLOW=1 runs", mu.name)
			continue
		}
		t.Run(mu.name, func(t *testing.T) {
			r := theProduct()
			mu.change(r)
			m := newMachine(scopeOf(mu.scope), r)
			s, v := explore(m)
			if v == nil && mu.law == "I12" {
				if at, err := s.allEnd(t); err != nil {
					v = &violation{at: at, err: err}
				}
			}
			switch {
			case v == nil && mu.law == "" && !s.cut:
				t.Logf("%d states, depth %d: holds", len(s.worlds), s.depth)
				return
			case v == nil:
				t.Errorf("%d states, depth %d: not caught", len(s.worlds), s.depth)
				return
			}
			way := s.trace(v.at)
			t.Logf("%d states, caught at depth %d: %v", len(s.worlds), strings.Count(way, "\n"), v.err)
			if os.Getenv("TARN_MODEL_TRACE") != "" {
				t.Logf("\n%s", way)
			}
			if law, _, _ := strings.Cut(v.err.Error(), " "); law != mu.law {
				t.Errorf("breaks %s, want %q:\n%s", law, mu.law, way)
			}
		})
	}
}
