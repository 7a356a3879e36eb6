package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestTogetherSharesRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var runs [][]string
		tg := &together[string]{limit: 1000, deadline: time.Minute, run: func(_ context.Context, keys []string) ([]string, []error) {
			mu.Lock()
			runs = append(runs, keys)
			mu.Unlock()
			time.Sleep(time.Second) // of the bubble
			out, errs := make([]string, len(keys)), make([]error, len(keys))
			for i, k := range keys {
				out[i] = strings.ToUpper(k)
				if k == "bad" {
					errs[i] = errors.New("bad")
				}
			}
			return out, errs
		}}
		var wg sync.WaitGroup
		ask := func(keys ...string) {
			wg.Go(func() {
				got, errs, err := tg.do(t.Context(), keys...)
				if err != nil {
					t.Error(err)
					return
				}
				for i, k := range keys {
					if got[i] != strings.ToUpper(k) || (errs[i] != nil) != (k == "bad") {
						t.Errorf("%s became %q, %v", k, got[i], errs[i])
					}
				}
			})
		}
		ask("first")
		synctest.Wait()
		for i := range 50 {
			ask(fmt.Sprint("k", i%10), "bad")
		}
		wg.Wait()
		if len(runs) != 2 || len(runs[0]) != 1 || len(runs[1]) != 11 {
			t.Errorf("runs %v", runs)
		}
	})
}

// TestTogetherGathers: while receives run, callers wait for each other, and no longer.
func TestTogetherGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var receiving inFlight
		runs := 0
		tg := &together[int]{limit: 1000, deadline: time.Minute, gather: receiving.gather, run: func(_ context.Context, keys []string) ([]int, []error) {
			runs++
			time.Sleep(25 * time.Millisecond)
			return make([]int, len(keys)), make([]error, len(keys))
		}}
		ask := func(after time.Duration, want time.Duration) {
			t.Helper()
			time.Sleep(after)
			begun := time.Now()
			if _, _, err := tg.do(t.Context(), "k"); err != nil || time.Since(begun) != want {
				t.Errorf("answered after %v, want %v, %v", time.Since(begun), want, err)
			}
		}
		ask(0, 25*time.Millisecond) // alone
		first, second := receiving.begin(), receiving.begin()
		var wg sync.WaitGroup
		wg.Go(func() { ask(0, 425*time.Millisecond) })
		wg.Go(func() { ask(300*time.Millisecond, 125*time.Millisecond) })
		wg.Wait()
		if runs != 2 {
			t.Errorf("%d runs", runs)
		}
		time.AfterFunc(50*time.Millisecond, first)
		time.AfterFunc(150*time.Millisecond, second)
		ask(0, 175*time.Millisecond) // nobody else can come
	})
}

func TestTogetherKeepsToItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := 0
		tg := &together[int]{limit: 30, deadline: time.Minute, run: func(_ context.Context, keys []string) ([]int, []error) {
			most = max(most, len(strings.Join(keys, " ")))
			time.Sleep(time.Second)
			return make([]int, len(keys)), make([]error, len(keys))
		}}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { _, _, _ = tg.do(t.Context(), fmt.Sprint("key-", i)) })
		}
		wg.Wait()
		if most > 30 {
			t.Errorf("%d bytes in one run", most)
		}
	})
}

func TestTogetherLetsCallersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tg := &together[int]{limit: 30, deadline: time.Minute, run: func(ctx context.Context, keys []string) ([]int, []error) {
			<-ctx.Done()
			return make([]int, len(keys)), []error{ctx.Err()}
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := tg.do(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute) // the run itself has ended, too
		tg.mu.Lock()
		defer tg.mu.Unlock()
		if tg.running {
			t.Error("still running")
		}
	})
}
