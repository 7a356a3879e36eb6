package consensus

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
)

// leadPause is how long the leader's work rests after it failed.
const leadPause = time.Second

// leadState says in which term this node has become able to serve reads.
type leadState struct {
	ready   atomic.Uint64
	changed signal
	changes atomic.Uint64 // elections won since start
}

// runLeadership runs the leader's work whenever this node leads, never twice at
// a time. raft tells the latest state only: "true" twice means lost and won
// again, and both times the old work is ended first.
func (n *Node) runLeadership(ctx context.Context, r *raft.Raft) error {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case leads := <-r.LeaderCh():
			stop()
			stop = func() {}
			n.lead.changed.fire()
			if leads {
				stop = n.startLead(ctx, r)
			}
		}
	}
}

// startLead begins the leader's work and returns what ends it and waits.
func (n *Node) startLead(ctx context.Context, r *raft.Raft) (stop func()) {
	n.lead.changes.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.leadTerm(ctx, r)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (n *Node) leadTerm(ctx context.Context, r *raft.Raft) {
	for ctx.Err() == nil {
		err := n.leadOnce(ctx, r)
		if ctx.Err() != nil {
			return
		}
		n.cfg.Logger.Warn("leader's work failed, it will be tried again", "term", r.CurrentTerm(), "err", err)
		pause(ctx, leadPause)
	}
}

func (n *Node) leadOnce(ctx context.Context, r *raft.Raft) error {
	term := r.CurrentTerm()
	if err := n.Barrier(ctx); err != nil {
		return fmt.Errorf("wait for earlier entries: %w", err)
	}
	if r.State() != raft.Leader || r.CurrentTerm() != term {
		return n.notLeader()
	}
	n.lead.ready.Store(term)
	n.lead.changed.fire()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.runPromotions(ctx, r, term) })
	if n.cfg.Lead != nil {
		g.Go(func() error { return n.cfg.Lead(ctx, term) })
	}
	return g.Wait()
}

// LeadTerm returns the term that this node leads: it has won it, and has applied
// all that came before, which a commit of its own in that term has proved. It
// waits for that if the election was just now. *NotLeaderError if it does not lead.
func (n *Node) LeadTerm(ctx context.Context) (uint64, error) {
	r, err := n.running()
	if err != nil {
		return 0, err
	}
	return n.awaitReady(ctx, r)
}

// awaitReady returns the term once this node leads it and has applied all that
// came before; *NotLeaderError if it does not lead.
func (n *Node) awaitReady(ctx context.Context, r *raft.Raft) (uint64, error) {
	for {
		changed := n.lead.changed.wait()
		if r.State() != raft.Leader {
			return 0, n.notLeader()
		}
		if term := r.CurrentTerm(); n.lead.ready.Load() == term {
			return term, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// pause waits for d or for ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
