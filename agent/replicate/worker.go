package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Source gives streams of other hosts' replicas.
type Source interface {
	Pull(ctx context.Context, req stream.Request) (*stream.Pull, error)
}

// HeadFeed tells when a source has a new snapshot.
type HeadFeed interface {
	Follow(src *tarnv1.Source, notify func()) *stream.Following
}

// Config of a Worker. All but the fields marked optional are required.
type Config struct {
	ReplicaID string
	ShareID   string
	Pool      string
	// Base is the dataset below the pool that holds all replicas, e.g. "tarn".
	Base    string
	Engine  Engine
	Source  Source
	Feed    HeadFeed
	Board   *stream.Board
	Cadence *Cadence
	Exports Exporter
	Lease   Lease
	// Publish hears of the replica's state after every change. It must not block.
	Publish func(*tarnv1.ReplicaReport)
	// Survey of the replica's pool, shared by its replicas; optional.
	Survey *Survey
	// Keys of encrypted shares; nil: this host keeps none.
	Keys Keys
	// Damage tells what the pool has found unreadable in a dataset; optional.
	Damage func(dataset string) error
	// Hooks are optional.
	Hooks Hooks
	// KeepRecent replication snapshots stay whatever else holds; optional, 16.
	KeepRecent int
	// AwayBudget is how long a peer that does not ask keeps its base from being
	// removed here; then a bookmark takes its place. Optional, 24 hours.
	AwayBudget time.Duration
	// Lacks is what Engine cannot do; optional.
	Lacks Lacks
	// Can are the flags of streams that Engine takes; optional: plain ones.
	Can zfs.StreamFlags
	// Settle has what the receivers of a replica stand on held, before retention
	// decides: stream.Server's; optional.
	Settle func(ctx context.Context, replicaID string, versions []zfs.Version) (changed bool, err error)
	Logger *slog.Logger
}

// Lacks are abilities that an old engine is without. The zero value lacks nothing.
type Lacks struct {
	// HoldList: holds can be set and released but not listed.
	HoldList bool
	// Resume: half a receive is lost when its stream breaks.
	Resume bool
	// ReceiveChecks: an increment is compared with what is there before it is asked for.
	ReceiveChecks bool
}

// LacksOf says what an engine of these capabilities is without.
func LacksOf(c zfs.Capabilities) Lacks {
	return Lacks{HoldList: !c.HoldsListed, Resume: !c.Resume, ReceiveChecks: c.ReceiveChecks}
}

func (c *Config) validate() error {
	switch {
	case c.Engine == nil, c.Source == nil, c.Feed == nil, c.Board == nil, c.Cadence == nil,
		c.Exports == nil, c.Lease == nil, c.Publish == nil, c.Logger == nil:
		return fmt.Errorf("worker of replica %q lacks a part: %w", c.ReplicaID, zfs.ErrInvalid)
	}
	for _, part := range []string{c.ReplicaID, c.ShareID, c.Pool} {
		if err := zfs.ValidateComponent(part); err != nil {
			return fmt.Errorf("check replica's names: %w", err)
		}
	}
	return zfs.ValidateDataset(c.Pool + "/" + c.Base)
}

// Worker keeps one replica as its last assignment wants it. Assign, Report and
// Grant are safe for concurrent use; Run is called once.
type Worker struct {
	cfg   Config
	hooks Hooks
	l     layout
	log   *slog.Logger
	wake  chan struct{}

	// born is when the worker was made, for the monotonic clock.
	born time.Time

	mu       sync.Mutex
	assigned *tarnv1.Assignment
	view     view
	ages     calendar
	changed  bool // the storage was, by somebody else

	// The rest belongs to Run.
	s         state
	begun     time.Time // of the present round
	stale     bool      // facts have to be read again
	compare   bool      // a full compare was asked for
	entering  bool      // first look since the assignment turned
	failures  map[kind]*failure
	refusal   *failure
	code      tarnv1.ReplicaErrorCode
	pull      *running
	follow    *stream.Following
	source    string // replica that the lag is measured against, with the epoch
	resynced  uint64
	errorsOf  map[string]string // user snapshots that could not be taken or removed
	pruned    upkeep
	keySeen   time.Time // when a key was last known to be loaded or not
	strangers strangers
	ruleErrs  []*tarnv1.RuleError
	paths     []*tarnv1.ReportedExport
	shown     string // mountpoint that was exported last
	brief     int    // mounts in a row that somebody else ended at once
	seek      bool   // the dataset was there before: if it is not, somebody may have renamed it
	last      *tarnv1.ReplicaReport
}

