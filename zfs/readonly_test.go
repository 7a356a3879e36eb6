package zfs_test

import (
	"errors"
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
		"pwrite": func() error { _, err := unix.Pwrite(fd, []byte("changed"), 0); return err },
		"mmap": func() error {
			copy(mapped, "changed by a mapping")
			return unix.Msync(mapped, unix.MS_SYNC)
		},
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
// behaves worse than that.
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
	defer f.Close() //nolint:errcheck // read only by then
	dir, err := os.Open(path)
	ok(t, err)
	defer dir.Close() //nolint:errcheck // a directory
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	ok(t, err)
	defer unix.Munmap(mapped) //nolint:errcheck // before the pool goes
	ok(t, h.Set(ctx, ds, map[string]string{zfs.PropReadOnly: "on"}))
	for name, write := range writers(f, dir, mapped) {
		ok(t, h.Snapshot(ctx, ds+"@"+name))
		err := write()
		ok(t, h.Sync(ctx, pool.Name))
		d, getErr := h.Dataset(ctx, ds)
		ok(t, getErr)
		t.Logf("%s: %v, written %d", name, err, d.Written)
		fenced := errors.Is(err, unix.EROFS) && d.Written == 0
		if !fenced && realzfs.Kernel() && name != "mmap" {
			t.Errorf("%s went through readonly=on: %v, written %d", name, err, d.Written)
		}
	}
	if again, err := os.OpenFile(path+"/f", os.O_RDWR, 0); err == nil {
		t.Log("a new open for writing worked while an old one was there")
		if ok(t, again.Close()); realzfs.Kernel() {
			t.Error("it may not")
		}
	}
}

// TestReadOnlyMounts: without open files nobody writes to a read-only filesystem,
// whether it was mounted before or after.
func TestReadOnlyMounts(t *testing.T) {
	pool := realzfs.NewPool(t, 128)
	h := open(t, pool)
	ctx := t.Context()
	ds, file := pool.Name+"/ro", pool.Dir+"/ro/f"
	ok(t, h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "on"}, false))
	ok(t, os.WriteFile(file, nil, 0o644))
	writable := func(want bool, when string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString("x")
			err = errors.Join(err, f.Close())
		}
		if want && err != nil || !want && !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", when, err)
		}
	}
	for _, value := range []string{"on", "off"} {
		ok(t, h.Set(ctx, ds, map[string]string{zfs.PropReadOnly: value}))
		writable(value == "off", "while mounted, "+value)
		ok(t, h.Unmount(ctx, ds, false))
		ok(t, h.Mount(ctx, ds))
		writable(value == "off", "mounted again, "+value)
	}
	ok(t, h.Set(ctx, pool.Name, map[string]string{zfs.PropReadOnly: "on"}))
	ok(t, h.Inherit(ctx, ds, zfs.PropReadOnly))
	writable(false, "inherited")
	ok(t, h.Unmount(ctx, ds, false))
	ok(t, h.Inherit(ctx, pool.Name, zfs.PropReadOnly))
	ok(t, h.Mount(ctx, ds))
	writable(true, "back to the default")
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
