package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"golang.org/x/sync/errgroup"
)

// Node is one server of the replicated log. Its methods may be called at any
// time from any goroutine; before Run has begun and after it has ended they
// give ErrNotRunning.
type Node struct {
	cfg    Config
	fsm    *trackedFSM
	acks   *ackTable
	raft   atomic.Pointer[raft.Raft]
	logs   raft.LogStore         // set before raft is
	disk   *raftboltdb.BoltStore // likewise
	trans  transport             // set before raft is
	fatal  chan error            // holds at most one
	lead   leadState
	verify verifier
	found  founding
	change sync.Mutex // one membership change at a time
}

// Open checks the configuration and the data directory and returns a node that
// does nothing until Run. A directory that must not be started from gives
// ErrTorn, ErrRemoved or ErrConflict.
func Open(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := checkDir(cfg.Dir, cfg.ID); err != nil {
		return nil, fmt.Errorf("open consensus: %w", err)
	}
	n := &Node{
		cfg:   cfg,
		fsm:   &trackedFSM{inner: cfg.FSM, self: cfg.ID},
		acks:  newAckTable(),
		fatal: make(chan error, 1),
	}
	n.verify.wake = make(chan struct{}, 1)
	n.found.known = map[string]Server{}
	return n, nil
}

// Run takes part in the cluster until ctx ends (then it returns nil) or the node
// can no longer do so safely. It may be called once. After ErrStoreStuck and
// ErrStoreFailed it may not have waited for raft, and the process must exit.
func (n *Node) Run(ctx context.Context) error {
	store, err := openStorage(n.cfg, n.Fail)
	if err != nil {
		return errors.Join(err, n.cfg.Stream.Close())
	}
	r, err := n.start(store)
	if err != nil {
		return errors.Join(err, n.cfg.Stream.Close(), store.db.Close())
	}
	err = n.serve(ctx, r, store)
	switch {
	case errors.Is(err, ErrStoreStuck):
		return err
	case errors.Is(err, ErrStoreFailed):
		return errors.Join(err, n.abandon(r, store))
	}
	return errors.Join(err, n.stop(r, store))
}

// abandonWait bounds the end of a node whose disk fails.
const abandonWait = 5 * time.Second

func (n *Node) abandon(r *raft.Raft, store *storage) error {
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop(r, store) }()
	timer := time.NewTimer(abandonWait)
	defer timer.Stop()
	select {
	case err := <-stopped:
		return err
	case <-timer.C:
		return nil
	}
}

// Fail makes Run end with err: for a state machine that must not go on. It
// never blocks; the first error counts.
func (n *Node) Fail(err error) {
	select {
	case n.fatal <- err:
	default:
	}
}

func (n *Node) start(store *storage) (*raft.Raft, error) {
	rc := n.cfg.raftConfig()
	n.logs, n.disk = store.logs, store.db
	n.trans = transport{acks: n.acks, NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  n.cfg.Stream,
		MaxPool:                 3,
		Timeout:                 10 * time.Second,
		Logger:                  rc.Logger,
		MsgpackUseNewTimeFormat: true,
	})}
	r, err := newRaft(rc, n.fsm, store, n.trans)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start raft: %w", err), n.trans.Close())
	}
	n.raft.Store(r)
	return r, nil
}

// newRaft gives an error where raft panics: a term or an entry that the disk does not
// take or give back.
func newRaft(rc *raft.Config, fsm raft.FSM, store *storage, trans raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrStoreFailed, p)
		}
	}()
	r, err = raft.NewRaft(rc, fsm, store.logs, store.stable, store.snaps, trans)
	store.runs.Store(err == nil)
	return r, err
}

func (n *Node) serve(ctx context.Context, r *raft.Raft, store *storage) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.runLeadership(ctx, r) })
	g.Go(func() error { return n.runVerify(ctx, r) })
	g.Go(func() error { return n.runMembership(ctx, r) })
	g.Go(func() error { return n.runSelfCheck(ctx, store.snaps) })
	g.Go(func() error {
		select {
		case err := <-n.fatal:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// stop shuts raft down before the transport: connections are released last.
func (n *Node) stop(r *raft.Raft, store *storage) error {
	err := r.Shutdown().Error()
	n.trans.CloseStreams()
	n.raft.Store(nil)
	return errors.Join(err, n.trans.Close(), store.db.Close())
}

// running returns raft, or ErrNotRunning.
func (n *Node) running() (*raft.Raft, error) {
	if r := n.raft.Load(); r != nil {
		return r, nil
	}
	return nil, ErrNotRunning
}

// ID returns this server's identity.
func (n *Node) ID() string { return n.cfg.ID }

// Leader returns the leader as far as this node knows (empty if unknown) and the
// current term. A hint: only VerifyLeader and ReadIndex prove anything.
func (n *Node) Leader() (id, addr string, term uint64) {
	r, err := n.running()
	if err != nil {
		return "", "", 0
	}
	a, i := r.LeaderWithID()
	return string(i), string(a), r.CurrentTerm()
}

// IsLeader tells whether this node believes it leads and is ready to serve
// reads. A hint, as with Leader.
func (n *Node) IsLeader() bool {
	r, err := n.running()
	return err == nil && r.State() == raft.Leader && n.lead.ready.Load() == r.CurrentTerm()
}

// AppliedIndex returns the index up to which the state machine has applied.
func (n *Node) AppliedIndex() uint64 { return n.fsm.applied.Load() }

// WaitApplied blocks until the state machine has applied index, which must be
// the index of a proposal (other entries never reach it), or ctx ends.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	return n.fsm.wait(ctx, index)
}

// Propose appends data to the log and waits until it is committed and applied
// here. It returns what the state machine's Apply returned, and the index.
//
// Errors: *NotLeaderError and ErrBusy mean that nothing happened,
// ErrUnknownOutcome (also when ctx ends while waiting) that it may have.
func (n *Node) Propose(ctx context.Context, data []byte) (any, uint64, error) {
	r, err := n.running()
	if err != nil {
		return nil, 0, err
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	future := r.Apply(data, patience(ctx))
	if err := n.await(ctx, future); err != nil {
		return nil, 0, err
	}
	return future.Response(), future.Index(), nil
}

// Barrier returns when everything committed before it is applied here. Leader
// only; errors as Propose.
func (n *Node) Barrier(ctx context.Context) error {
	r, err := n.running()
	if err != nil {
		return err
	}
	return n.await(ctx, r.Barrier(patience(ctx)))
}

// enqueueWait bounds the wait for room in raft's queue when the caller has no
// deadline.
const enqueueWait = 5 * time.Second

func patience(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return enqueueWait
	}
	return max(time.Millisecond, min(enqueueWait, time.Until(deadline)))
}

// await waits for a future or for ctx. raft answers every future at the latest
// when it shuts down, so the goroutine left behind by ctx ends too.
func (n *Node) await(ctx context.Context, future raft.Future) error {
	if ctx.Done() == nil {
		return n.outcome(future.Error())
	}
	done := make(chan error, 1)
	go func() { done <- future.Error() }()
	select {
	case err := <-done:
		return n.outcome(err)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
}
