package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"tarn/agent/keys"
	"tarn/agent/lease"
	"tarn/agent/replicate"
	"tarn/agent/stream"
	"tarn/controlplane/identity"
	"tarn/metrics"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Agent is one storage host's part in the cluster. Make it with New, Run it once.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	hostID   string
	session  string
	material *identity.Material
	revoked  *identity.Revocations // whom no port and no call of this host accepts

	storage Storage
	sync    func(pool string) func(context.Context) error // how to make a listing exact
	able    atomic.Pointer[zfs.Capabilities]              // of the storage; nil: not known yet
	control ControlPlane
	hangUp  func() // ends the connections that New prepared
	// dropControl cuts those to a control-plane node, and returns how many that were.
	dropControl func(id string) int
	exports     Exporter
	keys        *keys.Store // nil: the storage cannot encrypt
	keeper      *lease.Keeper
	only        *only
	deadman     *lease.Deadman // nil: nothing enforces the lease
	board       *stream.Board
	server      *stream.Server
	door        *stream.Door // nil: streams leave inside TLS only
	client      *stream.Client
	callers     *identity.Admission // of the port for other agents
	feed        *stream.Feed
	cadences    map[string]*replicate.Cadence // by pool
	surveys     map[string]*replicate.Survey  // by pool
	workers     *workers
	reports     *reports
	pools       *pools
	damages     *damages
	orphans     *orphans
	purges      *purges
	pulses      *pulses
	ring        *ringPart // nil: no gossip
	registry    *prometheus.Registry
	counters    *metrics.Agent

	revision         atomic.Uint64 // of the assignments acted on
	contact          atomic.Int64  // when the control plane last answered, for display
	registered       atomic.Bool   // at least once in this life
	announceKick     chan struct{}
	sweepKick        chan struct{}
	heardAssignments sync.Once
	assigned         chan struct{} // closed when the first assignments are acted on
}

