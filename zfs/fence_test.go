package zfs_test

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestFence: after the fence nobody finds the files, whoever has some open; the dataset
// counts as busy until they are closed, and is as good as new then.
func TestFence(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	h := open(t, pool)
	ctx := t.Context()
	ds, path := pool.Name+"/base/f", pool.Dir+"/base/f"
	ok(t, h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "on"}, true))
	ok(t, os.WriteFile(path+"/data", []byte("before"), 0o644))
	f, err := os.OpenFile(path+"/data", os.O_RDWR, 0)
	ok(t, err)
	for range 2 { // idempotent
		ok(t, zfs.Fence(ctx, ds))
	}
	if _, err := os.Stat(path + "/data"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reachable after the fence: %v", err)
	}
	d, err := h.Dataset(ctx, ds)
	ok(t, err)
	if d.Mounted {
		t.Error("mounted after the fence")
	}
	_, err = f.WriteAt([]byte("after!"), 0)
	t.Logf("write through an open file: %v", err)
	if realzfs.Kernel() && !errors.Is(err, syscall.EROFS) {
		t.Errorf("an open file could be written after the fence: %v", err)
	}
	for _, force := range []bool{false, true} {
		fails(t, h.Unmount(ctx, ds, force), zfs.ErrBusy)
	}
	ok(t, f.Close())
	ok(t, h.Unmount(ctx, ds, false))
	ok(t, h.Mount(ctx, ds))
	b, err := os.ReadFile(path + "/data")
	ok(t, err)
	if realzfs.Kernel() && string(b) != "before" {
		t.Errorf("content after the fence: %q", b)
	}
	ok(t, zfs.Fence(ctx, ds))
	ok(t, h.Unmount(ctx, ds, false))
	ok(t, zfs.Fence(ctx, pool.Name+"/none"))
	fails(t, zfs.Fence(ctx, "-r"), zfs.ErrInvalid)
}
