package controlplane_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"tarn/controlplane"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestLeasesOfAnotherLengthAreWaitedFor: the nodes of a cluster are restarted one by one
// with shorter leases. The first one that leads so waits for the long ones of its
// predecessor, and waits less once none can be left.
func TestLeasesOfAnotherLengthAreWaitedFor(t *testing.T) {
	const long, short = 4 * time.Second, 1500 * time.Millisecond
	leases := func(wait time.Duration) controlplane.LeaseConfig {
		return controlplane.LeaseConfig{
			Duration: wait / 3, Wait: wait, Renew: 50 * time.Millisecond, Margin: 100 * time.Millisecond, Enforcement: 100 * time.Millisecond,
		}
	}
	h := newHarness(t, 3, func(c *controlplane.Config) { c.Lease = leases(long) })
	op, user := h.operator(), h.member("blue")
	says := func(wait time.Duration) {
		t.Helper()
		h.await("the status to say "+wait.String(), func() bool {
			s, err := op.Operator.GetStatus(context.Background(), &tarnv1.GetStatusRequest{})
			return err == nil && s.GetLeaseWait().AsDuration() == wait
		})
	}
	says(long)
	one := h.agent("one", "az1")
	h.agent("two", "az2")
	_, replica := h.mirrored(op, user)

	restart := func(n *runningNode) {
		t.Helper()
		cfg := n.cfg
		cfg.Lease, cfg.Socket, cfg.AdminSocket = leases(short), again(t, cfg.Listen), socket(t)
		h.nodes = slices.DeleteFunc(h.nodes, func(other *runningNode) bool { return other == n })
		h.start(cfg)
	}
	leader := h.leader()
	for _, n := range slices.Clone(h.nodes) {
		if n != leader {
			n.stop(t)
			restart(n)
		}
	}
	one.die()
	leads := time.Now()
	leader.stop(t)
	h.leader()
	if _, err := op.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{
		Id: replica.GetId(), Force: true, Consent: &tarnv1.Consent{Reason: "one is silent"},
	}); err != nil {
		t.Fatal(err)
	}
	h.awaitReplica(user, replica.GetId(), tarnv1.ReplicaState_REPLICA_STATE_ACTIVE)
	if waited := time.Since(leads); waited < long {
		t.Errorf("leases that may last %s were taken for ended %s after the leader that granted them", long, waited)
	}
	says(short)
	restart(leader)
}
