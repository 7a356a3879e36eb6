package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

// A follower is lost and returns, then the leader: what is committed stays, new
// work is accepted with one node down, and the node that returns catches up.
func TestControlNodesLostInTurn(t *testing.T) {
	c := start(t, dev.Options{Servers: 3, Agents: 2, Zones: 2})
	c.shareType("gold", "60s")
	var leader string
	c.eventually(20*time.Second, "there is a leader", func(ctx context.Context) (err error) {
		leader, err = c.leader(ctx)
		return err
	})
	created := 0
	for _, lost := range []string{c.followerOf(leader), leader} {
		if err := c.Kill(t.Context(), lost); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		c.createWithout(lost, created)
		created += 3
		t.Logf("without %s: 3 shares created within %s", lost, time.Since(killed).Round(time.Millisecond))
		if err := c.Start(lost); err != nil {
			t.Fatal(err)
		}
		c.eventually(30*time.Second, lost+" is back", c.allServersInTouch)
	}
	c.eventually(time.Minute, "every share is there and available", func(ctx context.Context) error { return c.allWell(ctx, created) })
	if now, err := c.leader(t.Context()); err != nil || now == "" {
		t.Errorf("leader at the end: %q, %v", now, err)
	}
}

func (c *cluster) followerOf(leader string) string {
	for _, n := range c.Nodes() {
		if n.Kind == dev.Control && n.Name != leader {
			return n.Name
		}
	}
	return ""
}

// createWithout creates three shares while a control node is down.
func (c *cluster) createWithout(lost string, from int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	for i := range 3 {
		_, err := c.api.Shares.CreateShare(ctx, &tarnv1.CreateShareRequest{
			Name: fmt.Sprintf("lost-%d", from+i), SizeGib: 1, ShareType: "gold",
		})
		if err != nil {
			c.t.Fatalf("create without %s: %v", lost, err)
		}
	}
}

// allServersInTouch asks the leader when it last heard each server.
func (c *cluster) allServersInTouch(ctx context.Context) error {
	answer, err := c.api.Operator.ListRaftServers(ctx, &tarnv1.ListRaftServersRequest{})
	if err != nil {
		return err
	}
	for _, s := range answer.GetServers() {
		if !s.GetLeader() && (s.GetLastContact() == nil || s.GetLastContact().AsDuration() > 2*time.Second) {
			return fmt.Errorf("%s was last heard %s ago", s.GetAddress(), s.GetLastContact().AsDuration())
		}
	}
	return nil
}
