package replicate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// poolStorage is real ZFS with one file per share.
type poolStorage struct {
	*zfs.Host
	pool realzfs.Pool
	// encrypts its shares, under a key that every host has in keyFile.
	encrypts bool
	keyFile  string
}

// onSealedPools is onPools for encrypted shares.
func onSealedPools(t *testing.T) maker {
	make := onPools(t)
	return func(t *testing.T, i int) testStorage {
		p := make(t, i).(*poolStorage)
		p.encrypts = true
		return p
	}
}

func (p *poolStorage) seal(keyFile string) bool {
	p.keyFile = keyFile
	return p.encrypts
}

// onPools makes hosts on real pools, one pool for each. A later cluster of the same
// test gets new ones in the place of the old.
func onPools(t *testing.T) maker {
	pools := map[int]realzfs.Pool{}
	return func(t2 *testing.T, i int) testStorage {
		if old, ok := pools[i]; ok {
			if err := old.Destroy(); err != nil {
				t2.Fatal(err)
			}
		}
		pool := realzfs.NewPool(t, 512)
		pools[i] = pool
		h, err := zfs.Open(t2.Context(), zfs.Config{Pools: []string{pool.Name}, UserProperties: Marks()})
		if err != nil {
			t2.Fatal(err)
		}
		if err := h.Create(t2.Context(), pool.Name+"/"+testBase, map[string]string{zfs.PropCanMount: off, zfs.PropReadOnly: on}, true); err != nil {
			t2.Fatal(err)
		}
		return &poolStorage{Host: h, pool: pool}
	}
}

func onHookedPools(t *testing.T) maker {
	make := onPools(t)
	return func(t *testing.T, i int) testStorage { return &hookedStorage{testStorage: make(t, i)} }
}

// pooled finds the real storage behind hooks; nil for the others.
func pooled(s testStorage) *poolStorage {
	if h, ok := s.(*hookedStorage); ok {
		s = h.testStorage
	}
	p, _ := s.(*poolStorage)
	return p
}

// poolOf is the pool that a test's storage has.
func poolOf(s testStorage) string {
	if p := pooled(s); p != nil {
		return p.pool.Name
	}
	return testPool
}

// syncOf is what makes listings exact where they are late.
func syncOf(h *testHost) func(context.Context) error {
	p := pooled(h.fs)
	if p == nil {
		return nil
	}
	return func(ctx context.Context) error { return p.Sync(ctx, p.pool.Name) }
}

func lacksOf(s testStorage) Lacks {
	p := pooled(s)
	if p == nil {
		return Lacks{}
	}
	caps, err := p.Capabilities(context.Background())
	if err != nil {
		caps = zfs.Capabilities{ReceiveChecks: true}
	}
	return LacksOf(caps)
}

// flagsOf are those of the engine's streams; memory insists on large blocks as
// OpenZFS does.
func flagsOf(s testStorage) zfs.StreamFlags {
	p := pooled(s)
	if p == nil {
		_, directory := s.(*dirStorage)
		return zfs.StreamFlags{LargeBlocks: !directory, Compressed: !directory}
	}
	caps, err := p.Capabilities(context.Background())
	if err != nil {
		return zfs.StreamFlags{}
	}
	return caps.StreamFlags()
}

// cadenceOf is fast for an engine that starts no processes.
func cadenceOf(s testStorage) time.Duration {
	if pooled(s) != nil {
		return 500 * time.Millisecond
	}
	return 50 * time.Millisecond
}

// patience is how long a condition may take, and how often it is looked at.
func (c *cluster) patience() (limit, tick time.Duration) {
	if pooled(c.hosts[0].fs) == nil {
		return 30 * time.Second, 20 * time.Millisecond
	}
	if realzfs.Kernel() { // emulated
		return 10 * time.Minute, 200 * time.Millisecond
	}
	return 3 * time.Minute, 200 * time.Millisecond
}

