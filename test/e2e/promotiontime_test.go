package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

// busyWriter writes a small durable file to a share every 10 ms, wherever it may be
// written, and notes for how long at a time it could not.
type busyWriter struct {
	*writer
	last time.Time // the newest acknowledged write

	mu  sync.Mutex
	gap time.Duration // longest time between two acknowledged writes since it was asked for
}

func newBusyWriter(c *cluster, share string) *busyWriter {
	return &busyWriter{writer: &writer{c: c, share: share, chance: chance(99), acknowledged: map[string][sha256.Size]byte{}}}
}

func (w *busyWriter) run(ctx context.Context) {
	for ctx.Err() == nil {
		replicas, err := w.replicas(ctx)
		if err != nil {
			continue
		}
		for _, r := range replicas {
			if isWritable(r) == nil {
				w.writeOn(ctx, r.GetObserved().GetMountpoint())
			}
		}
	}
}

// writeOn ends at the first write that is refused.
func (w *busyWriter) writeOn(ctx context.Context, dir string) {
	for pause(ctx, w.chance, 8*time.Millisecond, 12*time.Millisecond) {
		name := fmt.Sprintf("file-%06d", w.n)
		data := w.content(name)
		w.n++
		if w.write(dir, name, data) != nil {
			return
		}
		w.acknowledged[name] = sha256.Sum256(data)
		now := time.Now()
		w.mu.Lock()
		if !w.last.IsZero() {
			w.gap = max(w.gap, now.Sub(w.last))
		}
		w.last = now
		w.mu.Unlock()
	}
}

// pauseSince is the longest pause since it was last asked.
func (w *busyWriter) pauseSince() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	gap := w.gap
	w.gap = 0
	return gap
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// TestPromotionTimes promotes a share to and fro under write load, and then loses the
// active's host. It prints for how long writes were refused, and fails only for what
// must not depend on the machine: planned, nothing that was acknowledged is lost.
func TestPromotionTimes(t *testing.T) {
	if suite.promotions == 0 {
		t.Skip("a measurement, not a check: -promotions 20 takes it")
	}
	c := start(t, dev.Options{Servers: 3, Agents: 2, Zones: 2})
	c.must("share-type", "create", "gold", "--replication-type", "readable", "--rpo", "4s")
	share := strings.TrimSpace(c.must("-q", "share", "create", "web", "--type", "gold", "--size", "1", "--zone", "az1", "--wait"))
	c.must("replica", "create", "web", "--zone", "az2", "--wait")
	c.replicaAt(share, "az1", isWritable)
	c.openToClients()
	w := newBusyWriter(c, share)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); w.run(ctx) }()

	var pauses, overheads []time.Duration
	zone := "az2"
	for range suite.promotions {
		var began time.Time
		c.eventually(time.Minute, "a planned promotion", func(context.Context) error {
			target := c.replicaAt(share, zone, isInSync) // on a busy machine for a moment only
			w.pauseSince()
			began = time.Now()
			if s := c.tarn("replica", "promote", target.GetId(), "--wait"); s.code != 0 {
				t.Logf("not yet: %s", s.stderr)
				if strings.Contains(s.stderr, "without making") {
					t.Error("a promotion that had begun was cancelled")
				}
				return errors.New(s.stderr)
			}
			return nil
		})
		overheads = append(overheads, time.Since(began))
		c.replicaAt(share, zone, isWritable)
		c.eventually(time.Minute, "writes on the new active", func(context.Context) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.gap == 0 || time.Since(w.last) > time.Second {
				return fmt.Errorf("the newest write is %s old", time.Since(w.last))
			}
			return nil
		})
		pauses = append(pauses, w.pauseSince())
		zone = map[string]string{"az1": "az2", "az2": "az1"}[zone]
	}
	t.Logf("FIGURE planned promotion under write load: writes refused for %s (median of %d; longest %s); the command took %s (median)",
		median(pauses).Round(time.Millisecond), len(pauses), slices.Max(pauses).Round(time.Millisecond), median(overheads).Round(time.Millisecond))
	stop()
	<-done
	c.eventually(time.Minute, "everything acknowledged is on both", w.whole)
	c.forcedTime(share, zone)
}

// forcedTime loses the active's host and says how long the failover took.
func (c *cluster) forcedTime(share, zone string) {
	c.t.Helper()
	target := c.replicaAt(share, zone, isInSync)
	active := c.replicaAt(share, map[string]string{"az1": "az2", "az2": "az1"}[zone], isWritable)
	began := time.Now()
	if err := c.Kill(c.t.Context(), c.agentOf(active)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.api.Replicas.PromoteReplica(c.t.Context(), &tarnv1.PromoteReplicaRequest{Id: target.GetId(), Force: true, Consent: &tarnv1.Consent{Reason: "measured"}}); err != nil {
		c.t.Fatal(err)
	}
	mounted := c.replicaAt(share, zone, isWritable).GetObserved().GetMountpoint()
	if err := os.WriteFile(filepath.Join(mounted, "after"), nil, 0o600); err != nil {
		c.t.Error(err)
	}
	c.t.Logf("FIGURE forced failover after kill -9 of the active's agent, until writable: %s", time.Since(began).Round(10*time.Millisecond))
}