// NewWorker checks cfg; it starts nothing and does nothing before Assign.
func NewWorker(cfg Config) (*Worker, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.KeepRecent <= 0 {
		cfg.KeepRecent = defaultRecent
	}
	if cfg.AwayBudget <= 0 {
		cfg.AwayBudget = defaultAway
	}
	w := &Worker{
		cfg: cfg, hooks: cfg.Hooks.withDefaults(),
		l:    layout{pool: cfg.Pool, base: cfg.Base, share: cfg.ShareID, replica: cfg.ReplicaID},
		log:  cfg.Logger.With("share", cfg.ShareID, "replica", cfg.ReplicaID),
		born: time.Now(), s: state{unlisted: cfg.Lacks.HoldList}, wake: make(chan struct{}, 1), failures: map[kind]*failure{}, errorsOf: map[string]string{}, stale: true,
	}
	return w, nil
}

// Dataset is the name that the replica's dataset has on its host.
func (w *Worker) Dataset() string { return w.l.dataset() }

// Assign gives the worker a new assignment; only the last one counts.
func (w *Worker) Assign(a *tarnv1.Assignment) {
	w.mu.Lock()
	w.assigned = proto.CloneOf(a)
	w.mu.Unlock()
	w.poke()
}

// Look lets the worker read anew what is on the storage: somebody else changed it.
func (w *Worker) Look() {
	w.mu.Lock()
	w.changed = true
	w.mu.Unlock()
	w.poke()
}

func (w *Worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Grant says what a host may pull from this replica by its assignment.
func (w *Worker) Grant(peerHostID string) (stream.Grant, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := stream.Grant{Dataset: w.l.dataset(), Epoch: w.assigned.GetEpoch(), Raw: w.assigned.GetEncrypted(), Flags: w.view.flags}
	for _, p := range w.assigned.GetPeers() {
		if p.GetHostId() == peerHostID {
			g.Replicas = append(g.Replicas, p.GetReplicaId())
		}
	}
	if len(g.Replicas) == 0 {
		return stream.Grant{}, fmt.Errorf("host %s follows nothing of replica %s: %w", peerHostID, w.cfg.ReplicaID, stream.ErrDenied)
	}
	return g, nil
}

// Run works until ctx ends, which is the only error it returns. A replica that is
// exported stays so: a restart of the agent must not interrupt clients whose
// lease is alive.
func (w *Worker) Run(ctx context.Context) error {
	defer w.leave()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		lease := w.cfg.Lease.Changed()
		w.round(ctx)
		timer.Reset(w.idle(time.Now()))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		case <-lease:
		case r := <-w.pullDone():
			w.pulled(r)
		case <-timer.C:
		}
	}
}

// leave ends what the worker has running elsewhere.
func (w *Worker) leave() {
	w.stopPull()
	w.unfollow()
	w.cfg.Cadence.Remove(w.cfg.ReplicaID)
	w.cfg.Board.Withdraw(w.cfg.ReplicaID)
}

// round does all that can be done now, one action after the other.
func (w *Worker) round(ctx context.Context) {
	begun := time.Now()
	w.begun = begun
	for ctx.Err() == nil {
		w.adopt()
		if w.s.a == nil {
			return
		}
		if err := w.refresh(ctx); err != nil {
			w.failed(doIdle, err)
			w.report()
			return
		}
		w.lookForKey()
		if w.cfg.Damage != nil {
			w.s.damage = w.cfg.Damage(w.l.dataset())
		}
		w.attend()
		act := step(&w.s)
		if act.kind == doIdle || act.kind == doRefuse {
			w.rest(act)
			w.forget(begun)
			w.report()
			// What arrived is told before anything is tidied up.
			if w.maintain(ctx) {
				w.report()
			}
			return
		}
		w.act(ctx, act)
	}
}

// adopt takes the newest assignment in.
func (w *Worker) adopt() {
	w.mu.Lock()
	a := w.assigned
	w.stale, w.changed = w.stale || w.changed, false
	w.mu.Unlock()
	old := w.s.a
	if a == nil || a == old {
		return
	}
	w.s.a, w.s.l = a, w.l
	w.s.backoff, w.s.keyed = w.backingOff, w.cfg.Keys != nil
	if old == nil || old.GetRole() != a.GetRole() || old.GetEpoch() != a.GetEpoch() || old.GetOpId() != a.GetOpId() ||
		old.GetSource().GetReplicaId() != a.GetSource().GetReplicaId() || old.GetSeal() != a.GetSeal() {
		w.turn(old)
	}
	if a.GetResyncGeneration() != w.resynced {
		w.s.wantPull, w.compare = true, true
	}
	if w.s.mayCome(old) {
		w.s.wantPull, w.s.caughtUp = true, false
	}
	clear(w.failures) // what was wrong may be right now
}

// turn begins a new part of the replica's life: nothing of the old one runs on.
func (w *Worker) turn(old *tarnv1.Assignment) {
	w.stopPull()
	w.unfollow()
	w.s.wantPull, w.s.diverged, w.s.modified, w.s.sizeRefused = true, nil, false, 0
	w.s.deadToken, w.s.caughtUp, w.s.confirmed, w.s.news, w.s.taken, w.s.tracked = false, false, false, 0, 0, 0
	w.s.compared, w.s.unrelated, w.s.formerFree, w.s.pathTried, w.s.untied = false, false, false, false, false
	w.s.gone = false // one that was removed may be wanted again
	w.entering, w.seek = true, w.seek || w.s.a.GetEstablished()
	w.stale = true
	w.mu.Lock()
	w.view.clock.reset()
	w.mu.Unlock()
	w.log.Info("assigned", "role", w.s.a.GetRole(), "epoch", w.s.a.GetEpoch(), "before", old.GetRole())
}

