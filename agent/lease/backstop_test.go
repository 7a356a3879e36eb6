package lease

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
)

// kennel keeps a watchdog that bites when nobody feeds it, as a driver does.
type kennel struct {
	bench *bench

	mu     sync.Mutex
	refuse error
	open   bool
	meals  int
	alarm  *time.Timer
	bitten time.Duration
}

func (k *kennel) openDog(c WatchdogConfig) (dog, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		return nil, k.refuse
	}
	k.open = true
	k.wind(c.Timeout)
	return &leash{k, c.Timeout}, nil
}

func (k *kennel) wind(timeout time.Duration) {
	if k.alarm != nil {
		k.alarm.Stop()
	}
	k.alarm = time.AfterFunc(timeout, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.bitten = k.bench.now()
	})
}

type leash struct {
	k       *kennel
	timeout time.Duration
}

func (l *leash) Feed() error {
	l.k.mu.Lock()
	defer l.k.mu.Unlock()
	l.k.meals++
	l.k.wind(l.timeout)
	return nil
}

func (l *leash) Release(calm bool) error {
	l.k.mu.Lock()
	defer l.k.mu.Unlock()
	l.k.open = false
	if calm {
		l.k.alarm.Stop()
	}
	return nil
}

func (k *kennel) state() (open bool, meals int, bitten time.Duration) {
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open, k.meals, k.bitten
}

const bite = 2 * time.Second

// newGuardedBench is a helper with a watchdog.
func newGuardedBench(t *testing.T) (*bench, *kennel) {
	t.Helper()
	k := &kennel{}
	k.bench = guardedBench(t, context.Background(), k, time.Now())
	return k.bench, k
}

// guardedBench is one of a row of helpers with the same watchdog, until ctx kills it.
func guardedBench(t *testing.T, ctx context.Context, k *kennel, start time.Time) *bench {
	t.Helper()
	dog := newWatchdog(WatchdogConfig{Device: "/dev/null", Timeout: bite}, k.openDog, slog.New(slog.DiscardHandler))
	return backedBench(t, ctx, dog, start)
}

func backedBench(t *testing.T, ctx context.Context, backstop Backstop, start time.Time) *bench {
	t.Helper()
	in, w := io.Pipe()
	r, out := io.Pipe()
	b := &bench{t: t, in: w, answers: make(chan answer, 100), done: make(chan error, 1), start: start, fenced: map[Target]time.Duration{}}
	go func() {
		b.done <- RunDeadman(ctx, HelperConfig{In: in, Out: out, Fence: b.fence, Clock: b.now, Backstop: backstop})
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

// TestWatchdogIsFedByLiveRenewalsOnly: armed with the first right, quiet while it is
// renewed; at its end the helper fences in time and calls the dog off.
func TestWatchdogIsFedByLiveRenewalsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, k := newGuardedBench(t)
		if open, _, _ := k.state(); open {
			t.Error("armed while nothing is held")
		}
		var deadline time.Duration
		for i := range uint64(20) {
			deadline = b.now() + 10*time.Second
			b.arm(i+1, target, deadline)
			time.Sleep(3 * time.Second)
		}
		if open, meals, bitten := k.state(); !open || meals < 100 || bitten != 0 {
			t.Errorf("open %v, %d meals, bitten at %v", open, meals, bitten)
		}
		time.Sleep(10 * time.Second)
		if at := b.at(target); at != deadline-bite {
			t.Errorf("fenced at %v, want %v before the end at %v", at, bite, deadline)
		}
		if open, _, bitten := k.state(); open || bitten != 0 {
			t.Errorf("after the fence: open %v, bitten at %v", open, bitten)
		}
		_ = b.in.Close()
		<-b.done
	})
}

// TestWatchdogBitesWhatCannotBeFenced: never before the helper had its time, and by the
// end of the right at the latest.
func TestWatchdogBitesWhatCannotBeFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, k := newGuardedBench(t)
		b.mu.Lock()
		b.fail = errors.New("busy")
		b.mu.Unlock()
		deadline := b.now() + 10*time.Second
		b.arm(1, target, deadline)
		time.Sleep(15 * time.Second)
		if _, _, bitten := k.state(); bitten > deadline || bitten < deadline-bite/2 {
			t.Errorf("bitten at %v, the right ended at %v", bitten, deadline)
		}
		b.mu.Lock()
		b.fail = nil
		b.mu.Unlock()
		_ = b.in.Close()
		<-b.done
	})
}

