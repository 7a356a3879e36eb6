package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	tarnv1 "tarn/proto/tarn/v1"

	"golang.org/x/sync/errgroup"
)

// Renewer asks the leader for the lease. An error means that nothing was granted
// as far as this host can know.
type Renewer interface {
	RenewLease(ctx context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error)
}

// Guard enforces the end of leases when the agent cannot. *Deadman is one.
type Guard interface {
	// Arm returns nil once the guard has confirmed all of armed. The deadlines are
	// instants of the Keeper's clock; a later one replaces an earlier one.
	Arm(ctx context.Context, armed []Armed) error
	// Disarm takes back targets that are known to be unreachable for writers.
	Disarm(targets ...Target)
}

// Share is a right to write that this host wants: it owns the share under epoch.
type Share struct {
	ShareID, ReplicaID string
	Epoch              uint64
	// Target is what the guard has to fence when the right ends.
	Target Target
}

// Config of a Keeper. Renewer, HostID, SessionID, Every and Margin are required.
type Config struct {
	HostID    string
	SessionID string
	Renewer   Renewer
	// Guard, if set, must confirm a deadline before the lease counts.
	Guard Guard
	// Every is the time between renewals: 50 ms or more, at most a third of the
	// lease less the margin (reliability 3.3).
	Every time.Duration
	// Margin before the lease's end at which this host stops by itself: what
	// unexporting and unmounting may take. 50 ms or more.
	Margin time.Duration
	// Clock gives instants; BootTime when unset.
	Clock func() time.Duration
	// Beat, if set, is told that a round of one of the Keeper's loops begins: BeatWatch or
	// BeatRenewals.
	Beat func(loop string)
	// Renewed, if set, is told the result of each renewal of a share: renewed, partial,
	// failed, stale, unguarded or another_life.
	Renewed func(result string)
	// AnotherLife, if set, is called once, when the leader has answered that another copy
	// of this agent goes on with the session. All rights are gone then, for good.
	AnotherLife func()
	// Moved, if set, is told how many shares were gained and lost, under the
	// Keeper's lock: it must not block nor call the Keeper.
	Moved  func(gained, lost int)
	Logger *slog.Logger
}

// What Config.Beat is told.
const (
	BeatWatch    = "lease"
	BeatRenewals = "lease renewals"
)

const shortest = 50 * time.Millisecond

func (c Config) validate() error {
	switch {
	case c.Renewer == nil || c.HostID == "" || c.SessionID == "":
		return errors.New("lease keeper needs a renewer, a host id and a session id")
	case c.Every < shortest:
		return fmt.Errorf("lease renewal every %s: want %s or more", c.Every, shortest)
	case c.Margin < shortest:
		return fmt.Errorf("lease margin %s: want %s or more", c.Margin, shortest)
	}
	return nil
}

// Keeper holds the host's lease. Safe for concurrent use.
type Keeper struct {
	config Config
	kick   chan struct{}

	mu      sync.Mutex
	rights  *Rights
	held    map[string]bool // as last announced
	changed chan struct{}
	nonce   uint64
	heard   bool   // Want has been called: the leader knows the session
	token   []byte // of the last answer that arrived, for the next request
}

// NewKeeper returns a Keeper that holds nothing until Run.
func NewKeeper(config Config) (*Keeper, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	if config.Clock == nil {
		config.Clock = BootTime
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Beat == nil {
		config.Beat = func(string) {}
	}
	if config.Renewed == nil {
		config.Renewed = func(string) {}
	}
	if config.AnotherLife == nil {
		config.AnotherLife = func() {}
	}
	if config.Moved == nil {
		config.Moved = func(int, int) {}
	}
	return &Keeper{
		config:  config,
		kick:    make(chan struct{}, 1),
		rights:  NewRights(config.Margin),
		held:    map[string]bool{},
		changed: make(chan struct{}),
	}, nil
}

// Want replaces the set of shares that this host asks for. What is no longer in
// it, or is there under another epoch, is not held any more when Want returns;
// its target stays armed until Settled or its deadline.
func (k *Keeper) Want(shares []Share) {
	k.mu.Lock()
	news := k.rights.Want(shares)
	k.heard = true
	k.announce()
	k.mu.Unlock()
	if news {
		k.renewSoon()
	}
}

// Settled says that target cannot be written here any more: unmounted, or
// read-only in another role. The guard may forget it, unless the share is wanted
// (again): then what was said is of the past, and the deadline stands.
func (k *Keeper) Settled(target Target) {
	if k.config.Guard == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.rights.wants(target) {
		return
	}
	// Under the lock, so that no newly wanted share is armed before it.
	k.config.Guard.Disarm(target)
}

// Release gives up everything for good and lets Held be false from now on. The
// guard keeps its deadlines until Settled.
func (k *Keeper) Release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rights.Release()
	k.announce()
}

// Held reports whether the replica may be writable under epoch at this moment.
func (k *Keeper) Held(shareID, replicaID string, epoch uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rights.Held(shareID, replicaID, epoch, k.config.Clock())
}

// Changed returns a channel that is closed at the next change of what is held.
// Take it before asking Held, or a change in between is missed.
func (k *Keeper) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Deadline returns the instant of the Keeper's clock at which the first of the
// held leases ends, the margin not taken off; false when none is held.
func (k *Keeper) Deadline() (time.Duration, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rights.deadline(k.config.Clock())
}

// Count returns how many shares are held.
func (k *Keeper) Count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.rights.held(k.config.Clock()))
}

// Run renews and watches until ctx ends, then releases everything and returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	k.look()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.watch(ctx) })
	group.Go(func() error { return k.renewals(ctx) })
	defer k.Release()
	return group.Wait()
}

// watch looks often enough that a missed look is a pause worth distrusting.
func (k *Keeper) watch(ctx context.Context) error {
	timer := time.NewTimer(k.step())
	defer timer.Stop()
	for {
		k.config.Beat(BeatWatch)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(k.look())
		}
	}
}

func (k *Keeper) step() time.Duration { return min(k.config.Every/2, k.config.Margin/4) }

// look notes the time, distrusts everything after a pause, announces what
// expired, and returns when to look again.
func (k *Keeper) look() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.config.Clock()
	if pause := k.rights.Look(now); pause > 0 {
		k.config.Logger.Warn("agent was paused; leases need a fresh renewal", "pause", pause)
		k.renewSoon()
	}
	k.announce()
	return k.rights.next(now, k.step())
}

// announce wakes the waiters if what is held differs from what they were told.
// The caller has the lock.
func (k *Keeper) announce() {
	next, gained := k.rights.held(k.config.Clock()), 0
	for id := range next {
		if !k.held[id] {
			gained++
		}
	}
	lost := len(k.held) + gained - len(next)
	if gained == 0 && lost == 0 {
		return
	}
	k.config.Moved(gained, lost)
	k.held = next
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *Keeper) renewSoon() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}