// New checks cfg (after Defaults), opens the storage and prepares everything; it
// starts nothing and calls nobody. The Agent holds the storage's lock from here
// on: end it with Run, or with Close if Run is never called.
func New(cfg Config) (*Agent, error) {
	cfg = cfg.Defaults()
	if problems := cfg.Validate(); len(problems) > 0 {
		return nil, fmt.Errorf("configuration: %w", errors.Join(problems...))
	}
	a := &Agent{
		cfg: cfg, log: cfg.Logger, sweepKick: make(chan struct{}, 1), announceKick: make(chan struct{}, 1), assigned: make(chan struct{}),
		board: stream.NewBoard(), hangUp: func() {}, pulses: newPulses(cfg),
	}
	if a.log == nil {
		a.log = cfg.Log.New(os.Stderr)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	session, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make session id: %w", err)
	}
	a.session = session.String()
	if err := a.build(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// build makes the parts in the order in which they need each other.
func (a *Agent) build() error {
	a.registry = metrics.NewRegistry(metrics.Build{Version: a.cfg.Version, Revision: a.cfg.Revision, GoVersion: runtime.Version()})
	a.counters = metrics.NewAgent(a.registry)
	for _, part := range []func() error{
		a.buildIdentity, a.buildRevocations, a.buildStorage, a.buildKeys, a.buildControl, a.buildExports, a.buildLease,
		a.buildStream, a.buildCadences, a.buildWorkers, a.buildGossip,
	} {
		if err := part(); err != nil {
			return err
		}
	}
	metrics.RegisterLocal(a.registry, a.local)
	return nil
}

func (a *Agent) buildIdentity() (err error) {
	if a.material, err = loadIdentity(a.cfg); err != nil {
		return err
	}
	a.hostID = a.material.Identity().ID
	a.log = a.log.With("agent", a.cfg.Name)
	a.only, err = openOnly(a.cfg.DataDir, a.cfg.Machine)
	return err
}

func (a *Agent) buildStorage() error {
	engine, err := openStorage(a.cfg, a.log)
	if err != nil {
		return err
	}
	a.sync = func(pool string) func(context.Context) error { return syncing(engine, pool) }
	a.storage = measured{Storage: engine, commands: a.counters.StorageCommands, durations: a.counters.StorageCommandDuration}
	return nil
}

// buildKeys opens the directory of keys where the storage has a use for it.
func (a *Agent) buildKeys() (err error) {
	if a.cfg.Storage != StorageDir {
		a.keys, err = keys.Open(a.cfg.Encryption.KeyDir)
	}
	return err
}

func (a *Agent) buildLease() (err error) {
	var guard lease.Guard
	if len(a.cfg.DeadmanCommand) > 0 || a.cfg.Helper.Socket != "" {
		// A helper with root's rights goes by its own configuration.
		if a.cfg.Helper.Socket == "" {
			if err := lease.Configure(a.cfg.DataDir, a.cfg.Fence.backing()); err != nil {
				return err
			}
		}
		a.deadman, err = lease.NewDeadman(lease.DeadmanConfig{
			Command: append(slices.Clone(a.cfg.DeadmanCommand), a.cfg.DataDir), Start: a.cfg.Helper.startDeadman(),
			Fenced: a.fenced, Changed: func() { a.reports.soon() }, Logger: a.log,
		})
		if err != nil {
			return err
		}
		guard = a.deadman
	} else {
		a.log.Warn("no dead-man helper: the end of a lease proves nothing, forced promotions need an operator's word")
	}
	a.keeper, err = lease.NewKeeper(lease.Config{
		HostID: a.hostID, SessionID: a.session, Renewer: a.control, Guard: guard,
		Every: a.cfg.Lease.Renew, Margin: a.cfg.Lease.Margin, Logger: a.log,
		Beat: a.pulses.turn, AnotherLife: a.anotherLife,
		Renewed: func(result string) { a.counters.LeaseRenewals.WithLabelValues(result).Inc() },
		Moved: func(gained, lost int) {
			a.counters.LeaseTransitions.WithLabelValues("gained").Add(float64(gained))
			a.counters.LeaseTransitions.WithLabelValues("lost").Add(float64(lost))
		},
	})
	return err
}

// fenced hears what the dead-man did: the worker has to look again.
func (a *Agent) fenced(target lease.Target, err error) {
	a.countFence("deadman", err)
	a.log.Warn("dead-man acted at the end of a lease", "dataset", target.Dataset, "err", err)
	a.workers.recheck(target.Dataset)
}

// countFence counts an action that ended a right to write, or should have.
func (a *Agent) countFence(action string, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	a.counters.FenceActions.WithLabelValues(action, result).Inc()
}

func (a *Agent) buildCadences() error {
	a.cadences, a.surveys = map[string]*replicate.Cadence{}, map[string]*replicate.Survey{}
	for _, p := range a.cfg.Pools {
		cadence, err := replicate.NewCadence(replicate.CadenceConfig{
			Engine: a.storage, Root: a.root(p.Name), Board: a.board, Logger: a.log, Sync: a.sync(p.Name),
		})
		if err != nil {
			return err
		}
		a.cadences[p.Name] = cadence
		a.surveys[p.Name] = replicate.NewSurvey(a.storage, a.root(p.Name))
	}
	return nil
}

func (a *Agent) buildWorkers() error {
	a.workers = &workers{
		make: a.newWorker, refused: a.refuse, log: a.log, units: map[string]*unit{},
		ended: func(error) { a.counters.WorkerRestarts.WithLabelValues("error").Inc() },
	}
	roots := map[string]string{}
	for _, p := range a.cfg.Pools {
		roots[p.Name] = a.root(p.Name)
	}
	a.pools = &pools{
		inventory: a.storage, every: a.cfg.ReportInterval, prepare: a.preparePool, changed: a.poolsChanged, log: a.log,
		prepared: map[string]zfs.GUID{},
	}
	for _, p := range a.cfg.Pools {
		a.pools.names = append(a.pools.names, p.Name)
	}
	a.damages = &damages{storage: a.storage, pools: a.pools.names, log: a.log}
	a.orphans = &orphans{storage: a.storage, exports: a.exports, roots: roots, assigned: a.assignedDatasets, taken: a.isAssigned, revision: a.revision.Load, log: a.log}
	a.reports = newReports(a.cfg.ReportInterval)
	a.reports.turn = func() { a.pulses.turn(loopReports) }
	a.reports.host, a.reports.session, a.reports.class = a.hostID, a.session, a.fencedBy
	a.reports.pools, a.reports.live = a.pools.status, a.workers.report
	a.reports.inquiries = newInquiries(a.answer, a.reports.soon)
	a.purges = newPurges(a.purge, func(result string) { a.counters.Purges.WithLabelValues(result).Inc() }, a.reports.soon, a.log)
	a.reports.purges, a.reports.orphans = a.purges.reports, a.orphans.tell
	a.reports.gossip, a.reports.obey = func() *tarnv1.GossipState { return a.ring.state() }, a.obeyGossip
	a.reports.revoked, a.reports.revoke = a.revoked.Digest, a.revoke
	a.reports.failed = func(err error) { a.log.Warn("report was not taken", "err", err) }
	a.reports.send = func(ctx context.Context, req *tarnv1.ReportRequest) (*tarnv1.ReportResponse, error) {
		return call(ctx, a, "Report", callTimeout, a.control.Report, req)
	}
	return nil
}

func (a *Agent) newWorker(as *tarnv1.Assignment) (*replicate.Worker, error) {
	cadence := a.cadences[as.GetPool()]
	if cadence == nil {
		return nil, fmt.Errorf("host has no pool %q", as.GetPool())
	}
	// Nothing is made on a pool before the datasets above the replicas are what they have to be.
	if err := a.pools.unprepared(as.GetPool()); err != nil {
		return nil, err
	}
	var keyFiles replicate.Keys
	if a.keys != nil {
		keyFiles = a.keys
	}
	able := a.able.Load()
	if able == nil {
		return nil, fmt.Errorf("what the storage can do is not known yet: %w", zfs.ErrPoolUnavailable)
	}
	return replicate.NewWorker(replicate.Config{
		ReplicaID: as.GetReplicaId(), ShareID: as.GetShareId(), Pool: as.GetPool(), Base: a.cfg.Base,
		Engine: a.storage, Source: limited{a.client, int64(a.cfg.Stream.RateLimit)}, Feed: a.feed, Board: a.board, Cadence: cadence, Survey: a.surveys[as.GetPool()],
		Keys: keyFiles, Damage: a.damages.of, Exports: a.exports, Lease: a.keeper, Publish: a.publish, Settle: a.server.Settle, Hooks: a.hooks(), Logger: a.log,
		Lacks: replicate.LacksOf(*able), Can: able.StreamFlags(),
	})
}

// publish passes on a worker's report, and lets the dead-man forget what cannot
// be written here any more.
func (a *Agent) publish(r *tarnv1.ReplicaReport) {
	if replicate.Harmless(r) {
		if as := a.workers.assignment(r.GetReplicaId()); as != nil {
			a.keeper.Settled(a.target(as))
		}
	}
	a.reports.publish(r)
}

// refuse reports an assignment that no worker can follow.
func (a *Agent) refuse(as *tarnv1.Assignment, err error) {
	a.reports.publish(&tarnv1.ReplicaReport{
		ReplicaId: as.GetReplicaId(), ShareId: as.GetShareId(), LagBytes: -1, DirtyBytes: -1,
		Error: &tarnv1.ReplicaError{Code: tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_POOL_UNAVAILABLE, Message: err.Error(), Retrying: true},
	})
}

func (a *Agent) hooks() replicate.Hooks {
	c := a.counters
	return replicate.Hooks{
		Step: func(share, replica, kind, result string) {
			c.Steps.WithLabelValues(share, replica, kind, result).Inc()
			a.reports.step(replica, result)
		},
		Phase: func(phase string, took time.Duration) { c.StepPhase.WithLabelValues(phase).Observe(took.Seconds()) },
		Bytes: func(share, replica string, n int64) {
			c.TransferBytes.WithLabelValues(share, replica, "receive").Add(float64(n))
		},
		Discarded:   func(reason string, n int64) { c.ResumeDiscarded.WithLabelValues(reason).Add(float64(n)) },
		Error:       func(code tarnv1.ReplicaErrorCode) { c.StepErrors.WithLabelValues(errorClass(code)).Inc() },
		Fence:       a.countFence,
		Holds:       a.reports.holds,
		Retained:    a.reports.retained,
		StaleHolds:  func(n int) { c.StaleHolds.WithLabelValues().Add(float64(n)) },
		Pruned:      func(side string, n int) { c.PruneDestroyed.WithLabelValues(side, "retention").Add(float64(n)) },
		PruneFailed: func(side, reason string) { c.PruneFailed.WithLabelValues(side, reason).Inc() },
		Diverged:    func(share string) { c.Divergences.WithLabelValues(share).Inc() },
	}
}

// root is the dataset above all replicas of a pool.
func (a *Agent) root(pool string) string { return path.Join(pool, a.cfg.Base) }

// pool is the configuration of one; ok is false if the host has none of that name.
func (a *Agent) pool(name string) (p PoolConfig, ok bool) {
	for _, p := range a.cfg.Pools {
		if p.Name == name {
			return p, true
		}
	}
	return PoolConfig{}, false
}

// HostID is the host's identity, of the certificate.
func (a *Agent) HostID() string { return a.hostID }

// Registry holds the agent's metrics.
func (a *Agent) Registry() *prometheus.Registry { return a.registry }

// Ready returns nil while assignments have been received and can be acted on: every
// pool is there, and no other life of the host goes on.
func (a *Agent) Ready() error {
	if a.only.isOver() {
		return fmt.Errorf("%w: %s", ErrAnotherLife, a.only.whatNow())
	}
	if !a.heard() {
		return errors.New("no assignments received from the control plane yet")
	}
	return a.pools.err()
}

// heard reports that assignments have been received.
func (a *Agent) heard() bool {
	select {
	case <-a.assigned:
		return true
	default:
		return false
	}
}

// Close releases the storage of an Agent that will not Run.
func (a *Agent) Close() error {
	a.hangUp()
	if a.storage == nil {
		return nil
	}
	return a.storage.Close()
}
