package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

// Two hundred shares, each with a replica in the other zone, on six agents: all
// reach in_sync, and what was written to each active is in its copy.
func TestTwoHundredShares(t *testing.T) {
	const shares = 200
	c := start(t, dev.Options{Servers: 3, Agents: 6, Zones: 2})
	c.shareType("gold", "60s")
	c.raiseQuota(2 * shares)
	begun := time.Now()
	c.createShares(shares)
	c.eventually(2*time.Minute, "shares are available", func(ctx context.Context) error { return c.allWell(ctx, shares) })
	t.Logf("%d shares available after %s", shares, time.Since(begun).Round(time.Millisecond))
	c.writeEach(t.Context())
	replicated := time.Now()
	c.createReplicas()
	c.eventually(4*time.Minute, "replicas are in_sync", func(ctx context.Context) error { return c.allWell(ctx, 2*shares) })
	t.Logf("%d replicas in_sync after %s", shares, time.Since(replicated).Round(time.Millisecond))
	c.eventually(2*time.Minute, "copies hold what was written", c.checkEach)
}

func (c *cluster) raiseQuota(limit int64) {
	c.t.Helper()
	_, err := c.api.Quotas.UpdateQuota(c.t.Context(), &tarnv1.QuotaLimits{ProjectId: "default", Limits: map[string]int64{
		"shares": limit, "gigabytes": limit, "share_replicas": limit, "replica_gigabytes": limit,
	}})
	if err != nil {
		c.t.Fatal(err)
	}
}

// parallel runs do for 0..n-1, eight at a time.
func (c *cluster) parallel(n int, do func(ctx context.Context, i int) error) {
	c.t.Helper()
	group, ctx := errgroup.WithContext(c.t.Context())
	group.SetLimit(8)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	if err := group.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

// createShares creates n shares that this machine may reach: copies that nobody
// may reach are not mounted.
func (c *cluster) createShares(n int) {
	c.t.Helper()
	c.parallel(n, func(ctx context.Context, i int) error {
		share, err := c.api.Shares.CreateShare(ctx, &tarnv1.CreateShareRequest{
			Name: fmt.Sprintf("share-%03d", i), SizeGib: 1, ShareType: "gold",
		})
		if err != nil {
			return err
		}
		_, err = c.api.AccessRules.AllowAccess(ctx, &tarnv1.AllowAccessRequest{ShareId: share.GetId(), AccessTo: "127.0.0.0/8"})
		return err
	})
}

func (c *cluster) createReplicas() {
	c.t.Helper()
	shares, err := c.api.Shares.ListShares(c.t.Context(), &tarnv1.ListSharesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.parallel(len(shares.GetShares()), func(ctx context.Context, i int) error {
		_, err := c.api.Replicas.CreateReplica(ctx, &tarnv1.CreateReplicaRequest{ShareId: shares.GetShares()[i].GetId()})
		return err
	})
}

// letter is what is written into a share: it names the share, so that a mix-up shows.
func letter(shareID string) []byte { return bytes.Repeat([]byte(shareID+"\n"), 200) }

func (c *cluster) writeEach(ctx context.Context) {
	c.t.Helper()
	replicas, err := c.replicas(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range replicas {
		path := filepath.Join(r.GetObserved().GetMountpoint(), "letter")
		// Refused for a moment when the machine is too busy for a renewal.
		c.eventually(time.Minute, "a letter in "+path, func(context.Context) error {
			return os.WriteFile(path, letter(r.GetShareId()), 0o644)
		})
	}
}

func (c *cluster) checkEach(ctx context.Context) error {
	replicas, err := c.replicas(ctx)
	if err != nil {
		return err
	}
	zones := map[string]string{}
	for _, r := range replicas {
		data, err := os.ReadFile(filepath.Join(r.GetObserved().GetMountpoint(), "letter"))
		if err != nil {
			return err
		}
		if !bytes.Equal(data, letter(r.GetShareId())) {
			return fmt.Errorf("replica %s of share %s holds other bytes", r.GetId(), r.GetShareId())
		}
		if other := zones[r.GetShareId()]; other == r.GetAvailabilityZone() {
			return fmt.Errorf("both replicas of share %s are in zone %s", r.GetShareId(), other)
		}
		zones[r.GetShareId()] = r.GetAvailabilityZone()
	}
	return nil
}
