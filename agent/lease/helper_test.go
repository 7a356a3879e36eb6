package lease

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// bench is a helper in a bubble: orders go in, fenced targets and when come out.
type bench struct {
	t       *testing.T
	in      *io.PipeWriter
	answers chan answer
	done    chan error
	start   time.Time

	mu     sync.Mutex
	fenced map[Target]time.Duration
	fail   error
	hang   chan struct{}
}

func (b *bench) now() time.Duration { return time.Hour + time.Since(b.start) }

func (b *bench) fence(t Target) error {
	b.mu.Lock()
	hang, err := b.hang, b.fail
	b.mu.Unlock()
	if hang != nil && strings.HasSuffix(t.Dataset, "hung") {
		<-hang
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.fenced[t] = b.now()
	}
	return err
}

func (b *bench) at(t Target) time.Duration {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fenced[t]
}

func newBench(t *testing.T) *bench {
	t.Helper()
	in, w := io.Pipe()
	r, out := io.Pipe()
	b := &bench{t: t, in: w, answers: make(chan answer, 100), done: make(chan error, 1), start: time.Now(), fenced: map[Target]time.Duration{}}
	go func() {
		b.done <- RunDeadman(context.Background(), HelperConfig{In: in, Out: out, Fence: b.fence, Clock: b.now})
		_ = in.Close()
		_ = out.Close()
	}()
	go func() {
		scanner := lines(r)
		for scanner.Scan() {
			var a answer
			if json.Unmarshal(scanner.Bytes(), &a) == nil {
				b.answers <- a
			}
		}
	}()
	return b
}

func (b *bench) order(o order) {
	b.t.Helper()
	if err := writeLine(b.in, o); err != nil {
		b.t.Fatal(err)
	}
	if a := <-b.answers; a.Sequence != o.Sequence {
		b.t.Errorf("order %d was confirmed as %+v", o.Sequence, a)
	}
}

func (b *bench) arm(seq uint64, t Target, deadline time.Duration) {
	b.t.Helper()
	b.order(order{Sequence: seq, Arm: []Armed{{Target: t, Deadline: deadline}}})
}

var target = Target{PoolDir: "/pool", Dataset: "pool/tarn/a"}

func TestHelperFencesAtTheDeadlineAndEndsWithItsInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		deadline := b.now() + 10*time.Second
		b.arm(1, target, deadline)
		time.Sleep(10*time.Second - time.Millisecond)
		if b.at(target) != 0 {
			t.Error("fenced before the deadline")
		}
		time.Sleep(time.Millisecond)
		if b.at(target) != deadline {
			t.Errorf("fenced at %v, want %v", b.at(target), deadline)
		}
		if a := <-b.answers; a.Fenced == nil || *a.Fenced != target {
			t.Errorf("told the agent %+v", a)
		}
		_ = b.in.Close()
		if err := <-b.done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestHelperWaitsForTheDeadlineAfterItsAgentDied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		deadline := b.now() + 10*time.Second
		b.arm(1, target, deadline-5*time.Second)
		b.arm(2, target, deadline)
		b.arm(3, target, deadline-time.Second) // overtaken: shortens nothing
		_ = b.in.Close()
		if err := <-b.done; err != nil {
			t.Errorf("ended with %v", err)
		}
		if b.at(target) != deadline {
			t.Errorf("fenced at %v, want the last deadline %v", b.at(target), deadline)
		}
	})
}

func TestHelperForgetsAndEndsAtOnceWithNothingArmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.arm(1, target, b.now()+10*time.Second)
		b.order(order{Sequence: 2, Forget: []Target{target}})
		before := b.now()
		_ = b.in.Close()
		if err := <-b.done; err != nil || b.now() != before {
			t.Errorf("ended with %v after %v", err, b.now()-before)
		}
		if b.at(target) != 0 {
			t.Error("fenced what was forgotten")
		}
	})
}

func TestHelperRetriesAndOneHungPoolDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		hung := Target{PoolDir: "/pool", Dataset: "pool/tarn/hung"}
		release := make(chan struct{})
		b.mu.Lock()
		b.hang, b.fail = release, errors.New("busy")
		b.mu.Unlock()
		b.arm(1, hung, b.now()+time.Second)
		b.arm(2, target, b.now()+2*time.Second)
		time.Sleep(3 * time.Second)
		if a := <-b.answers; a.Error != "busy" || *a.Fenced != target {
			t.Errorf("told the agent %+v", a)
		}
		b.mu.Lock()
		b.fail = nil
		b.mu.Unlock()
		time.Sleep(fenceRetry)
		if b.at(target) == 0 {
			t.Error("not fenced once it could be")
		}
		close(release)
		_ = b.in.Close()
		if err := <-b.done; err != nil {
			t.Errorf("ended with %v", err)
		}
		if b.at(hung) == 0 {
			t.Error("the hung target was never fenced")
		}
	})
}

// An agent that has the lease back serves again. That its clients were cut off once more,
// though the file system could not be taken away either time, is news to it.
func TestHelperTellsEachLeaseThatItCouldNotFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.mu.Lock()
		b.fail = errors.New("busy")
		b.mu.Unlock()
		for lease := range uint64(2) {
			b.arm(lease+1, target, b.now()+10*time.Second)
			time.Sleep(12 * time.Second)
			synctest.Wait()
			select {
			case a := <-b.answers:
				if a.Error != "busy" || *a.Fenced != target {
					t.Errorf("told the agent %+v", a)
				}
			default:
				t.Errorf("lease %d: the agent was not told", lease+1)
			}
		}
		b.mu.Lock()
		b.fail = nil
		b.mu.Unlock()
		_ = b.in.Close()
		if err := <-b.done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestHelperGivesUpOnlyAfterItsAgentIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.fail = errors.New("gone mad")
		b.arm(1, target, b.now()+time.Second)
		time.Sleep(2 * fenceGiveUp)
		_ = b.in.Close()
		if err := <-b.done; !errors.Is(err, errGaveUp) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestHelperTakesAMissingDatasetAsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.fail = fs.ErrNotExist
		b.arm(1, target, b.now()+time.Second)
		_ = b.in.Close()
		if err := <-b.done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func FuzzDecodeOrder(f *testing.F) {
	f.Add([]byte(`{"seq":1,"arm":[{"pool_dir":"/p","dataset":"p/a","deadline":5}],"forget":[{"pool_dir":"/p","dataset":"p/b"}]}`))
	f.Add([]byte(`{"arm":[{"pool_dir":"/p","dataset":"p/../../etc","deadline":5}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		o, err := decodeOrder(line)
		if err != nil {
			return
		}
		for _, a := range o.Arm {
			for part := range strings.SplitSeq(a.Dataset, "/") {
				if part == ".." || part == "" {
					t.Fatalf("accepted dataset %q", a.Dataset)
				}
			}
			if a.PoolDir[0] != '/' || a.Deadline <= 0 {
				t.Fatalf("accepted %+v", a)
			}
		}
	})
}

func TestOrdersThatAreRefused(t *testing.T) {
	for _, line := range []string{
		`{`, `[]`,
		`{"arm":[{"pool_dir":"p","dataset":"p/a","deadline":5}]}`,
		`{"arm":[{"pool_dir":"/p/../q","dataset":"p/a","deadline":5}]}`,
		`{"arm":[{"pool_dir":"/p","dataset":"p/../a","deadline":5}]}`,
		`{"arm":[{"pool_dir":"/p","dataset":"p/a@s","deadline":5}]}`,
		`{"arm":[{"pool_dir":"/p","dataset":"p/a","deadline":0}]}`,
		`{"forget":[{"pool_dir":"/p","dataset":""}]}`,
	} {
		if _, err := decodeOrder([]byte(line)); !errors.Is(err, errMessage) {
			t.Errorf("%s gave %v", line, err)
		}
	}
}
