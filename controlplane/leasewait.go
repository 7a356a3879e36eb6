package controlplane

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// keepLeaseWait has the log say how long leases of this leader are to be waited for (see
// reconcile.Policy.WaitDue). since is when its term, or its latest attempt at it, began.
func (n *Node) keepLeaseWait(ctx context.Context, term uint64, since time.Time) error {
	policy := n.policy()
	for ctx.Err() == nil {
		v := n.fsm.View()
		due, after := policy.WaitDue(v, time.Since(since))
		if !due {
			awaitChange(ctx, v.Changed(), after)
			continue
		}
		n.log.Info("leases: the log's wait changes to this node's lease.wait", "from", v.LeaseWait(), "to", policy.LeaseWait)
		if err := n.decide(ctx, &raftv1.Command{Verb: &raftv1.Command_SetLeaseWait{
			SetLeaseWait: &raftv1.SetLeaseWait{Wait: durationpb.New(policy.LeaseWait), LedTerm: term},
		}}); err != nil {
			return err
		}
	}
	return nil
}

// awaitChange waits for a change, or for d unless that is 0.
func awaitChange(ctx context.Context, changed <-chan struct{}, d time.Duration) {
	var late <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-late:
	}
}
