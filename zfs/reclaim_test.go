package zfs_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestReclaimable compares what a dry run promises with what a destroy frees; where
// the version has no dry run, it says so.
func TestReclaimable(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	h := open(t, pool)
	ctx, ds := t.Context(), pool.Name+"/x"
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "on"}, false))
	d, err := h.Dataset(ctx, ds)
	check(err)
	rng := rand.NewChaCha8([32]byte{1})
	for _, snap := range []string{"a", "b", "c", "d"} {
		block := make([]byte, 2<<20)
		_, _ = rng.Read(block)
		check(os.WriteFile(filepath.Join(d.Mountpoint, "f"), block, 0o600))
		check(h.Snapshot(ctx, ds+"@"+snap))
	}
	told, err := h.Reclaimable(ctx, ds, "a", "c")
	if errors.Is(err, zfs.ErrUnsupported) {
		t.Logf("this version tells nothing beforehand: %v", err)
		return
	}
	check(err)
	before, err := h.Dataset(ctx, ds)
	check(err)
	if list, err := h.Versions(ctx, ds); err != nil || len(list) != 4 {
		t.Errorf("after asking %v, %v", list, err)
	}
	check(h.DestroySnapshots(ctx, ds, "a", "c"))
	check(h.Sync(ctx, pool.Name))
	after, err := h.Dataset(ctx, ds)
	check(err)
	if freed := before.Used - after.Used; told < 4<<20 || freed < told/2 || freed > told*2 {
		t.Errorf("told %d bytes, %d became free", told, freed)
	}
	check(h.Hold(ctx, "x", ds+"@b"))
	if n, err := h.Reclaimable(ctx, ds, "b"); err == nil {
		t.Logf("a held snapshot is said to free %d bytes", n)
	}
	check(h.Release(ctx, "x", ds+"@b"))
}
