package zfstest

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"tarn/zfs"
)

func treeTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"everything": testEverything,
		"random":     testRandomTrees,
		"sparse":     testSparse,
	}
}

// testEverything has one of each kind of node.
func testEverything(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "all")
	path := func(n string) string { return filepath.Join(dir, n) }
	ok(t, os.MkdirAll(path("d/e/f"), 0o751))
	for _, n := range []string{"new\nline", "tab\t", "\xff\xfe not utf-8", " space ", "-dash", "d/e/@#%&", "ünï"} {
		writeFile(t, path(n), []byte(n))
	}
	writeFile(t, path("empty"), nil)
	writeFile(t, path("script"), []byte("#!/bin/sh\n"))
	ok(t, os.Chmod(path("script"), 0o755))
	writeFile(t, path("private"), []byte("secret"))
	ok(t, os.Chmod(path("private"), 0o400))
	ok(t, os.Link(path("script"), path("d/e/hard")))
	ok(t, os.Symlink("nowhere/at/all", path("dangling")))
	ok(t, os.Symlink("/etc/passwd", path("absolute")))
	ok(t, syscall.Mkfifo(path("fifo"), 0o620))
	ok(t, os.Mkdir(path("closed"), 0o500))
	old := time.Unix(123456789, 987654321)
	ok(t, os.Chtimes(path("script"), old, old))
	ok(t, os.Chtimes(path("d"), old, old))
	if err := syscall.Setxattr(path("script"), "user.tarn", []byte{0, 1, 2}, 0); err != nil {
		t.Logf("no user attributes here: %v", err)
	}
	s.snap(t, ds+"@1")
	want := readTree(t, dir)
	to := s.Target + "/all"
	s.transfer(t, ds, "", "1", to+"@1")
	ok(t, s.Host.Mount(ctx, to))
	sameTree(t, want, readTree(t, s.mountpoint(t, to)))
	if n := s.written(t, to); s.caps.Written && n != 0 {
		t.Errorf("written %d after mounting what was received", n)
	}
	ok(t, os.Remove(path("script")))
	ok(t, os.Chmod(path("private"), 0o600))
	s.snap(t, ds+"@2")
	s.transfer(t, ds, "@1", "2", to+"@2")
	sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
}

func testSparse(t *testing.T, s *suite) {
	const size = 1 << 30
	ds, dir := s.create(t, "sparse")
	writeFile(t, dir+"/s", []byte("start"))
	ok(t, os.Truncate(dir+"/s", size))
	overwrite(t, dir+"/s", size/2+12345, []byte("middle"))
	s.snap(t, ds+"@1")
	to := s.Target + "/sparse"
	s.transfer(t, ds, "", "1", to+"@1")
	ok(t, s.Host.Mount(t.Context(), to))
	var st unix.Stat_t
	got := s.mountpoint(t, to) + "/s"
	ok(t, unix.Stat(got, &st))
	if st.Size != size || st.Blocks*512 > 4<<20 {
		t.Errorf("size %d in %d bytes on disk", st.Size, st.Blocks*512)
	}
	f, err := os.Open(got)
	ok(t, err)
	defer f.Close() //nolint:errcheck // read only
	b := make([]byte, 8)
	_, err = f.ReadAt(b, size/2+12344)
	ok(t, err)
	if string(b) != "\x00middle\x00" {
		t.Errorf("content %q", b)
	}
}

// testRandomTrees: random work on a tree, snapshots between, a chain of streams.
// After each the replica is equal to what was snapshotted.
func testRandomTrees(t *testing.T, s *suite) {
	var serial atomic.Int64
	s.fewerChecks(t)
	rapid.Check(t, func(rt *rapid.T) {
		name := fmt.Sprintf("rnd%d", serial.Add(1))
		ds, dir := s.create(t, name)
		to := s.Target + "/" + name
		from := ""
		for round := range rapid.IntRange(2, 4).Draw(rt, "rounds") {
			for range rapid.IntRange(0, 12).Draw(rt, "ops") {
				randomOp(rt, dir)
			}
			snap := fmt.Sprintf("s%d", round)
			s.snap(t, ds+"@"+snap)
			want := readTree(t, dir)
			s.transfer(t, ds, from, snap, to+"@"+snap)
			if round == 0 {
				ok(t, s.Host.Set(t.Context(), to, map[string]string{zfs.PropReadOnly: rapid.SampledFrom([]string{"on", "off"}).Draw(rt, "readonly")}))
				ok(t, s.Host.Mount(t.Context(), to))
			}
			sameTree(t, want, readTree(t, s.mountpoint(t, to)))
			if n := s.written(t, to); s.caps.Written && n != 0 {
				t.Fatalf("written %d on the replica", n)
			}
			from = "@" + snap
		}
	})
}

// slowChecks is how many random trees an engine of real processes gets; its own suite,
// run with -rapid.checks, takes as many as are asked for.
const slowChecks = "12"

func (s *suite) fewerChecks(t *testing.T) {
	t.Helper()
	checks := flag.Lookup("rapid.checks")
	if !s.Slow || checks == nil || checks.Value.String() != checks.DefValue {
		return
	}
	ok(t, checks.Value.Set(slowChecks))
	t.Cleanup(func() { ok(t, checks.Value.Set(checks.DefValue)) })
}

// randomOp does one thing to a tree. Names are few, so that operations meet; what
// cannot be done is left out.
func randomOp(rt *rapid.T, dir string) {
	names := []string{"a", "b", "c", "d/a", "d/b", "d/e/a", "d/e/b", "e/a", "e/\xff", "z"}
	name := func(label string) string { return filepath.Join(dir, rapid.SampledFrom(names).Draw(rt, label)) }
	p := name("path")
	_ = os.MkdirAll(filepath.Dir(p), 0o755)
	var err error
	switch rapid.IntRange(0, 11).Draw(rt, "op") {
	case 0, 1, 2:
		err = os.WriteFile(p, random(rapid.SampledFrom([]int{0, 1, 100, 5000, 131072, 131073, 700_000}).Draw(rt, "size")), 0o644)
	case 3:
		err = writeSomewhere(p, int64(rapid.IntRange(0, 900_000).Draw(rt, "offset")))
	case 4:
		err = os.Truncate(p, int64(rapid.IntRange(0, 300_000).Draw(rt, "length")))
	case 5:
		err = os.RemoveAll(p)
	case 6:
		err = os.Mkdir(p, 0o755)
	case 7:
		err = os.Rename(name("from"), p)
	case 8:
		err = os.Symlink(rapid.SampledFrom([]string{"a", "../x", "/", "loop"}).Draw(rt, "target"), p)
	case 9:
		err = os.Link(name("from"), p)
	case 10:
		if info, statErr := os.Lstat(p); statErr == nil && info.Mode()&fs.ModeSymlink == 0 {
			err = os.Chmod(p, fs.FileMode(rapid.SampledFrom([]uint32{0o600, 0o644, 0o755, 0o700}).Draw(rt, "mode")))
		}
	case 11:
		err = os.RemoveAll(filepath.Dir(p) + "/e")
	}
	var expected syscall.Errno
	if err != nil && !errors.As(err, &expected) {
		rt.Fatal(err)
	}
}

func writeSomewhere(path string, off int64) error {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(random(3000), off)
	return errors.Join(err, f.Close())
}
