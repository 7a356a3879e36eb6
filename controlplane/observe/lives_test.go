package observe

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// attempt is one request on its way to the leader, once or more often.
type attempt struct {
	number  int
	session string
	echo    []byte
}

// handled is an attempt that a node proved to lead for, and has not judged yet.
type handled struct {
	attempt
	node int
	term uint64 // as the node had it on arrival
}

// said is an answer on its way.
type said struct {
	attempt int
	term    uint64
	token   []byte
}

// life is an agent: it has one attempt under way, and takes the answer to that one only.
type life struct {
	session  string
	token    []byte
	waits    int         // number of the attempt; 0 for none
	parted   int         // attempts up to this one were sent before the copy was made
	answered map[int]int // attempts since then, by leadership
	old      bool        // knows of no tokens
	stopped  bool
}

// livesWorld is agents and control-plane nodes with a network that loses, repeats and
// holds up everything.
type livesWorld struct {
	lives    []*life
	nodes    []*Lives
	terms    []uint64 // that each node knows of
	term     uint64   // of the leader
	leader   int
	attempts []attempt
	handlers []handled
	answers  []said
	numbers  int
	sessions int
	current  string
}

func newLivesWorld(old bool) *livesWorld {
	w := &livesWorld{term: 1, terms: []uint64{1, 1, 1}, lives: []*life{{session: "0", old: old, answered: map[int]int{}}}, current: "0"}
	for i := range w.terms {
		w.nodes = append(w.nodes, NewLives([]byte{byte(i)}))
	}
	return w
}

// send gives up what was under way and asks anew.
func (w *livesWorld) send(l *life) {
	w.numbers++
	l.waits = w.numbers
	a := attempt{number: w.numbers, session: l.session, echo: slices.Clone(l.token)}
	if l.old {
		a.echo = nil
	}
	w.attempts = append(w.attempts, a)
}

// judge has a node go on with a request, however long after it proved that it led.
func (w *livesWorld) judge(t *rapid.T, h handled) {
	term := w.terms[h.node]
	if rapid.Bool().Draw(t, "term read on arrival") {
		term = h.term
	}
	verdict, token := w.nodes[h.node].Judge(term, "h", h.session, h.echo, func() bool { return w.current == h.session })
	if verdict == Same {
		w.answers = append(w.answers, said{attempt: h.number, term: term, token: token})
		return
	}
	for _, l := range w.lives {
		if verdict == Another && l.waits == h.number {
			if len(w.lives) == 1 || l.old {
				t.Fatal("the only agent waits for this answer and is called another life")
			}
			l.stopped, l.waits = true, 0
		}
	}
}

func (w *livesWorld) hear(t *rapid.T, l *life, s said) {
	if l.waits != s.attempt || l.stopped {
		return
	}
	l.waits, l.token = 0, s.token
	if s.attempt > l.parted {
		l.answered[int(s.term)]++
	}
	for term := range w.term + 1 {
		if len(w.lives) == 2 && w.lives[0].answered[int(term)] > 1 && w.lives[1].answered[int(term)] > 1 && !l.old {
			t.Fatalf("leadership %d answered two lives twice each", term)
		}
	}
}

// restart is the agent's process starting anew.
func (w *livesWorld) restart() {
	w.sessions++
	w.current = fmt.Sprint(w.sessions)
	w.lives[0] = &life{session: w.current, old: w.lives[0].old, answered: map[int]int{}}
}

// copied is the machine, copied at this moment: even an answer under way may reach both.
func (w *livesWorld) copied() {
	first := w.lives[0]
	first.parted, first.answered = w.numbers, map[int]int{}
	second := *first
	second.answered, second.token = maps.Clone(first.answered), slices.Clone(first.token)
	w.lives = append(w.lives, &second)
}

