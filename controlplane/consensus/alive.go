package consensus

import (
	"context"
	"errors"
	"fmt"
)

// ErrNotAlive says that a part of the node did not go round while it was watched.
var ErrNotAlive = errors.New("no sign of life")

// Alive returns nil once raft's main loop has answered a question that was put after the
// call, and the state machine holds what was committed when it was put: both are at work.
// It says nothing about leadership. It errors with ErrNotAlive when ctx ends before that,
// with ErrNotRunning, or when the log cannot be read.
func (n *Node) Alive(ctx context.Context) error {
	r, err := n.running()
	if err != nil {
		return err
	}
	index := r.CommitIndex()
	// Leaders ask a majority, others refuse: whatever the answer, the main loop gave it. A
	// leader that reaches nobody steps down, and answers then.
	err = n.await(ctx, r.VerifyLeader())
	if errors.Is(err, ErrUnknownOutcome) && ctx.Err() != nil {
		return fmt.Errorf("%w: raft's main loop does not answer", ErrNotAlive)
	}
	command, err := n.lastCommand(index)
	if err != nil {
		return err
	}
	if n.fsm.wait(ctx, command) != nil {
		return fmt.Errorf("%w: the state machine is at entry %d and does not get to %d", ErrNotAlive, n.fsm.applied.Load(), command)
	}
	return nil
}
