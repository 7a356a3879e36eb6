package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

var (
	// ErrUnknownOutcome means that a proposal may or may not be committed, now or
	// later. The caller repeats it with the same id or reads after a Barrier.
	ErrUnknownOutcome = errors.New("outcome of the proposal is unknown")
	// ErrNotRunning means that Run has not started or has ended.
	ErrNotRunning = errors.New("consensus is not running")
	// ErrBusy means that the proposal was not accepted in time; it is not and
	// will not be committed.
	ErrBusy = errors.New("log does not accept proposals in time")
	// ErrRemoved means that this server was removed from the cluster. It can only
	// come back with an empty directory and a new id.
	ErrRemoved = errors.New("server was removed from the cluster")
	// ErrTorn means that the data directory has lost or damaged part of what it
	// once held. Starting from it could break promises that others rely on.
	ErrTorn = errors.New("consensus data directory is damaged")
	// ErrStoreStuck means that a write to the log took longer than
	// Timeouts.Store. The process must exit at once, without waiting for it.
	ErrStoreStuck = errors.New("write to the consensus log is stuck")
	// ErrStoreFailed means that a write to the log, the term or the vote failed. Nothing
	// is written after it; the process must end and be started again when the disk is
	// well.
	ErrStoreFailed = errors.New("write to the consensus log failed")
	// ErrConflict means that a change of membership contradicts the present one.
	ErrConflict = errors.New("membership conflict")
)

// NotLeaderError says that only the leader can do this, and who it is as far as
// this node knows.
type NotLeaderError struct {
	LeaderID   string // empty if unknown
	LeaderAddr string // empty if unknown
	Term       uint64 // this node's current term
}

// Error implements error.
func (e *NotLeaderError) Error() string {
	if e.LeaderID == "" {
		return fmt.Sprintf("not the leader; none is known in term %d", e.Term)
	}
	return fmt.Sprintf("not the leader; in term %d it is %s at %s", e.Term, e.LeaderID, e.LeaderAddr)
}

func (n *Node) notLeader() error {
	id, addr, term := n.Leader()
	return &NotLeaderError{LeaderID: id, LeaderAddr: addr, Term: term}
}

// outcome translates what raft says of a proposal. Only answers that raft gives
// before the entry reaches its log may say that nothing happened.
func (n *Node) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return n.notLeader()
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrBusy
	default:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
}
