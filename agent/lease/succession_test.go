package lease

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchdogOfADeadHelper: one that came too late to feed the dog calls it off once it has
// fenced all, and not before; one that was given nothing leaves it alone.
func TestWatchdogOfADeadHelper(t *testing.T) {
	for name, c := range map[string]struct {
		given, fails, busy bool
		bites              bool
	}{
		"fenced":              {given: true},
		"fenced, dog in use":  {given: true, busy: true},
		"cannot be fenced":    {given: true, fails: true, bites: true},
		"does not know of it": {bites: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, k := time.Now(), &kennel{}
				ctx, kill := context.WithCancel(t.Context())
				first := guardedBench(t, ctx, k, start)
				k.bench = first
				deadline := first.now() + 10*time.Second
				first.arm(1, target, deadline)
				time.Sleep(10*time.Second - bite - 10*time.Millisecond)
				kill() // as a signal does: the dog runs on
				<-first.done
				time.Sleep(500 * time.Millisecond)

				second := guardedBench(t, context.Background(), k, start)
				second.mu.Lock()
				if c.fails {
					second.fail = errors.New("busy")
				}
				second.mu.Unlock()
				k.mu.Lock()
				if c.busy { // by the first one, which is not quite gone
					k.refuse = errors.New("in use")
				}
				k.mu.Unlock()
				second.order(order{Sequence: 2})
				if c.given {
					second.arm(3, target, deadline)
				}
				time.Sleep(bite / 4)
				k.mu.Lock()
				k.refuse = nil
				k.mu.Unlock()
				time.Sleep(10 * time.Second)
				if _, _, bitten := k.state(); (bitten != 0) != c.bites || bitten > deadline {
					t.Errorf("bitten at %v, the right ended at %v", bitten, deadline)
				}
				second.mu.Lock()
				second.fail = nil
				second.mu.Unlock()
				_ = second.in.Close()
				<-second.done
			})
		})
	}
}

// witness is a backstop that notes what it is told.
type witness struct {
	mu     sync.Mutex
	guards int
	left   []bool
}

func (w *witness) Guard(_, _, _ time.Duration, _ bool) (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.guards++
	return 0, nil
}

func (w *witness) Lead() time.Duration { return 0 }

func (w *witness) Leave(clean bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = append(w.left, clean)
}

// TestBackstopIsLeftAsItWas: by a helper that was told nothing, whose predecessor's it may
// be, and by one that has a successor.
func TestBackstopIsLeftAsItWas(t *testing.T) {
	w := &witness{}
	orders, agent := io.Pipe()
	_ = agent.Close()
	if err := RunDeadman(t.Context(), HelperConfig{In: orders, Out: io.Discard, Backstop: w}); err != nil {
		t.Fatal(err)
	}
	if w.guards != 0 || !slices.Equal(w.left, []bool{false}) {
		t.Errorf("%d times told, left %v", w.guards, w.left)
	}

	w, dir := &witness{}, t.TempDir()
	orders, agent = io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- RunDeadman(t.Context(), HelperConfig{In: orders, Out: io.Discard, Dir: dir, Backstop: w})
	}()
	if err := writeLine(agent, order{Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	until(t, "told", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.guards > 0 })
	until(t, "taken over", func() bool {
		inherit(t.Context(), dir, time.Minute, slog.New(slog.DiscardHandler))
		return len(done) > 0
	})
	if err := <-done; err != nil || !slices.Equal(w.left, []bool{false}) {
		t.Errorf("%v, left %v", err, w.left)
	}
	_ = agent.Close()
}

// TestPacketFilterIsTakenAwayOnce: at the end only if it was not before.
func TestPacketFilterIsTakenAwayOnce(t *testing.T) {
	for _, before := range []bool{true, false} {
		var runs []string
		f := newFilter(FilterConfig{Nft: []string{"/nft"}, Ports: []int{2049}}, slog.New(slog.DiscardHandler))
		f.run = func(text string) error { runs = append(runs, text); return nil }
		if before {
			_, _ = f.Guard(0, 0, 0, false)
		}
		f.Leave(true)
		if !slices.Equal(runs, []string{f.open()}) {
			t.Errorf("before %v: %q", before, runs)
		}
	}
}