func (p *poolStorage) Write(dataset, text string, root bool) error {
	ctx := context.Background()
	ds, err := p.Dataset(ctx, dataset)
	switch {
	case err != nil:
		return err
	case !ds.Mounted:
		return zfs.ErrNotMounted
	case ds.ReadOnly && !root:
		return zfs.ErrReadOnly
	case ds.ReadOnly: // an administrator who means it
		if err := realzfs.Zfs("set", "readonly=off", dataset); err != nil {
			return err
		}
		defer func() { _ = realzfs.Zfs("set", "readonly=on", dataset) }()
	}
	f, err := os.OpenFile(filepath.Join(ds.Mountpoint, testFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Read loads the key first, if it has to.
func (p *poolStorage) Read(dataset string) (string, error) {
	if p.encrypts {
		ds, err := p.Dataset(context.Background(), dataset)
		if err == nil && ds.Encrypted && !ds.KeyLoaded {
			err = p.LoadKey(context.Background(), ds.EncryptionRoot, p.keyFile)
		}
		if err != nil {
			return "", err
		}
	}
	return readShare(p.Host, dataset)
}

func (p *poolStorage) Fence(dataset string) { _ = zfs.Fence(context.Background(), dataset) }

func (p *poolStorage) Peek(dataset string) (zfs.Dataset, []zfs.Version, bool) {
	ds, err := p.Dataset(context.Background(), dataset)
	if err != nil {
		return ds, nil, false
	}
	list, err := p.Versions(context.Background(), dataset)
	return ds, list, err == nil
}

// onReal runs a test on real pools, where there are some.
func onReal(t *testing.T, test func(*testing.T, maker)) {
	t.Run("zfs", func(t *testing.T) {
		realzfs.Require(t)
		test(t, onPools(t))
	})
}

func TestReplicaFollowsOnZFS(t *testing.T)       { onReal(t, replicaFollows) }
func TestPlannedPromotionOnZFS(t *testing.T)     { onReal(t, plannedPromotionBothWays) }
func TestForcedFailoverOnZFS(t *testing.T)       { onReal(t, forcedFailoverKeepsDivergentData) }
func TestNothingInCommonOnZFS(t *testing.T)      { onReal(t, nothingInCommonIsPutAside) }
func TestUserSnapshotsOnZFS(t *testing.T)        { onReal(t, userSnapshotsTravelAndGo) }
func TestThirdReplicaOnZFS(t *testing.T)         { onReal(t, thirdReplica) }
func TestRemovalLeavesNothingOnZFS(t *testing.T) { onReal(t, removalLeavesNothing) }

// TestKilledChildrenOnZFS kills the processes at both ends of a stream while it runs:
// the agents live on, and the copy gets there.
func TestKilledChildrenOnZFS(t *testing.T) {
	onReal(t, func(t *testing.T, on maker) {
		c, a, b := pairOn(t, on)
		c.until("in sync", inSync(a, b))
		for _, verb := range []string{"send", "receive"} {
			slow := b.secondary(1, a)
			slow.Options = &tarnv1.ReplicationOptions{RateLimit: 8 << 20}
			b.assign(slow)
			text := make([]byte, 32<<20)
			_, _ = rand.Read(text)
			begun := b.heard("bytes")
			a.write(string(text))
			c.until("a stream runs", func() bool { return b.heard("bytes") > begun+1<<20 })
			if n := killChildren(t, verb); n == 0 {
				t.Errorf("no zfs %s was there to kill", verb)
			}
			b.assign(b.secondary(1, a))
			c.until("in sync after the end of zfs "+verb, inSync(a, b))
		}
		a.clean()
		b.clean()
		if left := killChildren(t, "send") + killChildren(t, "receive"); left != 0 {
			t.Errorf("%d processes are left", left)
		}
	})
}

// killChildren kills this process's zfs children with a verb.
func killChildren(t *testing.T, verb string) (n int) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // it has ended
		}
		var parent int
		_, rest, _ := strings.Cut(string(stat), ") ")
		if _, err := fmt.Sscanf(rest, "%s %d", new(string), &parent); err != nil || parent != os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		args := strings.Split(string(line), "\x00")
		if len(args) < 2 || filepath.Base(args[0]) != "zfs" || args[1] != verb {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			n++
		}
	}
	return n
}
