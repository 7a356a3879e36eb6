package replicate

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tarn/agent/stream"
	"tarn/zfs"
)

// CadenceEngine is the storage as the cadence needs it.
type CadenceEngine interface {
	Datasets(ctx context.Context, root string) ([]zfs.Dataset, error)
	Versions(ctx context.Context, dataset string) ([]zfs.Version, error)
	VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error)
	Named(ctx context.Context, names ...string) ([]zfs.Version, error)
	Snapshot(ctx context.Context, names ...string) error
}

// CadenceConfig of a Cadence. All but Logger's level are required.
type CadenceConfig struct {
	Engine CadenceEngine
	// Root is the dataset above all replicas of the pool: pool/base.
	Root string
	// Sync makes what was written before it was called show in a listing, on engines
	// where that takes until the next transaction group; optional.
	Sync func(ctx context.Context) error
	// Board hears of every new head.
	Board  *stream.Board
	Logger *slog.Logger
}

// Tracked is an active replica that wants snapshots.
type Tracked struct {
	Share   string
	Replica string
	Dataset string
	Epoch   uint64
	// Every is the cadence; due times are its multiples on the calendar, so
	// that shares of equal cadence are due together. 0: 15 s.
	Every time.Duration
	// Peers are the ids of the hosts that follow. Without any, only wanted snapshots are taken.
	Peers []string
	// Wanted are names of users' snapshots that have to exist; they are taken at once.
	Wanted []string
	// Notify is called after something was taken, failed, or was found unmounted.
	// It must neither block nor call back.
	Notify func()
}

// Tracking is what the cadence last saw of a replica.
type Tracking struct {
	Head    zfs.Version // newest snapshot; zero if there is none yet
	AsOf    time.Time   // when the live data were last known equal to Head; zero: never
	Dirty   int64       // bytes written since; -1 unknown
	Used    int64
	Mounted bool
	// Listed is when this was seen; zero: not yet.
	Listed time.Time
	// Taken counts snapshots taken since the replica is tracked.
	Taken uint64
	// Err is the last failure to take one, nil after a success; Failing is when
	// the first of the row was.
	Err     error
	Failing time.Time
}

// Cadence takes the snapshots of all active replicas of one pool: all that are due
// and dirty in one atomic call. Safe for concurrent use.
type Cadence struct {
	cfg  CadenceConfig
	wake chan struct{}

	batch sync.Mutex // held while a batch runs
	quiet bool       // the last batch found something unchanged; guarded by batch
	mu    sync.Mutex
	all   map[string]*entry // by replica
}

type entry struct {
	Tracked
	seen  Tracking
	names []string // of all snapshots
	// listed are all versions as of the last listing, at listedAt, and what was taken
	// since; the zero time asks for a new one.
	listed   []zfs.Version
	listedAt time.Time
	// changed is when a snapshot was taken or destroyed last before that, if that tells
	// whether one was since; zero: it does not.
	changed time.Time
	// froze is how many bytes the head took in since previous; -1 unknown.
	froze    int64
	previous zfs.GUID
	seq      uint64 // last number used in this epoch
	due      time.Time
}

const (
	defaultEvery = 15 * time.Second
	// relist is how old a listing may be that a snapshot is taken on: what others did
	// to the snapshots meanwhile shows when they are listed, or when a stream needs one.
	relist = 5 * time.Minute
)

// NewCadence checks cfg; Run does the work.
func NewCadence(cfg CadenceConfig) (*Cadence, error) {
	if cfg.Engine == nil || cfg.Root == "" || cfg.Board == nil || cfg.Logger == nil {
		return nil, fmt.Errorf("cadence needs engine, root, board and logger: %w", zfs.ErrInvalid)
	}
	return &Cadence{cfg: cfg, wake: make(chan struct{}, 1), all: map[string]*entry{}, quiet: true}, nil
}

// Set begins to track a replica, or changes what it wants.
func (c *Cadence) Set(t Tracked) {
	if t.Every <= 0 {
		t.Every = defaultEvery
	}
	t.Peers, t.Wanted = slices.Clone(t.Peers), slices.Clone(t.Wanted)
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.all[t.Replica]
	if ok && e.Epoch == t.Epoch && e.Dataset == t.Dataset && e.Share == t.Share {
		if e.Every == t.Every && slices.Equal(e.Peers, t.Peers) && slices.Equal(e.Wanted, t.Wanted) {
			e.Notify = t.Notify
			return
		}
		if !slices.Equal(e.Wanted, t.Wanted) {
			e.listedAt = time.Time{} // one may be wanted again that is gone by now
		}
		// What names the dataset stays as it is: a running batch reads it.
		e.Every, e.Peers, e.Wanted, e.Notify = t.Every, t.Peers, t.Wanted, t.Notify
	} else {
		e = &entry{Tracked: t}
		c.all[t.Replica] = e
	}
	e.due = time.Time{}
	c.poke()
}

// Remove stops tracking. When it returns, no snapshot of the replica is being
// taken or will be, and its followers have lost it from the board.
func (c *Cadence) Remove(replicaID string) {
	c.mu.Lock()
	_, ok := c.all[replicaID]
	delete(c.all, replicaID)
	c.mu.Unlock()
	if !ok {
		return
	}
	c.batch.Lock()
	defer c.batch.Unlock()
	c.cfg.Board.Withdraw(replicaID)
}

// Tracking is what was last seen of a replica; ok is false if it is not tracked.
func (c *Cadence) Tracking(replicaID string) (t Tracking, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.all[replicaID]
	if !ok {
		return Tracking{}, false
	}
	return e.seen, true
}

// Listed gives the versions of a tracked replica as they were listed last, at most
// relist ago, with what was taken since; nil if there was no listing yet. Nobody may
// change the slice.
func (c *Cadence) Listed(replicaID string) []zfs.Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.all[replicaID]; ok {
		return e.listed
	}
	return nil
}

func (c *Cadence) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run takes snapshots until ctx ends, which is the only error it returns.
func (c *Cadence) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		case <-timer.C:
		}
		if err := c.tick(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("snapshot round failed", "root", c.cfg.Root, "err", err)
		}
		timer.Reset(c.next(time.Now()))
	}
}

// next is how long until the first replica is due; never longer than its own
// cadence, whatever the calendar does meanwhile.
func (c *Cadence) next(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := time.Hour
	for _, e := range c.all {
		wait = min(wait, e.Every, max(e.due.Sub(now), 0))
	}
	return wait
}

// dueEntries claims what is due and sets its next time on the calendar.
func (c *Cadence) dueEntries(now time.Time) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*entry
	for _, e := range c.all {
		// A calendar that jumped back must not silence anybody.
		if e.due.After(now) && e.due.Sub(now) <= e.Every {
			continue
		}
		e.due = now.Truncate(e.Every).Add(e.Every)
		list = append(list, e)
	}
	return list
}
