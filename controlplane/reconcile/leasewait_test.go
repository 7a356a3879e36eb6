package reconcile_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"tarn/controlplane/observe"
	"tarn/controlplane/reconcile"
	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/raftfsm"
)

// waitRules are what keeps leases of other lengths apart, each of which a mutant replaces.
type waitRules struct {
	mayGrant func(reconcile.Policy, *raftfsm.View) bool
	wait     func(reconcile.Policy, *raftfsm.View) time.Duration
	due      func(reconcile.Policy, *raftfsm.View, time.Duration) bool
	// led is the term that a command names which was planned in one term and is proposed
	// in another.
	led func(planned, proposed uint64) uint64
}

func theWaitRules() waitRules {
	return waitRules{
		mayGrant: reconcile.Policy.MayGrant,
		wait:     reconcile.Policy.Wait,
		due: func(p reconcile.Policy, v *raftfsm.View, led time.Duration) bool {
			due, _ := p.WaitDue(v, led)
			return due
		},
		led: func(planned, _ uint64) uint64 { return planned },
	}
}

// waitNode is a control-plane node. Its leases last a tick less than it waits.
type waitNode struct {
	policy reconcile.Policy
	leases *observe.Leases
	// led is the latest term that it led, from since on.
	led   uint64
	since time.Time
	// asked are requests that it has not answered yet, planned its commands on their way.
	asked   []waitAsked
	planned []*raftv1.SetLeaseWait
}

// waitAsked is a request for a lease, from when it was sent and a majority had proved
// that the node led; index is what the node had applied then.
type waitAsked struct {
	sent  time.Time
	index int
}

const waitTick = time.Second

// waitWorld is three nodes that one log goes round, and one host that asks for leases.
type waitWorld struct {
	rules waitRules
	draw  func(n int) int
	now   time.Time
	log   *raftfsm.FSM
	// views are the log's states, the last one the newest.
	views  []*raftfsm.View
	nodes  [3]*waitNode
	leader *waitNode // nil while nobody leads
	term   uint64
	// until is when the host's lease ends.
	until time.Time
	story []string
}

func newWaitWorld(rules waitRules, draw func(int) int) *waitWorld {
	w := &waitWorld{rules: rules, draw: draw, now: time.Unix(1000, 0), log: raftfsm.New(raftfsm.Config{}), term: 1}
	w.apply(&raftv1.Command{Verb: &raftv1.Command_SetCommandVersion{
		SetCommandVersion: &raftv1.SetCommandVersion{Version: raftfsm.CommandVersion},
	}})
	for i := range w.nodes {
		w.nodes[i] = &waitNode{}
		w.restart(w.nodes[i])
	}
	return w
}

func (w *waitWorld) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf("%3d: ", w.now.Unix()-1000)+fmt.Sprintf(format, args...))
}

func (w *waitWorld) view() *raftfsm.View { return w.views[len(w.views)-1] }

func (w *waitWorld) apply(cmd *raftv1.Command) *raftfsm.Error {
	data, err := proto.Marshal(cmd)
	if err != nil {
		panic(err)
	}
	result := w.log.Apply(&raft.Log{Index: uint64(len(w.views) + 1), Term: w.term, Data: data}).(*raftfsm.Result)
	w.views = append(w.views, w.log.View())
	return result.Err
}

// restart gives a node another configuration, and takes what it had in memory.
func (w *waitWorld) restart(n *waitNode) {
	if w.leader == n {
		w.leader = nil
	}
	wait := time.Duration(2+w.draw(8)) * waitTick
	*n = waitNode{policy: reconcile.Policy{LeaseWait: wait}, leases: observe.NewLeases()}
	w.tell("a node starts with a wait of %s", wait)
}

func (w *waitWorld) elect(n *waitNode) {
	w.term++
	w.leader, n.led, n.since = n, w.term, w.now
	n.leases.Lead(w.now)
	w.tell("the node of %s leads term %d", n.policy.LeaseWait, w.term)
}

// answer deals with a request whenever: the leader may be deposed by now, and then have
// applied anything since.
func (w *waitWorld) answer(n *waitNode) {
	ask := n.asked[0]
	n.asked = n.asked[1:]
	n.leases.Grant("host", w.now)
	v := w.view()
	if w.leader != n {
		v = w.views[ask.index+w.draw(len(w.views)-ask.index)]
	}
	if !w.rules.mayGrant(n.policy, v) {
		return
	}
	if until := ask.sent.Add(n.policy.LeaseWait - waitTick); until.After(w.until) {
		w.until = until
	}
	w.tell("the node of %s grants what ends at %d", n.policy.LeaseWait, w.until.Unix()-1000)
}

