package zfs_test

import (
	"errors"
	"os"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestIntentLogIsReadByAReadOnlyMount: what a host has promised to be on disk and is in the
// intent log only, as after a crash, is in no snapshot before the dataset is mounted, or
// none can be taken before that. Mounting it read-only is enough.
func TestIntentLogIsReadByAReadOnlyMount(t *testing.T) {
	pool := realzfs.NewPool(t, 128)
	h := open(t, pool)
	ctx := t.Context()
	ds, file := pool.Name+"/crashed", pool.Dir+"/crashed/file"
	ok(t, h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "noauto"}, false))
	ok(t, h.Mount(ctx, ds))
	f, err := os.Create(file)
	ok(t, err)
	write := func(text string) {
		t.Helper()
		_, err := f.WriteAt([]byte(text), 0)
		ok(t, err)
		ok(t, f.Sync())
	}
	write("before") // A dataset's first makes its log, and so is on the disk.
	ok(t, h.Sync(ctx, pool.Name))
	write("promised")
	image, err := realzfs.Freeze(pool)
	ok(t, err)
	ok(t, f.Close())
	ok(t, realzfs.Crash(pool, image))

	read := func(snapshot string) string {
		t.Helper()
		copied := pool.Name + "/" + snapshot
		ok(t, h.Clone(ctx, ds+"@"+snapshot, copied, map[string]string{zfs.PropCanMount: "noauto"}))
		ok(t, h.Mount(ctx, copied))
		b, err := os.ReadFile(pool.Dir + "/" + snapshot + "/file")
		ok(t, err)
		ok(t, h.Unmount(ctx, copied, false))
		return string(b)
	}
	ok(t, h.Set(ctx, ds, map[string]string{zfs.PropReadOnly: "on"}))
	err = h.Snapshot(ctx, ds+"@unread")
	switch {
	case err != nil && !errors.Is(err, zfs.ErrBusy):
		t.Fatal(err)
	case err == nil && read("unread") != "before":
		t.Error("a snapshot from before the mount has it: then this test shows nothing")
	}
	t.Logf("a snapshot before the log is read: %v", err)
	ok(t, h.Mount(ctx, ds))
	ok(t, h.Unmount(ctx, ds, false))
	d, err := h.Dataset(ctx, ds)
	ok(t, err)
	ok(t, h.Snapshot(ctx, ds+"@read"))
	if got := read("read"); got != "promised" || d.Written == 0 {
		t.Errorf("after it was mounted read-only a snapshot has %q, %d bytes written", got, d.Written)
	}
}
