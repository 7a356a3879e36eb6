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
	// Renewed, if set, is told the result of each renewal: renewed, partial, failed, stale or unguarded.
	Renewed func(result string)
	// Moved, if set, is told how many shares were gained and lost, under the
	// Keeper's lock: it must not block nor call the Keeper.
	Moved  func(gained, lost int)
	Logger *slog.Logger
}

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
	wanted  map[string]Share // by replica
	grants  map[string]grant // by replica
	held    map[string]bool  // as last announced
	changed chan struct{}
	nonce   uint64
	// beat is when the watch last ran; grants of requests sent before fresh are void.
	beat, fresh time.Duration
	released    bool
}

// grant is the right to write one share until an instant.
type grant struct {
	share       Share
	sent, until time.Duration
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
	if config.Renewed == nil {
		config.Renewed = func(string) {}
	}
	if config.Moved == nil {
		config.Moved = func(int, int) {}
	}
	return &Keeper{
		config:  config,
		kick:    make(chan struct{}, 1),
		wanted:  map[string]Share{},
		grants:  map[string]grant{},
		held:    map[string]bool{},
		changed: make(chan struct{}),
	}, nil
}

// Want replaces the set of shares that this host asks for. What is no longer in
// it, or is there under another epoch, is not held any more when Want returns;
// its target stays armed until Settled or its deadline.
func (k *Keeper) Want(shares []Share) {
	k.mu.Lock()
	before := len(k.wanted)
	next := make(map[string]Share, len(shares))
	news := false
	for _, s := range shares {
		next[s.ReplicaID] = s
		news = news || k.wanted[s.ReplicaID] != s
	}
	k.wanted = next
	for id, g := range k.grants {
		if next[id] != g.share {
			delete(k.grants, id)
		}
	}
	k.announce()
	k.mu.Unlock()
	if news || before == 0 && len(next) > 0 {
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
	for _, s := range k.wanted {
		if s.Target == target && !k.released {
			return
		}
	}
	// Under the lock, so that no newly wanted share is armed before it.
	k.config.Guard.Disarm(target)
}

// Release gives up everything for good and lets Held be false from now on. The
// guard keeps its deadlines until Settled.
func (k *Keeper) Release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.released = true
	k.announce()
}

// Held reports whether the replica may be writable under epoch at this moment.
func (k *Keeper) Held(shareID, replicaID string, epoch uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	g, ok := k.grants[replicaID]
	return ok && g.share.ShareID == shareID && g.share.Epoch == epoch && k.valid(g, k.config.Clock())
}

// valid is the law: sent before no pause, the margin not reached, the watch alive.
func (k *Keeper) valid(g grant, now time.Duration) bool {
	return !k.released && g.sent >= k.fresh && now < g.until-k.config.Margin && now-k.beat <= k.config.Margin
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
	var first time.Duration
	found, now := false, k.config.Clock()
	for _, g := range k.grants {
		if k.valid(g, now) && (!found || g.until < first) {
			first, found = g.until, true
		}
	}
	return first, found
}

// Count returns how many shares are held.
func (k *Keeper) Count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, now := 0, k.config.Clock()
	for _, g := range k.grants {
		if k.valid(g, now) {
			n++
		}
	}
	return n
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
	if pause := now - k.beat; k.beat != 0 && pause > k.config.Margin {
		k.config.Logger.Warn("agent was paused; leases need a fresh renewal", "pause", pause)
		k.fresh = now
		k.renewSoon()
	}
	k.beat = now
	k.announce()
	wait := k.step()
	for _, g := range k.grants {
		if left := g.until - k.config.Margin - now; left > 0 {
			wait = min(wait, left)
		}
	}
	return wait
}

// announce wakes the waiters if what is held differs from what they were told.
// The caller has the lock.
func (k *Keeper) announce() {
	now, gained := k.config.Clock(), 0
	next := make(map[string]bool, len(k.grants))
	for id, g := range k.grants {
		if !k.valid(g, now) {
			continue
		}
		next[id] = true
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