func (w *waitWorld) propose(n *waitNode) {
	c := n.planned[0]
	n.planned = n.planned[1:]
	if w.leader != n {
		return
	}
	c.LedTerm = w.rules.led(c.GetLedTerm(), w.term)
	err := w.apply(&raftv1.Command{ProposerTerm: w.term, Verb: &raftv1.Command_SetLeaseWait{SetLeaseWait: c}})
	w.tell("the node of %s has the log say %s: %v", n.policy.LeaseWait, c.GetWait().AsDuration(), err)
}

func (w *waitWorld) plan(n *waitNode) {
	if w.rules.due(n.policy, w.view(), w.now.Sub(n.since)) {
		n.planned = append(n.planned, &raftv1.SetLeaseWait{Wait: durationpb.New(n.policy.LeaseWait), LedTerm: n.led})
	}
}

// step lets something happen.
func (w *waitWorld) step() {
	n := w.nodes[w.draw(len(w.nodes))]
	switch w.draw(12) {
	case 0:
		w.restart(n)
	case 1:
		w.elect(n)
	case 2, 3:
		if l := w.leader; l != nil {
			l.asked = append(l.asked, waitAsked{sent: w.now, index: len(w.views) - 1})
		}
	case 4, 5:
		if len(n.asked) > 0 {
			w.answer(n)
		}
	case 6, 7:
		if w.leader != nil {
			w.plan(w.leader)
		}
	case 8, 9:
		if len(n.planned) > 0 {
			w.propose(n)
		}
	default:
		w.now = w.now.Add(time.Duration(1+w.draw(4)) * waitTick)
	}
}

// fault is a leader that takes a lease for ended which is held.
func (w *waitWorld) fault() bool {
	return w.leader != nil && w.leader.leases.Expired("host", w.rules.wait(w.leader.policy, w.view()), w.now) && w.until.After(w.now)
}

// TestRollingChangeOfLeases: nodes are restarted with leases of any length, in any order,
// and lead in any order; answers and commands arrive late. No leader takes a lease for
// ended that is held, whoever granted it. And one that goes on leading waits as long as it
// is told to in the end.
func TestRollingChangeOfLeases(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWaitWorld(theWaitRules(), func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") })
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			if w.step(); w.fault() {
				t.Fatalf("a lease until %d is taken for ended:\n%v", w.until.Unix()-1000, w.story)
			}
		}
		n := w.nodes[0]
		w.elect(n)
		n.planned = nil
		for range 2 {
			if _, after := n.policy.WaitDue(w.view(), w.now.Sub(n.since)); after > 0 {
				w.now = w.now.Add(after)
			}
			if w.plan(n); len(n.planned) > 0 {
				w.propose(n)
			}
		}
		if !n.policy.MayGrant(w.view()) || n.policy.Wait(w.view()) != n.policy.LeaseWait {
			t.Fatalf("a lasting leader of %s waits %s: %v", n.policy.LeaseWait, n.policy.Wait(w.view()), w.story)
		}
	})
}

// TestRollingChangeMutants: each of the rules is needed.
func TestRollingChangeMutants(t *testing.T) {
	for name, mutate := range map[string]func(*waitRules){
		"grants before the log says so": func(r *waitRules) { r.mayGrant = func(reconcile.Policy, *raftfsm.View) bool { return true } },
		"waits by its own configuration": func(r *waitRules) {
			r.wait = func(p reconcile.Policy, _ *raftfsm.View) time.Duration { return p.LeaseWait }
		},
		"lowers at once": func(r *waitRules) {
			r.due = func(p reconcile.Policy, v *raftfsm.View, _ time.Duration) bool { return v.LeaseWait() != p.LeaseWait }
		},
		"lowers when its own wait is over": func(r *waitRules) {
			r.due = func(p reconcile.Policy, v *raftfsm.View, led time.Duration) bool {
				return v.LeaseWait() < p.LeaseWait || v.LeaseWait() > p.LeaseWait && led >= p.LeaseWait
			}
		},
		"lowers in a later term what it waited out in another": func(r *waitRules) {
			r.led = func(_, proposed uint64) uint64 { return proposed }
		},
	} {
		t.Run(name, func(t *testing.T) {
			rules := theWaitRules()
			mutate(&rules)
			for seed := range uint64(100_000) {
				w := newWaitWorld(rules, rand.New(rand.NewPCG(seed, 0)).IntN)
				for range 80 {
					if w.step(); w.fault() {
						t.Logf("seed %d: %d events", seed, len(w.story))
						return
					}
				}
			}
			t.Error("nothing went wrong: the rule is not needed, or the test does not see it")
		})
	}
}
