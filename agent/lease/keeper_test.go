package lease

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	tarnv1 "tarn/proto/tarn/v1"

	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	every  = 2 * time.Second
	margin = 4 * time.Second
	span   = 10 * time.Second
)

// leader is a control plane that grants what it is told to. Its clock is the bubble's.
type leader struct {
	mu      sync.Mutex
	deny    map[string]bool // replicas that it revokes
	err     error
	delay   time.Duration
	wrong   bool // answers with another nonce
	epochs  map[string]uint64
	asked   int
	arrived []time.Time
}

func (l *leader) RenewLease(ctx context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error) {
	l.mu.Lock()
	l.asked++
	l.arrived = append(l.arrived, time.Now())
	delay, err, wrong := l.delay, l.err, l.wrong
	resp := &tarnv1.RenewLeaseResponse{Nonce: req.GetNonce(), Duration: durationpb.New(span)}
	for _, s := range req.GetShares() {
		granted := &tarnv1.LeaseShare{ShareId: s.GetShareId(), ReplicaId: s.GetReplicaId(), Epoch: s.GetEpoch()}
		if e, ok := l.epochs[s.GetReplicaId()]; ok {
			granted.Epoch = e
		}
		if l.deny[s.GetReplicaId()] {
			resp.Revoked = append(resp.Revoked, granted)
		} else {
			resp.Granted = append(resp.Granted, granted)
		}
	}
	l.mu.Unlock()
	if wrong {
		resp.Nonce++
	}
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return resp, err
}

func (l *leader) set(change func(*leader)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

// guard confirms at once unless told to fail.
type guard struct {
	mu    sync.Mutex
	err   error
	armed map[Target]time.Duration
}

func (g *guard) Arm(_ context.Context, armed []Armed) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return g.err
	}
	for _, a := range armed {
		g.armed[a.Target] = a.Deadline
	}
	return nil
}

func (g *guard) Disarm(targets ...Target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range targets {
		delete(g.armed, t)
	}
}

func (g *guard) set(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *guard) deadline(t Target) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.armed[t]
}

// world runs one Keeper in a bubble. Its clock is the bubble's plus offset,
// which stands for time that timers do not see: a suspend.
type world struct {
	*Keeper
	leader *leader
	guard  *guard
	start  time.Time
	mu     sync.Mutex
	offset time.Duration

	gained, lost int
}

func (w *world) now() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Hour + time.Since(w.start) + w.offset
}

func (w *world) suspend(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offset += d
}

func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{leader: &leader{deny: map[string]bool{}, epochs: map[string]uint64{}}, guard: &guard{armed: map[Target]time.Duration{}}, start: time.Now()}
		keeper, err := NewKeeper(Config{
			HostID: "host", SessionID: "session", Renewer: w.leader, Guard: w.guard, Every: every, Margin: margin, Clock: w.now,
			Moved: func(gained, lost int) { w.gained, w.lost = w.gained+gained, w.lost+lost },
		})
		if err != nil {
			t.Fatal(err)
		}
		w.Keeper = keeper
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- keeper.Run(ctx) }()
		test(t, w)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
		if keeper.Count() != 0 || w.gained != w.lost {
			t.Errorf("%d held after Run; %d gained, %d lost", keeper.Count(), w.gained, w.lost)
		}
	})
}

func share(id string, epoch uint64) Share {
	return Share{ShareID: "share-" + id, ReplicaID: id, Epoch: epoch, Target: Target{PoolDir: "/pool", Dataset: "pool/tarn/" + id}}
}

func (w *world) holds(id string, epoch uint64) bool { return w.Held("share-"+id, id, epoch) }

func (w *world) expect(t *testing.T, id string, epoch uint64, want bool, when string) {
	t.Helper()
	synctest.Wait()
	if got := w.holds(id, epoch); got != want {
		t.Errorf("%s: held is %t, want %t", when, got, want)
	}
}

func TestLeaseIsGainedKeptAndArmed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.expect(t, "a", 1, false, "before it is wanted")
		changed := w.Changed()
		w.Want([]Share{share("a", 1)})
		<-changed
		w.expect(t, "a", 1, true, "after the first grant")
		w.expect(t, "a", 2, false, "under another epoch")
		if w.Held("other", "a", 1) {
			t.Error("held for another share")
		}
		if got, ok := w.Deadline(); !ok || got != w.guard.deadline(share("a", 1).Target) {
			t.Errorf("deadline %v %t differs from what the guard enforces, %v", got, ok, w.guard.deadline(share("a", 1).Target))
		}
		time.Sleep(time.Hour)
		w.expect(t, "a", 1, true, "after an hour of renewals")
		if left := w.guard.deadline(share("a", 1).Target) - w.now(); left < span-every || left > span {
			t.Errorf("guard is armed %v ahead", left)
		}
	})
}

func TestLeaseCountsFromSending(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.leader.set(func(l *leader) { l.delay = 3 * time.Second })
		w.Want([]Share{share("a", 1)})
		time.Sleep(3*time.Second + time.Millisecond)
		w.expect(t, "a", 1, true, "after the slow answer")
		w.leader.set(func(l *leader) { l.err = errors.New("cut") })
		// Sent at 0, so it is over at span-margin = 6 s although received at 3 s.
		time.Sleep(3*time.Second - 2*time.Millisecond)
		w.expect(t, "a", 1, true, "just before the margin")
		time.Sleep(2 * time.Millisecond)
		w.expect(t, "a", 1, false, "at the margin")
	})
}

