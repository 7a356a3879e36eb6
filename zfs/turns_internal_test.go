package zfs

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns: no more than so many run, each waits as long as others get theirs, and who
// waits for commands that never end is told.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv := invocation{op: "get", object: "p/a", args: []string{"get"}}
		turns := newTurns(2)
		ended := make(chan time.Duration, 20)
		begun, running := time.Now(), new(atomic.Int32)
		for range 20 {
			go func() {
				give, err := turns.take(t.Context(), inv, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				if n := running.Add(1); n > 2 {
					t.Errorf("%d at once", n)
				}
				time.Sleep(40 * time.Second)
				running.Add(-1)
				give()
				ended <- time.Since(begun)
			}()
			synctest.Wait()
		}
		var last time.Duration
		for range 20 {
			last = <-ended
		}
		if last != 400*time.Second {
			t.Errorf("the last ended after %v", last)
		}

		for range 2 {
			if _, err := turns.take(t.Context(), inv, time.Minute); err != nil {
				t.Error(err)
			}
		}
		at := time.Now()
		if _, err := turns.take(t.Context(), inv, time.Minute); !errors.Is(err, ErrHung) || time.Since(at) != time.Minute {
			t.Errorf("behind commands that hang: %v after %v", err, time.Since(at))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := turns.take(ctx, inv, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := turns.take(t.Context(), invocation{args: []string{"unmount", "p/a"}}, time.Minute); err != nil {
			t.Errorf("an unmount waits: %v", err)
		}
	})
}

// TestTurnBehindAHungPool: who waited for its turn while a pool's commands hung is not
// the next of them.
func TestTurnBehindAHungPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{runner: runner{zfs: "/bin/false", deadline: time.Hour, turns: newTurns(1)}}
		give, err := h.turns.take(t.Context(), invocation{op: "get", args: []string{"get"}}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := h.output(t.Context(), invocation{op: "get", object: "p/a", args: []string{"get"}})
			done <- err
		}()
		synctest.Wait()
		h.Stuck("p", stuckLimit)
		give()
		if err := <-done; !errors.Is(err, ErrHung) {
			t.Errorf("run all the same: %v", err)
		}
	})
}

// TestKillAfterTheEnd: an id that is free for others is not killed.
func TestKillAfterTheEnd(t *testing.T) {
	var s stuckTable
	killed := false
	p := s.watch(invocation{}, func() error { return nil }, func() { killed = true })
	<-p.done
	if p.kill(); killed {
		t.Error("killed")
	}
}