// refresh reads the facts again where something may have changed them.
func (w *Worker) refresh(ctx context.Context) error {
	a := w.s.a
	w.s.lease = a.GetRole() == tarnv1.Role_ROLE_ACTIVE && w.cfg.Lease.Held(a.GetShareId(), a.GetReplicaId(), a.GetEpoch())
	comparing := w.compare && !w.s.pulling
	w.stale = w.stale || w.keyDue(time.Now())
	if !w.stale && !comparing || w.s.gone {
		return nil
	}
	f, err := w.observe(ctx, w.l)
	if err != nil {
		w.s.opened = w.s.opened && !errors.Is(err, zfs.ErrPoolUnavailable) // it may be imported anew
		return err
	}
	w.s.f, w.stale, w.keySeen, w.s.changedAt = f, false, time.Now(), time.Now()
	if comparing {
		// A full compare looks at the head, too; a receive would only refuse.
		w.compare = false
		w.s.modified = w.s.modified || a.GetRole() == tarnv1.Role_ROLE_SECONDARY && f.marks.role == roleReplica && f.ds.Written > 0
	}
	w.s.released, w.s.opened = w.s.released && !w.s.mounted(), w.s.opened || w.s.mounted()
	if w.entering {
		// A secondary that was one under this epoch before goes on showing what it has.
		w.entering, w.s.confirmed = false, f.marks.role == roleReplica && f.marks.epoch == a.GetEpoch()
	}
	delete(w.failures, doIdle)
	return nil
}

// attend tells the neighbours what this replica is now: the cadence that takes
// its snapshots, the board that its followers read, the feed that it follows.
func (w *Worker) attend() {
	if t, ok := w.tracked(); ok {
		w.cfg.Cadence.Set(t)
		w.noticeTracking()
	} else {
		w.cfg.Cadence.Remove(w.cfg.ReplicaID)
		w.postFrozen()
	}
	if w.s.a.GetRole() == tarnv1.Role_ROLE_SECONDARY && w.s.a.GetSource() != nil {
		w.followSource()
	} else {
		w.unfollow()
	}
}

// idle is how long nothing has to be done unless somebody calls.
func (w *Worker) idle(now time.Time) time.Duration {
	wait := maintainEvery
	if w.obstructed() {
		wait = lookAgain
	}
	if w.s.a != nil && w.s.locked() {
		wait = min(wait, keyEvery)
	}
	for k, f := range w.failures {
		if w.s.pulling && (k == doPull || k == doPullStaging) {
			continue
		}
		wait = min(wait, max(0, f.until.Sub(now)))
	}
	return max(wait, time.Millisecond)
}

// backingOff reports an action that failed a moment ago. One that failed in this round
// is not tried again in it, however long looking at everything takes: what stands in
// the way would never be told.
func (w *Worker) backingOff(k kind) bool {
	f := w.failures[k]
	return f != nil && (time.Now().Before(f.until) || f.last.After(w.begun))
}

// act executes one action and remembers how it went.
func (w *Worker) act(ctx context.Context, a action) {
	err := w.execute(ctx, a)
	w.s.changedAt = time.Now()
	if ctx.Err() == nil {
		w.fenced(a.kind, err)
	}
	if err != nil {
		w.stale = true
		if ctx.Err() == nil {
			w.failed(a.kind, err)
		}
		return
	}
	if a.kind != doPull && a.kind != doPullStaging { // begun, not done: what stood in the way may still
		delete(w.failures, a.kind)
	}
	w.log.Debug("did", "action", string(a.kind))
}

// forget drops failures that could have been tried again since begun and were not
// needed any more. A pull that runs has not yet shown if it still fails.
func (w *Worker) forget(begun time.Time) {
	for k, f := range w.failures {
		running := w.s.pulling && (k == doPull || k == doPullStaging)
		if f.until.Before(begun) && !running && k != doPrune { // which comes after the others
			delete(w.failures, k)
		}
	}
}

func (w *Worker) failed(k kind, err error) {
	f := w.failures[k]
	if f == nil {
		f = &failure{}
		w.failures[k] = f
	}
	f.add(err, time.Now())
	code, sentence := explain(k, err)
	w.hooks.Error(code)
	if f.normal() {
		w.log.Debug("waiting", "action", string(k), "err", err)
		return
	}
	w.log.Warn("action failed", "action", string(k), "attempt", f.count, "err", sentence)
}

func (w *Worker) refused(a action) {
	if w.refusal == nil || !errors.Is(w.refusal.err, a.err) {
		w.refusal = &failure{since: time.Now(), err: a.err}
		w.log.Warn("assignment refused", "err", a.err)
	}
	w.code = a.code
}
