package zfs

import (
	"context"
	"sync"
	"time"
)

// together lets callers that ask for the same kind of thing at the same time share
// one process: while one runs, what arrives waits and goes into the next together.
// Who comes alone waits for nobody. Safe for concurrent use.
//
// A tool that is asked about a hundred datasets costs little more than one that is
// asked about one, and on ZFS a hundred holds need one transaction group instead of
// a hundred.
type together[R any] struct {
	// run answers for all keys at once; a key without an answer gets the zero R.
	run func(ctx context.Context, keys []string) ([]R, []error)
	// limit is the most bytes of keys in one run.
	limit int
	// deadline of one run, which does not end with one of its callers.
	deadline time.Duration
	// gather waits for at most d for further callers, as long as some may come; nil: does not.
	gather func(d time.Duration)

	took    time.Duration // by the run before; of the leader, of which there is one
	mu      sync.Mutex
	waiting []*asked[R]
	running bool
}

// asked is one caller.
type asked[R any] struct {
	keys   []string
	answer []R
	err    []error
	done   chan struct{}
}

// do asks for keys and gives their answers in order. The end of ctx ends the wait,
// not the run.
func (t *together[R]) do(ctx context.Context, keys ...string) ([]R, []error, error) {
	a := &asked[R]{keys: keys, done: make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, a)
	lead := !t.running
	t.running = true
	t.mu.Unlock()
	if lead {
		go t.lead(context.WithoutCancel(ctx))
	}
	select {
	case <-a.done:
		return a.answer, a.err, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// lead runs batch after batch until nobody waits.
func (t *together[R]) lead(ctx context.Context) {
	for {
		if t.gather != nil {
			t.gather(min(gatherRuns*t.took, gatherMost))
		}
		batch := t.next()
		if batch == nil {
			return
		}
		begun := time.Now()
		t.answer(ctx, batch)
		t.took = time.Since(begun)
	}
}

// A caller waits for others for as long as some runs take: in the time of a round of
// many shares that saves most of them, and alone nobody waits.
const (
	gatherRuns = 16
	gatherMost = time.Second
)

// inFlight counts what runs and tells when nothing does any more. Safe for concurrent use.
type inFlight struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n falls to 0
}

func (f *inFlight) begin() (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.n == 1 {
		f.none = make(chan struct{})
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.n--; f.n == 0 {
			close(f.none)
		}
	}
}

// gather waits for d, or until nothing runs.
func (f *inFlight) gather(d time.Duration) {
	f.mu.Lock()
	n, none := f.n, f.none
	f.mu.Unlock()
	if n == 0 || d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-none:
	}
}

// next takes as many callers as fit; nil when there is none.
func (t *together[R]) next() []*asked[R] {
	t.mu.Lock()
	defer t.mu.Unlock()
	size, n := 0, 0
	for n < len(t.waiting) {
		for _, k := range t.waiting[n].keys {
			size += len(k) + 1
		}
		if n > 0 && size > t.limit {
			break
		}
		n++
	}
	batch := t.waiting[:n:n]
	t.waiting = t.waiting[n:]
	if n == 0 {
		t.running, t.waiting = false, nil
		return nil
	}
	return batch
}

func (t *together[R]) answer(ctx context.Context, batch []*asked[R]) {
	ctx, cancel := context.WithTimeout(ctx, t.deadline)
	defer cancel()
	at, keys := map[string]int{}, []string{}
	for _, a := range batch {
		for _, k := range a.keys {
			if _, ok := at[k]; !ok {
				at[k] = len(keys)
				keys = append(keys, k)
			}
		}
	}
	answers, errs := t.run(ctx, keys)
	for _, a := range batch {
		for _, k := range a.keys {
			a.answer, a.err = append(a.answer, answers[at[k]]), append(a.err, errs[at[k]])
		}
		close(a.done)
	}
}
