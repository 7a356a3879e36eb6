package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"tarn/controlplane/consensus"
	"tarn/controlplane/reconcile"
	raftv1 "tarn/proto/tarn/raft/v1"
)

const (
	// hashEvery entries the leader writes down what its state hashes to, so that a
	// node that differs finds out (reliability.md 2.3). Below raftfsm's memory of
	// hashes, or no node could compare.
	hashEvery = 512
	hashCheck = 10 * time.Second
)

func (n *Node) openLeader() error {
	var err error
	n.loop, err = reconcile.NewLoop(reconcile.Config{
		State:    n.fsm,
		Proposer: n.commands,
		Soft:     n.soft,
		Leases:   n.leases,
		Policy:   n.policy(),
		NewID:    newID,
		Logger:   n.log,
		Promoted: n.failedOver,
		Observe: func(took time.Duration, _ int) {
			n.counters.ReconcileDuration.WithLabelValues().Observe(took.Seconds())
		},
	})
	return err
}

func (n *Node) policy() reconcile.Policy {
	policy := reconcile.DefaultPolicy()
	policy.LeaseWait = n.cfg.Lease.Wait
	policy.Stonith = stonithRules(n.cfg.Stonith)
	return policy
}

// lead is the leader's work of one term.
func (n *Node) lead(ctx context.Context, term uint64) error {
	n.log.Info("this node leads", "term", term)
	now := time.Now()
	// Grants of earlier leaders are unknown: every host may have had one just now.
	n.leases.Lead(now)
	n.soft.Lead(now)
	if err := n.initCluster(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.gate.run(ctx, n.decide) })
	group.Go(func() error { return n.keepLeaseWait(ctx, term, now) })
	group.Go(func() error { return n.loop.Run(ctx) })
	group.Go(func() error { return n.compareHashes(ctx) })
	group.Go(func() error { return n.keeper.lead(ctx) })
	if len(n.cfg.Stonith) > 0 {
		group.Go(func() error { return n.switchOff(ctx) })
	}
	err := group.Wait()
	// What agents said is old from now on; a stale read must not show it as news.
	n.soft.Lead(time.Now())
	// Nor may the grants of this term be taken for all there were when it leads again: requests
	// are answered from the moment that the next term begins, before its lead is called.
	n.leases.Lead(time.Time{})
	n.log.Info("this node no longer leads", "term", term)
	return err
}

// initCluster writes the cluster's name into a new log, and refuses a log of another.
func (n *Node) initCluster(ctx context.Context) error {
	mine := n.material.Identity().Cluster
	switch stored := n.fsm.View().ClusterID(); stored {
	case mine:
		return nil
	case "":
		return n.decide(ctx, &raftv1.Command{Verb: &raftv1.Command_InitCluster{
			InitCluster: &raftv1.InitCluster{ClusterId: mine},
		}})
	default:
		err := fmt.Errorf("the log is of cluster %q, this node's certificate of %q", stored, mine)
		n.consensus.Fail(err)
		return err
	}
}

// decide proposes a command of the leader's own and returns its refusal as an error.
func (n *Node) decide(ctx context.Context, cmd *raftv1.Command) error {
	result, err := n.commands.Propose(ctx, cmd)
	if err != nil {
		return err
	}
	if result.Err != nil {
		return result.Err
	}
	return nil
}

// compareHashes makes every node check its state against the leader's: once in every
// leadership, which covers what was restored or replayed at a start, then every
// hashEvery entries.
func (n *Node) compareHashes(ctx context.Context) error {
	ticker := time.NewTicker(hashCheck)
	defer ticker.Stop()
	last, first := n.fsm.View().Index(), true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		v := n.fsm.View()
		if v.Index()-last < hashEvery && !first {
			continue
		}
		_, err := n.commands.Propose(ctx, &raftv1.Command{Verb: &raftv1.Command_CheckHash{
			CheckHash: &raftv1.CheckHash{Index: v.Index(), Hash: v.Hash()},
		}})
		if _, gone := errors.AsType[*consensus.NotLeaderError](err); gone {
			return nil
		}
		if err == nil {
			last, first = v.Index(), false
		}
	}
}

// newID returns a version 7 UUID; a random one if the clock gives none.
func newID() string {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.NewString()
	}
	return id.String()
}
