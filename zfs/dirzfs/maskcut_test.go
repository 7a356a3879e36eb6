package dirzfs_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
	"tarn/zfs/zfstest"
)

const maskedFiles = 2000

func fileOf(mountpoint string, i int) string {
	return fmt.Sprintf("%s/d%03d/f%04d", mountpoint, i/10, i)
}

func manyFiles(t *testing.T, mountpoint string) {
	t.Helper()
	for i := range maskedFiles {
		if i%10 == 0 {
			ok(t, os.Mkdir(fmt.Sprintf("%s/d%03d", mountpoint, i/10), 0o755))
		}
		ok(t, os.WriteFile(fileOf(mountpoint, i), nil, []os.FileMode{0o644, 0o600, 0o444, 0o755}[i%4]))
	}
}

// cutUnmask makes a dataset writable and cuts that half way, as an agent that ends does.
func cutUnmask(t *testing.T, h *dirzfs.Host, ds, mountpoint string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for ctx.Err() == nil {
			if i, err := os.Stat(fileOf(mountpoint, 100)); err == nil && i.Mode()&0o200 != 0 {
				cancel()
			}
			runtime.Gosched()
		}
	}()
	err := h.Set(ctx, ds, map[string]string{zfs.PropReadOnly: "off"})
	cancel()
	<-seen
	t.Log("cut:", err) // nil where all was done before it was seen to have begun
}

func writable(t *testing.T, mountpoint string) (n int) {
	t.Helper()
	for i := range maskedFiles {
		s, err := os.Stat(fileOf(mountpoint, i))
		ok(t, err)
		if s.Mode()&0o222 != 0 {
			n++
		}
	}
	return n
}

// replicaOfMany makes a mounted read-only copy b/y of a/x, with an increment.
func replicaOfMany(t *testing.T, h *dirzfs.Host) (source, copied string) {
	t.Helper()
	source = mounted(t, h, "a/x")
	manyFiles(t, source)
	ok(t, h.Snapshot(t.Context(), "a/x@1"))
	transfer(t, h, zfs.SendRequest{Dataset: "a/x", To: "1"}, zfs.ReceiveRequest{Target: "b/y@1", Resumable: true})
	ok(t, h.Set(t.Context(), "b/y", map[string]string{zfs.PropReadOnly: "on"}))
	ok(t, h.Mount(t.Context(), "b/y"))
	ok(t, os.WriteFile(source+"/more", nil, 0o644))
	ok(t, h.Snapshot(t.Context(), "a/x@2"))
	transfer(t, h, zfs.SendRequest{Dataset: "a/x", From: "@1", To: "2"}, zfs.ReceiveRequest{Target: "b/y@2", Resumable: true})
	d, err := h.Dataset(t.Context(), "b/y")
	ok(t, err)
	return source, d.Mountpoint
}

// TestPromotionCutWhileModesReturn: who finds the dataset mounted and writable does not
// mount it again, and clients could never write to the files that were left.
func TestPromotionCutWhileModesReturn(t *testing.T) {
	dir := t.TempDir()
	pools := []dirzfs.Pool{{Name: "a", Dir: dir + "/a"}, {Name: "b", Dir: dir + "/b"}}
	h := open(t, pools...)
	source, copied := replicaOfMany(t, h)
	cutUnmask(t, h, "b/y", copied)
	ok(t, h.Close())
	h = open(t, pools...)
	d, err := h.Dataset(t.Context(), "b/y")
	ok(t, err)
	if !d.Mounted || d.ReadOnly || d.Written != 0 {
		t.Fatalf("%+v", d)
	}
	want, err := zfstest.ReadTree(source)
	ok(t, err)
	got, err := zfstest.ReadTree(copied)
	ok(t, err)
	if diff := zfstest.DiffTree(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestReadOnlyAgainAfterCut: what was writable for a moment is all read-only again.
func TestReadOnlyAgainAfterCut(t *testing.T) {
	dir := t.TempDir()
	h := open(t, dirzfs.Pool{Name: "a", Dir: dir + "/a"}, dirzfs.Pool{Name: "b", Dir: dir + "/b"})
	_, copied := replicaOfMany(t, h)
	cutUnmask(t, h, "b/y", copied)
	ok(t, h.Set(t.Context(), "b/y", map[string]string{zfs.PropReadOnly: "on"}))
	ok(t, h.Unmount(t.Context(), "b/y", false))
	ok(t, h.Mount(t.Context(), "b/y"))
	if n := writable(t, copied); n != 0 {
		t.Errorf("%d files can be written in a read-only dataset", n)
	}
}
