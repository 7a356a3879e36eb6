package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	"tarn/cmd/tarn/filetree"
	tarnv1 "tarn/proto/tarn/v1"
)

const restartShares = 4

// Everything is stopped, politely and by kill -9, and started again: records and
// bytes are still there, and what replicates goes on by increment.
func TestRestart(t *testing.T) {
	c := start(t, dev.Options{Servers: 3, Agents: 3, Zones: 2})
	c.shareType("gold", "30s")
	c.createShares(restartShares)
	c.eventually(time.Minute, "shares are available", func(ctx context.Context) error { return c.allWell(ctx, restartShares) })
	size := c.fillActives()
	c.createReplicas()
	c.eventually(2*time.Minute, "replicas are in_sync", func(ctx context.Context) error { return c.allWell(ctx, 2*restartShares) })
	c.eventually(time.Minute, "copies are equal", c.copiesAreEqual)
	for _, r := range []struct {
		how  string
		stop func()
	}{
		{"SIGTERM", func() {
			if err := c.TerminateAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"kill -9", func() { c.killAll() }},
		{"kill -9 of the agents only", func() { c.killAll(dev.Agent) }},
		{"kill -9 of the control plane only", func() { c.killAll(dev.Control) }},
	} {
		t.Run(r.how, func(t *testing.T) { c.in(t).restart(r.stop, size) })
	}
}

func (c *cluster) fillActives() (size int64) {
	c.t.Helper()
	replicas, err := c.replicas(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for i, r := range replicas {
		tree := filetree.New(uint64(i))
		if err := tree.Fill(r.GetObserved().GetMountpoint()); err != nil {
			c.t.Fatal(err)
		}
		size += tree.Bytes
	}
	return size
}

// restart stops, starts, compares, and looks at what was moved since.
func (c *cluster) restart(stop func(), size int64) {
	t := c.t
	before, err := c.facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	moved := c.received()
	stop()
	began := time.Now()
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	c.eventually(time.Minute, "everything is well again", func(ctx context.Context) error { return c.allWell(ctx, 2*restartShares) })
	t.Logf("all replicas well %s after the start", time.Since(began).Round(time.Millisecond))
	c.eventually(30*time.Second, "the records are the same", func(ctx context.Context) error {
		after, err := c.facts(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("%s", firstDifference(before, after))
		}
		return err
	})
	c.eventually(30*time.Second, "copies are equal", c.copiesAreEqual)
	c.appendEach(began)
	c.eventually(30*time.Second, "new files arrive", c.copiesAreEqual)
	after := c.received()
	for agent := range after {
		// A process that was started again counts from zero.
		if n := after[agent] - moved[agent]; n > float64(size)/10 {
			t.Errorf("%s received %.0f bytes after the restart; all shares together have %d", agent, n, size)
		}
	}
}

// received are the bytes that each agent's process has received.
func (c *cluster) received() map[string]float64 {
	c.t.Helper()
	out := map[string]float64{}
	for _, n := range c.Nodes() {
		if n.Kind == dev.Agent {
			out[n.Name] = sumOf(c.scrape(n.Name), "tarn_transfer_bytes_total", `direction="receive"`)
		}
	}
	return out
}

func (c *cluster) appendEach(stamp time.Time) {
	t := c.t
	t.Helper()
	replicas, err := c.replicas(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range replicas {
		if r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
			continue
		}
		name := fmt.Sprintf("after-%d", stamp.UnixNano())
		c.eventually(time.Minute, name+" in share "+r.GetShareId(), func(context.Context) error {
			return writeDurably(r.GetObserved().GetMountpoint(), name, letter(r.GetShareId()))
		})
	}
}

// copiesAreEqual compares each share's replicas with its active, byte for byte.
func (c *cluster) copiesAreEqual(ctx context.Context) error {
	replicas, err := c.replicas(ctx)
	if err != nil {
		return err
	}
	actives := map[string]string{}
	for _, r := range replicas {
		if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
			actives[r.GetShareId()] = r.GetObserved().GetMountpoint()
		}
	}
	for _, r := range replicas {
		dir := r.GetObserved().GetMountpoint()
		if dir == "" || actives[r.GetShareId()] == "" {
			return fmt.Errorf("replica %s of %s is not mounted", r.GetId(), r.GetShareId())
		}
		diff, n, err := filetree.Difference(actives[r.GetShareId()], dir)
		if err != nil {
			return err
		}
		if len(diff) > 0 || n < 40 {
			return fmt.Errorf("replica in %s of %d entries differs: %v", filepath.Base(dir), n, diff)
		}
	}
	return nil
}