func TestLossIsAnnouncedAtTheMargin(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.Want([]Share{share("a", 1)})
		w.expect(t, "a", 1, true, "at first")
		w.leader.set(func(l *leader) { l.err = errors.New("cut") })
		last := w.guard.deadline(share("a", 1).Target)
		<-w.Changed()
		if now := w.now(); now < last-margin || now >= last {
			t.Errorf("announced %v before the deadline, want %v", last-now, margin)
		}
		w.leader.set(func(l *leader) { l.err = nil })
		<-w.Changed()
		w.expect(t, "a", 1, true, "once the leader is back")
	})
}

func TestAnswersThatMustNotCount(t *testing.T) {
	for name, change := range map[string]func(*leader){
		"another nonce":  func(l *leader) { l.wrong = true },
		"a lower epoch":  func(l *leader) { l.epochs["a"] = 4 },
		"a higher epoch": func(l *leader) { l.epochs["a"] = 6 },
		"a refusal":      func(l *leader) { l.err = errors.New("no leader") },
		"a revocation":   func(l *leader) { l.deny["a"] = true },
		"far too slow":   func(l *leader) { l.delay = time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.leader.set(change)
				w.Want([]Share{share("a", 5)})
				for range 20 {
					time.Sleep(time.Second)
					w.expect(t, "a", 5, false, name)
				}
			})
		})
	}
}

func TestRevocationAndNewEpochEndARightAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.Want([]Share{share("a", 1), share("b", 1)})
		w.expect(t, "a", 1, true, "at first")
		w.leader.set(func(l *leader) { l.deny["a"] = true })
		time.Sleep(every + time.Millisecond)
		w.expect(t, "a", 1, false, "after the revocation")
		w.expect(t, "b", 1, true, "the other share")

		w.leader.set(func(l *leader) { l.delay = time.Second })
		changed := w.Changed()
		w.Want([]Share{share("b", 2)})
		if w.holds("b", 1) || w.holds("b", 2) {
			t.Error("held between the epochs")
		}
		<-changed
		time.Sleep(time.Second + every)
		w.expect(t, "b", 2, true, "under the new epoch")
		w.expect(t, "b", 1, false, "under the old epoch")
	})
}

// An answer on its way while the assignment moves on must not bring back the old right.
func TestLateGrantOfWhatIsNotWantedAnyMore(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.leader.set(func(l *leader) { l.delay = time.Second })
		w.Want([]Share{share("a", 1)})
		time.Sleep(500 * time.Millisecond)
		w.Want(nil)
		time.Sleep(time.Second)
		w.expect(t, "a", 1, false, "after the late answer")
	})
}

func TestNoGuardNoLease(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.guard.set(ErrNoHelper)
		w.Want([]Share{share("a", 1)})
		time.Sleep(time.Minute)
		w.expect(t, "a", 1, false, "with a dead helper")
		w.guard.set(nil)
		time.Sleep(every + time.Millisecond)
		w.expect(t, "a", 1, true, "with the helper back")
		w.guard.set(ErrNoHelper)
		time.Sleep(span)
		w.expect(t, "a", 1, false, "after the last guarded lease")
	})
}

// While the agent is suspended no timer fires; the clock has gone on. Whatever
// was granted before must not count afterwards, whatever its deadline says.
func TestPauseLongerThanTheMarginNeedsAFreshRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.Want([]Share{share("a", 1)})
		w.expect(t, "a", 1, true, "at first")
		w.leader.set(func(l *leader) { l.err = errors.New("cut") })
		w.suspend(margin + time.Millisecond)
		if w.holds("a", 1) {
			t.Error("held right after the pause, before anything looked")
		}
		time.Sleep(margin / 4)
		w.expect(t, "a", 1, false, "after the pause was seen, though the deadline is ahead")
		w.leader.set(func(l *leader) { l.err = nil })
		time.Sleep(every + time.Millisecond)
		w.expect(t, "a", 1, true, "after a fresh renewal")
	})
}

func TestGrantSentBeforeThePauseIsVoid(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.leader.set(func(l *leader) { l.delay = 2 * time.Second })
		w.Want([]Share{share("a", 1)})
		time.Sleep(time.Second)
		w.leader.set(func(l *leader) { l.err = errors.New("cut") })
		w.suspend(margin + time.Second)
		// The answer to the first request arrives a second after the wake.
		time.Sleep(time.Second + time.Millisecond)
		w.expect(t, "a", 1, false, "by an answer to a request from before the pause")
	})
}

func TestIdleHostAsksForNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		time.Sleep(time.Minute)
		if w.leader.asked != 0 {
			t.Errorf("%d requests without any share", w.leader.asked)
		}
	})
}

func TestSettledDisarms(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.Want([]Share{share("a", 1)})
		w.expect(t, "a", 1, true, "at first")
		w.Settled(share("a", 1).Target)
		if w.guard.deadline(share("a", 1).Target) == 0 {
			t.Error("disarmed although it is wanted")
		}
		w.Want(nil)
		synctest.Wait()
		if w.guard.deadline(share("a", 1).Target) == 0 {
			t.Error("disarmed before it was settled")
		}
		w.Settled(share("a", 1).Target)
		if w.guard.deadline(share("a", 1).Target) != 0 {
			t.Error("still armed after it was settled")
		}
	})
}

func TestKeeperRefusesBadConfig(t *testing.T) {
	good := Config{HostID: "h", SessionID: "s", Renewer: &leader{}, Every: every, Margin: margin}
	for name, change := range map[string]func(*Config){
		"no renewer": func(c *Config) { c.Renewer = nil },
		"no host":    func(c *Config) { c.HostID = "" },
		"no session": func(c *Config) { c.SessionID = "" },
		"every":      func(c *Config) { c.Every = time.Millisecond },
		"margin":     func(c *Config) { c.Margin = 0 },
	} {
		bad := good
		change(&bad)
		if _, err := NewKeeper(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := NewKeeper(good); err != nil {
		t.Errorf("good config refused: %v", err)
	}
}
