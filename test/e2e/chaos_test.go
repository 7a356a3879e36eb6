package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/cmd/tarn/dev"
	"tarn/cmd/tarn/filetree"
	tarnv1 "tarn/proto/tarn/v1"
)

const chaosShares = 6

// Clients write to every share while every process is killed in turn, at random,
// and started again, and shares are promoted back and forth. Afterwards each
// file that was acknowledged is where it belongs, on every replica.
func TestChaos(t *testing.T) {
	c := start(t, dev.Options{Servers: 3, Agents: 4, Zones: 2})
	c.shareType("gold", "10s")
	c.createShares(chaosShares)
	c.eventually(time.Minute, "shares are available", func(ctx context.Context) error { return c.allWell(ctx, chaosShares) })
	c.createReplicas()
	c.eventually(time.Minute, "replicas are in_sync", func(ctx context.Context) error { return c.allWell(ctx, 2*chaosShares) })

	t.Logf("repeat the choices with -seed %d", suite.seed)
	c.watchEveryShare()
	writers := c.writers()
	kills, promotions := c.rage(writers)
	acknowledged := 0
	for _, w := range writers {
		acknowledged += len(w.acknowledged)
	}
	t.Logf("%d kills, %d promotions, %d files acknowledged", kills, promotions, acknowledged)
	if kills < 3 || acknowledged < 20*chaosShares {
		t.Errorf("too little happened to prove anything")
	}
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	c.eventually(2*time.Minute, "everything is well again", func(ctx context.Context) error { return c.allWell(ctx, 2*chaosShares) })
	for _, w := range writers {
		c.eventually(time.Minute, "share "+w.share+" is whole", w.whole)
	}
}

// rage lets writers, killers and promotions run for the given time.
func (c *cluster) rage(writers []*writer) (kills, promotions int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), suite.chaos)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	for _, w := range writers {
		group.Go(func() error { return w.run(ctx) })
	}
	var count [2]int
	for i, kind := range []dev.Kind{dev.Control, dev.Agent} {
		group.Go(func() (err error) {
			count[i], err = c.killAtRandom(ctx, chance(i), kind)
			return err
		})
	}
	group.Go(func() error {
		promotions = c.promoteAtRandom(ctx, chance(2), writers)
		return nil
	})
	if err := group.Wait(); err != nil {
		c.t.Fatal(err)
	}
	return count[0] + count[1], promotions
}

// chance makes the choices of one actor; the seed and the actor's number repeat
// them, though not the moment at which each process is hit.
func chance(actor int) *rand.Rand { return rand.New(rand.NewPCG(suite.seed, uint64(actor))) }

// pause waits a random time between the bounds; false when ctx ended.
func pause(ctx context.Context, chance *rand.Rand, least, most time.Duration) bool {
	timer := time.NewTimer(least + time.Duration(chance.Int64N(int64(most-least))))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// killAtRandom kills one node of a kind at a time and starts it again.
func (c *cluster) killAtRandom(ctx context.Context, chance *rand.Rand, kind dev.Kind) (kills int, err error) {
	var nodes []string
	for _, n := range c.Nodes() {
		if n.Kind == kind {
			nodes = append(nodes, n.Name)
		}
	}
	for pause(ctx, chance, 3*time.Second, 8*time.Second) {
		victim := nodes[chance.IntN(len(nodes))]
		if err := c.Kill(context.WithoutCancel(ctx), victim); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return kills, err
		}
		kills++
		pause(ctx, chance, 200*time.Millisecond, 6*time.Second)
		if err := c.Start(victim); err != nil {
			return kills, err
		}
	}
	return kills, nil
}

// promoteAtRandom asks for planned promotions. Under fire many are refused or
// cancelled, which is as it should be; the count is of those that started.
func (c *cluster) promoteAtRandom(ctx context.Context, chance *rand.Rand, writers []*writer) (started int) {
	for pause(ctx, chance, 2*time.Second, 6*time.Second) {
		w := writers[chance.IntN(len(writers))]
		replicas, err := w.replicas(ctx)
		if err != nil {
			continue
		}
		for _, r := range replicas {
			if r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC {
				continue
			}
			answer, err := c.api.Replicas.PromoteReplica(ctx, &tarnv1.PromoteReplicaRequest{Id: r.GetId()})
			if err == nil && answer.GetStarted() {
				started++
			}
		}
	}
	return started
}

