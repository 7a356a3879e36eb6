package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// verifier lets all who ask at about the same time share one quorum round.
type verifier struct {
	wake chan struct{} // holds one: there is a next round
	mu   sync.Mutex
	next *round
}

// round is one exchange with a majority. It serves those who asked before it began.
type round struct {
	done chan struct{}
	term uint64
	err  error
}

// join returns the round that will begin after this call.
func (v *verifier) join() *round {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.next == nil {
		v.next = &round{done: make(chan struct{})}
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
	return v.next
}

// begin closes the next round to newcomers and returns it, nil if there is none.
func (v *verifier) begin() *round {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.next
	v.next = nil
	return r
}

func (n *Node) runVerify(ctx context.Context, r *raft.Raft) error {
	for {
		select {
		case <-ctx.Done():
			n.finish(n.verify.begin(), 0, ErrNotRunning)
			return nil
		case <-n.verify.wake:
			if next := n.verify.begin(); next != nil {
				term, err := n.verifyOnce(ctx, r)
				n.finish(next, term, err)
			}
		}
	}
}

func (n *Node) finish(r *round, term uint64, err error) {
	if r != nil {
		r.term, r.err = term, err
		close(r.done)
	}
}

// verifyOnce proves that this node led when it was called: a majority, asked
// after the call, was still in its term. raft's own VerifyLeader starts the
// heartbeats and says no early, but its yes may rest on older answers.
func (n *Node) verifyOnce(ctx context.Context, r *raft.Raft) (uint64, error) {
	start := n.acks.begin()
	if r.State() != raft.Leader {
		return 0, n.notLeader()
	}
	term := r.CurrentTerm()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Timeouts.Lease+n.cfg.Timeouts.Election)
	defer cancel()
	if err := n.await(ctx, r.VerifyLeader()); err != nil {
		return 0, n.notLeader()
	}
	if err := n.awaitQuorum(ctx, r, term, start); err != nil {
		return 0, err
	}
	if r.State() != raft.Leader || r.CurrentTerm() != term {
		return 0, n.notLeader()
	}
	return term, nil
}

func (n *Node) awaitQuorum(ctx context.Context, r *raft.Raft, term, start uint64) error {
	for {
		changed := n.acks.changed.wait()
		future := r.GetConfiguration()
		if err := future.Error(); err != nil {
			return fmt.Errorf("read membership: %w", err)
		}
		if n.acks.quorum(future.Configuration().Servers, raft.ServerID(n.cfg.ID), term, start) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return n.notLeader()
		}
	}
}

// VerifyLeader proves that this node was the leader at some moment after the
// call, and returns the term. It costs one round trip to a majority, shared
// with all calls that came before that round began.
// Errors: *NotLeaderError, ErrNotRunning, ctx's.
func (n *Node) VerifyLeader(ctx context.Context) (uint64, error) {
	if _, err := n.running(); err != nil {
		return 0, err
	}
	next := n.verify.join()
	select {
	case <-next.done:
		return next.term, next.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ReadIndex returns when the state machine here holds everything committed
// before the call, and the index that covers it: what is read next is
// linearizable (Ongaro's dissertation 6.4). Leader only; errors as VerifyLeader.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	r, err := n.running()
	if err != nil {
		return 0, err
	}
	ready, err := n.awaitReady(ctx, r)
	if err != nil {
		return 0, err
	}
	// The commit index is taken before the proof that nobody else led by then.
	index := r.CommitIndex()
	term, err := n.VerifyLeader(ctx)
	if err != nil {
		return 0, err
	}
	if term != ready {
		return 0, n.notLeader()
	}
	command, err := n.lastCommand(index)
	if err != nil {
		return 0, err
	}
	return index, n.fsm.wait(ctx, command)
}

// lastCommand returns the index of the last command at or before index. Other
// entries never reach the state machine, so nobody can wait for them.
func (n *Node) lastCommand(index uint64) (uint64, error) {
	var entry raft.Log
	for applied := n.fsm.applied.Load(); index > applied; index-- {
		err := n.logs.GetLog(index, &entry)
		if errors.Is(err, raft.ErrLogNotFound) {
			return 0, nil // compacted into a snapshot, which is applied
		}
		if err != nil {
			return 0, fmt.Errorf("read log entry %d: %w", index, err)
		}
		if entry.Type == raft.LogCommand {
			return index, nil
		}
	}
	return index, nil
}