// TestWatchdogHeedsTheFirstRightToEnd: a right that is not renewed while another is.
func TestWatchdogHeedsTheFirstRightToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, k := newGuardedBench(t)
		hang := make(chan struct{})
		b.mu.Lock()
		b.hang = hang
		b.mu.Unlock()
		stuck := Target{PoolDir: "/pool", Dataset: "pool/tarn/hung"}
		deadline := b.now() + 10*time.Second
		b.arm(1, stuck, deadline)
		for i := range uint64(5) {
			b.arm(i+2, target, b.now()+10*time.Second)
			time.Sleep(3 * time.Second)
		}
		if _, _, bitten := k.state(); bitten == 0 || bitten > deadline {
			t.Errorf("bitten at %v, the first right ended at %v", bitten, deadline)
		}
		close(hang)
		time.Sleep(20 * time.Second)
		_ = b.in.Close()
		<-b.done
	})
}

// TestWatchdogThatCannotBeArmedIsTold: and told again when it is well.
func TestWatchdogThatCannotBeArmedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, k := newGuardedBench(t)
		k.mu.Lock()
		k.refuse = errors.New("in use")
		k.mu.Unlock()
		if err := writeLine(b.in, order{Sequence: 1, Arm: []Armed{{Target: target, Deadline: b.now() + 10*time.Second}}}); err != nil {
			t.Fatal(err)
		}
		if a := <-b.answers; a.Backed == nil || !strings.Contains(a.Backed.Trouble, "in use") {
			t.Errorf("told %+v", a)
		}
		if a := <-b.answers; a.Sequence != 1 {
			t.Errorf("the deadline is not confirmed: %+v", a)
		}
		k.mu.Lock()
		k.refuse = nil
		k.mu.Unlock()
		if a := <-b.answers; a.Backed == nil || a.Backed.Trouble != "" {
			t.Errorf("told %+v", a)
		}
		b.order(order{Sequence: 2, Forget: []Target{target}})
		if open, _, bitten := k.state(); open || bitten != 0 {
			t.Errorf("after the last right: open %v, bitten at %v", open, bitten)
		}
		_ = b.in.Close()
		<-b.done
	})
}

func TestBackingIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{`: "decode backing",
		`{"watchdog":{"device":"watchdog","timeout":2000000000}}`:      "not a clean absolute path",
		`{"watchdog":{"device":"/dev/watchdog","timeout":1500000000}}`: "whole seconds",
		`{"filter":{"nft":["nft"],"ports":[2049]}}`:                    "absolute path",
		`{"filter":{"nft":["/usr/sbin/nft"]}}`:                         "at least one port",
		`{"filter":{"nft":["/usr/sbin/nft"],"ports":[0]}}`:             "port 0",
	} {
		if _, err := decodeBacking([]byte(text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	dir := t.TempDir()
	if b := configured(dir, slog.New(slog.DiscardHandler)); b != nil {
		t.Errorf("nothing was configured, got %T", b)
	}
	if err := Configure(dir, Backing{Watchdog: &WatchdogConfig{Device: "/dev/null", Timeout: 2 * time.Second}}); err != nil {
		t.Fatal(err)
	}
	if _, ok := configured(dir, slog.New(slog.DiscardHandler)).(*watchdog); !ok {
		t.Error("the watchdog was not configured")
	}
}

// TestConfigureAtOnce: the two helpers of a host write the same when they start together.
func TestConfigureAtOnce(t *testing.T) {
	dir := t.TempDir()
	var g errgroup.Group
	for range 64 {
		g.Go(func() error {
			return Configure(dir, Backing{Watchdog: &WatchdogConfig{Device: "/dev/watchdog0", Timeout: time.Minute}})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || configured(dir, slog.New(slog.DiscardHandler)) == nil {
		t.Errorf("%v %v", left, err)
	}
}
