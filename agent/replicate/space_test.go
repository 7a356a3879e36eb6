package replicate

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/dirzfs"
	"tarn/zfs/zfstest"
)

// onSmallSecond gives the second host a pool of the given capacity.
func onSmallSecond(capacity int64) maker {
	return func(t *testing.T, i int) testStorage {
		if i == 0 {
			return onDirectory(t, i)
		}
		dir := filepath.Join(zfstest.TempDir(t), "pool")
		h, err := dirzfs.Open(dirzfs.Config{
			Pools: []dirzfs.Pool{{Name: testPool, Dir: dir, Capacity: capacity}}, Logger: slog.New(slog.DiscardHandler),
		})
		check(t, err)
		t.Cleanup(func() { check(t, h.Close()) })
		return &dirStorage{Host: h, dir: dir}
	}
}

// random is text of n bytes that no other text shares a chunk with.
func random(n int) string {
	raw := make([]byte, n/4*3)
	_, _ = rand.Read(raw)
	return base64.RawStdEncoding.EncodeToString(raw)
}

// ballast fills a host's pool by n bytes that can be removed again.
func ballast(t *testing.T, h *testHost, n int) (remove func()) {
	t.Helper()
	fs, name := h.fs.(*dirStorage), testPool+"/ballast"
	ctx := context.Background()
	check(t, fs.Create(ctx, name, map[string]string{zfs.PropCanMount: "on"}, false))
	d, err := fs.Dataset(ctx, name)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(d.Mountpoint, "x"), []byte(random(n)), 0o600))
	check(t, fs.Snapshot(ctx, name+"@x"))
	return func() {
		check(t, fs.DestroySnapshots(ctx, name, "x"))
		check(t, fs.Unmount(ctx, name, false))
		check(t, fs.Destroy(ctx, name))
	}
}

// TestPoolFillsUpDuringAReceive: a copy that has no room is told, keeps what it
// has, and goes on by itself once there is room.
func TestPoolFillsUpDuringAReceive(t *testing.T) {
	const mib = 1 << 20
	c, a, b := pairOn(t, onSmallSecond(6*mib))
	makeRoom := ballast(t, b, 3*mib)
	a.write(random(mib))
	c.until("in sync", inSync(a, b))
	old, head := readAll(t, b), b.head()
	a.write(random(3 * mib))
	c.until("no room", func() bool {
		e := b.report().GetError()
		return e.GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE && e.GetRetrying()
	})
	if readAll(t, b) != old || b.head() != head {
		t.Error("the copy changed though its receive failed")
	}
	if !strings.HasPrefix(readAll(t, a), old) || len(b.report().GetDivergentCopies()) != 0 {
		t.Error("not a copy of the source any more")
	}
	makeRoom()
	c.until("in sync by itself", inSync(a, b))
	c.until("nothing is told any more", func() bool { return b.report().GetError() == nil })
	a.clean()
	b.clean()
}

func readAll(t *testing.T, h *testHost) string {
	t.Helper()
	text, err := h.fs.Read(h.dataset())
	check(t, err)
	return text
}

// TestQuotaOfTheSource: a share that is full takes no snapshot; the copy keeps the
// last one and follows again when the share has been extended.
func TestQuotaOfTheSource(t *testing.T) {
	c := newClusterOn(t, onDirectory, 2)
	a, b := c.hosts[0], c.hosts[1]
	a.lease.set(1)
	as := a.active(1)
	as.SizeGib = 0 // the test sets bytes
	a.assign(as)
	b.assign(b.secondary(1, a))
	a.start()
	b.start()
	c.until("active is writable", func() bool { return a.report().GetWritable() })
	fs := a.fs.(*dirStorage)
	check(t, fs.Set(t.Context(), a.dataset(), map[string]string{zfs.PropQuota: "1048576"}))
	a.write(random(600 << 10))
	c.until("in sync", inSync(a, b))
	old, head := readAll(t, b), b.head()
	a.write(random(800 << 10))
	c.until("the cadence meets the quota", func() bool {
		tr, _ := a.worker.cfg.Cadence.Tracking(a.replica)
		return tr.Err != nil
	})
	c.until("the owner tells", func() bool {
		return a.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_QUOTA_EXCEEDED
	})
	if !a.report().GetWritable() || readAll(t, b) != old || b.head() != head || a.head() != head {
		t.Error("a full share changed its copy, or stopped being served")
	}
	check(t, fs.Set(t.Context(), a.dataset(), map[string]string{zfs.PropQuota: "4194304"}))
	c.until("in sync by itself", inSync(a, b))
	c.until("nothing is told any more", func() bool { return a.report().GetError() == nil })
}
