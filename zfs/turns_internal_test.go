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
