package replicate

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"

	tarnv1 "tarn/proto/tarn/v1"
)

type testLease struct {
	mu      sync.Mutex
	epoch   uint64
	changed chan struct{}
}

func (l *testLease) Held(_, _ string, epoch uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch == epoch && epoch != 0
}

func (l *testLease) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *testLease) set(epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch = epoch
	close(l.changed)
	l.changed = make(chan struct{})
}

type testExports struct {
	mu  sync.Mutex
	all map[string]bool // mountpoint -> read-only
	err error
	// refuse is what a path that is none fails with, as with a real server; optional.
	refuse error
}

func (e *testExports) Apply(_ context.Context, mp string, _ *tarnv1.Exports, ro bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return nil, nil, e.err
	}
	e.all[mp] = ro
	return []*tarnv1.ReportedExport{{Path: "host:" + mp}}, nil, nil
}

func (e *testExports) Remove(_ context.Context, mp string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if mp == "" {
		return e.refuse
	}
	delete(e.all, mp)
	return nil
}

// state tells if the mountpoint is exported, and how.
func (e *testExports) state(mp string) (readOnly, exported bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ro, ok := e.all[mp]
	return ro, ok
}

// cutter ends streams early.
type cutter struct {
	mu    sync.Mutex
	after []int64 // one per stream
}

func (c *cutter) next() (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.after) == 0 {
		return 0, false
	}
	n := c.after[0]
	c.after = c.after[1:]
	return n, true
}

func (c *cutter) plan(n ...int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after = slices.Clone(n)
}

func (c *cutter) left() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.after)
}

// handler breaks connections where the cutter says.
func (c *cutter) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/pull") {
			w = &cutWriter{ResponseWriter: w, cut: c}
		}
		next.ServeHTTP(w, r)
	})
}

type cutWriter struct {
	http.ResponseWriter
	cut     *cutter
	planned bool
	left    int64
}

func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader takes a cut only for answers that carry a stream.
func (w *cutWriter) WriteHeader(code int) {
	if code == http.StatusOK {
		w.left, w.planned = w.cut.next()
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *cutWriter) Write(b []byte) (int, error) {
	if !w.planned || int64(len(b)) <= w.left {
		w.left -= int64(len(b))
		return w.ResponseWriter.Write(b)
	}
	_, _ = w.ResponseWriter.Write(b[:w.left])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}