// TestPacketFilterMeetsALateNft: what an earlier helper's nft did to the filter after its
// successor had put it up is put right, without a renewal.
func TestPacketFilterMeetsALateNft(t *testing.T) {
	f := newFilter(FilterConfig{Nft: []string{"/nft"}, Ports: []int{2049}}, slog.New(slog.DiscardHandler))
	var runs int
	f.run = func(string) error { runs++; return nil }
	end := BootTime() + time.Hour
	guard := func() time.Duration {
		t.Helper()
		pause, err := f.Guard(0, 0, end, true)
		f.setting.Wait()
		if err != nil && !errors.Is(err, errNotYet) {
			t.Error(err)
		}
		return pause
	}
	guard()
	if again := guard(); again != helperLook || runs != 2 {
		t.Errorf("put up %d times, again in %s", runs, again)
	}
	f.sure = BootTime()
	guard()
	if again := guard(); again != 0 || runs != 3 {
		t.Errorf("put up %d times when nobody else is left, again in %s", runs, again)
	}
}

// TestRightCountsWhenTheFilterIsUp: an agent that was told that it may serve may be stopped at
// once, with its helper. A filter that takes too long is told before.
func TestRightCountsWhenTheFilterIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(FilterConfig{Nft: []string{"/nft"}, Ports: []int{2049}}, slog.New(slog.DiscardHandler))
		runs := make(chan chan error)
		f.unsure = 0 // it has no predecessor
		f.run = func(string) error { result := make(chan error); runs <- result; return <-result }
		b := backedBench(t, t.Context(), f, time.Now())
		silent := func() {
			t.Helper()
			synctest.Wait()
			if len(b.answers) > 0 {
				t.Errorf("told %+v", <-b.answers)
			}
		}
		if err := writeLine(b.in, order{Sequence: 1}); err != nil {
			t.Fatal(err)
		}
		if a := <-b.answers; a.Sequence != 1 { // of nothing there is nothing to wait for
			t.Errorf("told %+v", a)
		}
		open := <-runs
		arm := func(seq uint64) {
			t.Helper()
			if err := writeLine(b.in, order{Sequence: seq, Arm: []Armed{{Target: target, Deadline: b.now() + time.Hour}}}); err != nil {
				t.Fatal(err)
			}
		}
		arm(2)
		silent()
		open <- nil // what was under way
		up := <-runs
		silent()
		up <- nil
		if a := <-b.answers; a.Sequence != 2 {
			t.Errorf("told %+v", a)
		}
		arm(3) // the former end stands
		if a := <-b.answers; a.Sequence != 3 {
			t.Errorf("told %+v", a)
		}
		(<-runs) <- nil
		time.Sleep(time.Second)

		b.order(order{Sequence: 4, Forget: []Target{target}})
		(<-runs) <- nil
		began := b.now()
		arm(5)
		up = <-runs
		if a := <-b.answers; a.Backed == nil || a.Backed.Trouble == "" || b.now()-began < answerWithin || b.now()-began > answerWithin+filterLook {
			t.Errorf("told %+v after %s", a, b.now()-began)
		}
		if a := <-b.answers; a.Sequence != 5 {
			t.Errorf("told %+v", a)
		}
		up <- nil
		if a := <-b.answers; a.Backed == nil || a.Backed.Trouble != "" {
			t.Errorf("told %+v", a)
		}
		b.order(order{Sequence: 6, Forget: []Target{target}})
		_ = b.in.Close()
		(<-runs) <- nil
		<-b.done
	})
}

// TestInheritanceOutlivesItsHeir: what a helper took over from an earlier agent's is known to
// the helper that replaces it by force.
func TestInheritanceOutlivesItsHeir(t *testing.T) {
	dir := t.TempDir()
	_, target := mountedTarget(t)
	earlier := startAgent(t, dir)
	deadline := earlier.arm(target, time.Hour)
	earlier.signal(syscall.SIGKILL)

	d, err := NewDeadman(DeadmanConfig{Command: helperCommand(dir), Patience: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	until(t, "up", d.Up)
	heir := without(helpers(t, dir), earlier.cmd.Process.Pid)
	until(t, "alone", func() bool { heir = without(helpers(t, dir), earlier.cmd.Process.Pid); return len(heir) == 1 })
	if err := syscall.Kill(heir[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "replaced", func() bool {
		now := helpers(t, dir)
		return len(now) == 1 && now[0] != heir[0] && d.Up()
	})
	if armed := look(t, dir); !slices.Contains(armed, Armed{Target: target, Deadline: deadline}) {
		t.Errorf("armed is %v", armed)
	}
	d.Disarm(target) // it is known to this agent, too
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	until(t, "ended", func() bool { return len(helpers(t, dir)) == 0 })
}
