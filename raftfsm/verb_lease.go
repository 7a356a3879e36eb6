package raftfsm

import (
	"time"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// maxLeaseWait bounds what is believed of a proposer's configuration, which allows as much.
const maxLeaseWait = time.Hour

// setLeaseWait keeps how long to wait for leases. Raising is harmless. Lowering rests on
// what its proposer has waited out as the leader of one term: a command that it planned then
// and proposes in a later one, after others have granted leases in between, is refused.
func (tx *txn) setLeaseWait(c *raftv1.SetLeaseWait, term uint64) *Error {
	wait := c.GetWait().AsDuration()
	switch {
	case !c.GetWait().IsValid() || wait <= 0 || wait > maxLeaseWait:
		return refuse(InvalidArgument, "wait", "must be more than 0 and at most %s", maxLeaseWait)
	case wait < tx.s.leaseWait && (term == 0 || c.GetLedTerm() != term):
		return refuse(Aborted, "led_term", "the wait of %s was not waited out in this term", tx.s.leaseWait)
	}
	tx.s.leaseWait = wait
	return nil
}