// writer is the client of one share. A file counts as acknowledged when it was
// synced and is still to be seen under the active's mountpoint after that.
type writer struct {
	c     *cluster
	share string
	n     int
	// chance is used by run alone.
	chance *rand.Rand

	mu           sync.Mutex
	acknowledged map[string][sha256.Size]byte
}

func (c *cluster) writers() []*writer {
	c.t.Helper()
	shares, err := c.api.Shares.ListShares(c.t.Context(), &tarnv1.ListSharesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []*writer
	for i, s := range shares.GetShares() {
		out = append(out, &writer{c: c, share: s.GetId(), chance: chance(10 + i), acknowledged: map[string][sha256.Size]byte{}})
	}
	return out
}

func (w *writer) replicas(ctx context.Context) ([]*tarnv1.Replica, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	answer, err := w.c.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: w.share})
	return answer.GetReplicas(), err
}

// run looks up where the active is mounted and writes there until that fails.
func (w *writer) run(ctx context.Context) error {
	for pause(ctx, w.chance, 100*time.Millisecond, 300*time.Millisecond) {
		replicas, err := w.replicas(ctx)
		if err != nil {
			continue
		}
		for _, r := range replicas {
			o := r.GetObserved()
			if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE && o.GetWritable() && o.GetMountpoint() != "" {
				w.writeWhilePossible(ctx, o.GetMountpoint())
			}
		}
	}
	return nil
}

// writeWhilePossible ends at the first write that is refused: the share has
// moved, or its host has lost the lease.
func (w *writer) writeWhilePossible(ctx context.Context, dir string) {
	for range 20 {
		if !pause(ctx, w.chance, 20*time.Millisecond, 100*time.Millisecond) {
			return
		}
		name := fmt.Sprintf("file-%06d", w.n)
		data := w.content(name)
		w.n++
		if err := w.write(dir, name, data); err != nil {
			return
		}
		w.mu.Lock()
		w.acknowledged[name] = sha256.Sum256(data)
		w.mu.Unlock()
	}
}

func (w *writer) content(name string) []byte {
	seed := sha256.Sum256([]byte(w.share + name))
	data := make([]byte, 1000+w.chance.IntN(60_000))
	// ChaCha8 never fails to read.
	_, _ = rand.NewChaCha8(seed).Read(data)
	return data
}

var (
	errReadOnly  = errors.New("directory is read-only")
	errElsewhere = errors.New("the share has moved while the file was written")
)

// write goes through a handle of the mountpoint, so that it cannot create a
// directory where a mount has just gone.
func (w *writer) write(dir, name string, data []byte) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	// Permission bits do not bind root, and those of the owner not the agents' own user:
	// this test looks itself at what binds clients.
	if info, err := root.Stat("."); err != nil || info.Mode().Perm()&clientsMayWrite != clientsMayWrite {
		return errors.Join(err, errReadOnly)
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	written, statErr := f.Stat()
	_, err = f.Write(data)
	if err = errors.Join(err, statErr, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A file of that name in another dataset, or in a copy that was made while this one
	// was written, is not the one that was written.
	seen, err := os.Lstat(filepath.Join(dir, name))
	if err == nil && !os.SameFile(written, seen) {
		err = errElsewhere
	}
	return err
}

// whole is nil when every acknowledged file is on the active with its bytes, and
// the other replica is the same, byte for byte.
func (w *writer) whole(ctx context.Context) error {
	replicas, err := w.replicas(ctx)
	if err != nil {
		return err
	}
	if len(replicas) != 2 {
		return fmt.Errorf("%d replicas", len(replicas))
	}
	active, copied := replicas[0], replicas[1]
	if copied.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
		active, copied = copied, active
	}
	for name, sum := range w.acknowledged {
		data, err := os.ReadFile(filepath.Join(active.GetObserved().GetMountpoint(), name))
		if err != nil {
			return fmt.Errorf("acknowledged file is lost: %w", err)
		}
		if sha256.Sum256(data) != sum {
			return fmt.Errorf("acknowledged file %s has other bytes", name)
		}
	}
	diff, _, err := filetree.Difference(active.GetObserved().GetMountpoint(), copied.GetObserved().GetMountpoint())
	if err == nil && len(diff) > 0 {
		err = fmt.Errorf("copy differs: %v", diff)
	}
	return err
}