func (w *livesWorld) actions(t *rapid.T) map[string]func(*rapid.T) {
	pick := func(t *rapid.T, n int) int {
		if n == 0 {
			t.Skip("nothing under way")
		}
		// What is new is what matters most, and what is old may still come.
		return n - 1 - min(n-1, rapid.OneOf(rapid.IntRange(0, 2), rapid.IntRange(0, n-1)).Draw(t, "which"))
	}
	some := func(t *rapid.T) *life {
		l := w.lives[rapid.IntRange(0, len(w.lives)-1).Draw(t, "life")]
		if l.stopped {
			t.Skip("stopped")
		}
		return l
	}
	arrive := func(t *rapid.T) {
		w.handlers = append(w.handlers, handled{attempt: w.attempts[pick(t, len(w.attempts))], node: w.leader, term: w.term})
	}
	judge := func(t *rapid.T) { w.judge(t, w.handlers[pick(t, len(w.handlers))]) }
	hear := func(t *rapid.T) {
		s := w.answers[pick(t, len(w.answers))]
		for _, l := range w.lives {
			if len(w.lives) == 1 || rapid.Bool().Draw(t, "reaches") {
				w.hear(t, l, s)
			}
		}
	}
	whole := func(t *rapid.T) {
		l := some(t)
		w.send(l)
		w.handlers = append(w.handlers, handled{attempt: w.attempts[len(w.attempts)-1], node: w.leader, term: w.term})
		answers := len(w.answers)
		if w.judge(t, w.handlers[len(w.handlers)-1]); len(w.answers) > answers {
			w.hear(t, l, w.answers[len(w.answers)-1])
		}
	}
	return map[string]func(*rapid.T){
		"send": func(t *rapid.T) { w.send(some(t)) }, "arrive": arrive, "judge": judge, "hear": hear,
		"renewal": whole, "renewal again": whole,
		"elect": func(t *rapid.T) {
			w.term++
			w.leader = rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node")
			w.terms[w.leader] = w.term
		},
		"follow": func(t *rapid.T) { w.terms[rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node")] = w.term },
	}
}

// Whatever is lost, repeated, late or out of order, whoever leads and wakes up: an agent
// that waits for an answer is never taken for another one.
func TestTheOnlyLifeIsNeverRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newLivesWorld(rapid.Bool().Draw(t, "old agent"))
		actions := w.actions(t)
		actions["restart"] = func(*rapid.T) { w.restart() }
		t.Repeat(actions)
	})
}

// Of two lives, copied at any moment, no leadership answers both twice.
func TestTwoLivesAreToldApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newLivesWorld(false)
		actions := w.actions(t)
		copied := false
		actions["copied"] = func(t *rapid.T) {
			if copied {
				t.Skip("one copy is enough")
			}
			w.copied()
			copied = true
		}
		t.Repeat(actions)
	})
}

func TestLives(t *testing.T) {
	l, registered := NewLives([]byte("secret")), "s"
	judge := func(term uint64, session string, echo []byte) (Verdict, []byte) {
		return l.Judge(term, "h", session, echo, func() bool { return session == registered })
	}
	want := func(what string, want Verdict) func(Verdict, []byte) []byte {
		return func(got Verdict, token []byte) []byte {
			t.Helper()
			if got != want || (token == nil) != (want != Same) {
				t.Fatalf("%s: verdict %d, token %x", what, got, token)
			}
			return token
		}
	}
	first := want("first", Same)(judge(1, "s", nil))
	lost := want("its answer was lost", Same)(judge(1, "s", nil))
	second := want("goes on", Same)(judge(1, "s", first))
	want("repeated", Same)(judge(1, "s", first))
	want("sibling", Another)(judge(1, "s", lost))
	want("token dropped", Another)(judge(1, "s", nil))
	third := want("goes on again", Same)(judge(1, "s", second))
	want("copy of before", Another)(judge(1, "s", first))
	want("cut", Another)(judge(1, "s", third[1:]))
	other := NewLives([]byte("secret"))
	want("new leader", Same)(other.Judge(2, "h", "s", third, func() bool { return true }))
	want("same node leads again", Same)(judge(3, "s", []byte("of another leader")))
	want("a handler of before", Outdated)(judge(2, "s", third))
	registered = "t"
	want("session of before", Outdated)(judge(3, "s", third))
	fresh := want("new session", Same)(judge(3, "t", nil))
	want("new session goes on", Same)(judge(3, "t", fresh))
	_, elsewhere := l.Judge(3, "i", "t", nil, func() bool { return true })
	want("token of another host", Another)(judge(3, "t", elsewhere))
}

func TestStoppedLivesAreSeenWhileTheyAreHeardOf(t *testing.T) {
	s := newState(t)
	if _, present := s.OtherLife("h", at(0)); present || !s.AnotherLife("h", at(0)) || s.AnotherLife("h", at(time.Second)) {
		t.Error("the first word of it is news, and only that")
	}
	if last, present := s.OtherLife("h", at(5*time.Second)); !present || last != at(time.Second) {
		t.Error(last, present)
	}
	if last, present := s.OtherLife("h", at(time.Minute)); present || last != at(time.Second) || !s.AnotherLife("h", at(time.Minute)) {
		t.Error(last, present)
	}
	if _, heard := s.Host("h"); heard {
		t.Error("a life that has stopped is no sign of the host")
	}
	s.Lead(at(time.Hour))
	if last, present := s.OtherLife("h", at(time.Hour)); present || !last.IsZero() {
		t.Error("a new leader knows", last)
	}
}
