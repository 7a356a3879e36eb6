package zfstest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"tarn/zfs"
)

func mountTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"idempotent": testMountIdempotent,
		"busy":       testUnmountBusy,
		"force":      testUnmountForce,
		"readonly":   testReadOnly,
	}
}

func testMountIdempotent(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "m")
	writeFile(t, dir+"/f", []byte("1"))
	ok(t, s.Host.Mount(ctx, ds))
	ok(t, s.Host.Unmount(ctx, ds, false))
	ok(t, s.Host.Unmount(ctx, ds, false))
	if s.get(t, ds).Mounted {
		t.Error("mounted after unmount")
	}
	if _, err := os.Stat(dir + "/f"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file of an unmounted filesystem is reachable: %v", err)
	}
	ok(t, s.Host.Mount(ctx, ds))
	if got := readFile(t, dir+"/f"); string(got) != "1" {
		t.Errorf("after remount: %q", got)
	}
	ok(t, s.Host.Unmount(ctx, ds, false))
	ok(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropCanMount: "off"}))
	fails(t, s.Host.Mount(ctx, ds), zfs.ErrInvalid)
	fails(t, s.Host.Mount(ctx, s.Source+"/none"), zfs.ErrNotExist)
}

func testUnmountBusy(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "busy")
	f, err := os.Create(dir + "/open")
	ok(t, err)
	fails(t, s.Host.Unmount(ctx, ds, false), zfs.ErrBusy)
	if !s.get(t, ds).Mounted {
		t.Error("a refused unmount leaves the filesystem mounted")
	}
	_, err = f.WriteString("still writing")
	ok(t, errors.Join(err, f.Close()))
	if got := readFile(t, dir+"/open"); string(got) != "still writing" {
		t.Errorf("written through the handle: %q", got)
	}
	ok(t, s.Host.Unmount(ctx, ds, false))
}

// testUnmountForce: after nil nobody writes to the filesystem, whatever they hold.
func testUnmountForce(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "force")
	writeFile(t, dir+"/f", []byte("before"))
	s.snap(t, ds+"@1")
	f, err := os.OpenFile(dir+"/f", os.O_RDWR, 0)
	ok(t, err)
	defer f.Close() //nolint:errcheck // it may be dead
	if err := s.Host.Unmount(ctx, ds, true); err != nil {
		fails(t, err, zfs.ErrBusy) // an engine may be unable to, but must say so
		return
	}
	_, _ = f.WriteAt([]byte("after!"), 0) // may fail or reach an orphan
	if n := s.written(t, ds); s.get(t, ds).Mounted || s.caps.Written && n != 0 {
		t.Errorf("after a forced unmount: %d written, %+v", n, s.get(t, ds))
	}
	ok(t, s.Host.Mount(ctx, ds))
	if got := readFile(t, dir+"/f"); string(got) != "before" {
		t.Errorf("a stale handle wrote into the filesystem: %q", got)
	}
}

func testReadOnly(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "ro")
	ok(t, os.Mkdir(dir+"/d", 0o770))
	writeFile(t, dir+"/d/f", []byte("x"))
	ok(t, os.Chmod(dir+"/d/f", 0o664))
	before := readTree(t, dir)
	ok(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropReadOnly: "on"}))
	if os.Geteuid() != 0 {
		for _, path := range []string{"/d/f", "/d/new", "/new"} {
			if f, err := os.OpenFile(dir+path, os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
				t.Errorf("%s could be opened for writing", path)
				_ = f.Close()
			}
		}
	}
	s.snap(t, ds+"@1") // true modes travel, not the masked ones
	s.transfer(t, ds, "", "1", s.Target+"/ro@1")
	ok(t, s.Host.Mount(ctx, s.Target+"/ro"))
	sameTree(t, before, readTree(t, s.mountpoint(t, s.Target+"/ro")))
	ok(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropReadOnly: "off"}))
	sameTree(t, before, readTree(t, dir))
	writeFile(t, filepath.Join(dir, "d", "f"), []byte("again"))
}
