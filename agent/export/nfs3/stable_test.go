package nfs3

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// disk notes how each file was when it was last put on disk.
type disk struct {
	mu   sync.Mutex
	last map[string]string // by name
}

func (d *disk) sync(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last[filepath.Base(filepath.Clean(f.Name()))] = look(info)
	return f.Sync()
}

func look(info os.FileInfo) string {
	return fmt.Sprint(info.Mode(), info.Size(), info.ModTime().UnixNano())
}

// check compares a file as it is with how it is on disk.
func (d *disk) check(t *testing.T, file string) {
	t.Helper()
	info, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if was, is := d.last[filepath.Base(file)], look(info); was != is {
		t.Errorf("%s is %s, on disk %q", file, is, was)
	}
}

// TestWhatIsAnsweredIsOnDisk: version 3 promises that of all changes but unstable writes.
func TestWhatIsAnsweredIsOnDisk(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "content")
	put(t, filepath.Join(dir, "d", "g"), "content")
	if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	d := &disk{last: map[string]string{}}
	r := newRig(t, func(c *Config) { c.sync = d.sync }, dir)
	root := r.root()
	set := func(name string, attributes []byte) {
		t.Helper()
		if s, _ := r.raw(procSetAttr, append(append(args(r.lookup(root, name)), attributes...), 0, 0, 0, 0)); s != statusOK {
			t.Fatalf("attributes of %s: %d", name, s)
		}
	}
	for _, mode := range []int{0o640, 0o200, 0o600} {
		set("f", sattr(mode))
		if mode == 0o200 && os.Geteuid() != 0 {
			continue // all of the file system was, which nobody sees
		}
		d.check(t, filepath.Join(dir, "f"))
	}
	set("d", sattr(0o711))
	d.check(t, filepath.Join(dir, "d"))
	set("f", sized(3))
	d.check(t, filepath.Join(dir, "f"))
	set("f", timed(time.Unix(1_000_000, 0)))
	d.check(t, filepath.Join(dir, "f"))
	set("l", owned(os.Getuid()))

	if s, _ := r.raw(procCreate, append(args(root, "made", guarded), sattr(0o444)...)); s != statusOK {
		t.Fatal(s)
	}
	d.check(t, filepath.Join(dir, "made"))
	d.check(t, dir)
	if s, _ := r.raw(procMkdir, append(args(root, "sub"), sattr(0o711)...)); s != statusOK {
		t.Fatal(s)
	}
	d.check(t, filepath.Join(dir, "sub"))
	d.check(t, dir)
}

// sized, timed and owned are sattr3 with one attribute.
func sized(n uint64) []byte {
	var e encoder
	e.b = append(e.b, make([]byte, 12)...)
	e.u32(1)
	e.u64(n)
	e.b = append(e.b, make([]byte, 8)...)
	return e.b
}

func timed(at time.Time) []byte {
	var e encoder
	e.b = append(e.b, make([]byte, 20)...)
	e.u32(2)
	e.time(instantOf(at.Unix(), 0))
	return e.b
}

func owned(uid int) []byte {
	var e encoder
	for _, v := range []uint32{0, 1, uint32(uid), 0, 0, 0, 0} {
		e.u32(v)
	}
	return e.b
}

// TestOwnersReadAndWriteWhateverTheMode: a program makes a file that is read-only and fills
// it, as git, install and cp -p do. Nobody else gets further by it.
func TestOwnersReadAndWriteWhateverTheMode(t *testing.T) {
	dir := othersDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, nil, dir)
	root := r.root()
	for _, mode := range []int{0o444, 0} {
		name := fmt.Sprintf("f%o", mode)
		r.who = who{uid: 1000, gid: 1000}
		if s, _ := r.raw(procCreate, append(args(root, name, guarded), sattr(mode)...)); s != statusOK {
			t.Fatal(s)
		}
		f := r.lookup(root, name)
		r.expect(statusOK, procWrite, f, uint64(0), 3, unstable, []byte("abc"))
		r.expect(statusOK, procCommit, f, uint64(0), 0)
		if got, s := r.read(f); s != statusOK || got != "abc" {
			t.Errorf("its owner reads %q, %d", got, s)
		}
		r.who = who{uid: 1001, gid: 1000}
		r.expect(statusAcces, procWrite, f, uint64(0), 3, fileSync, []byte("xyz"))
		if _, s := r.read(f); mode == 0 && s != statusAcces {
			t.Errorf("another reads it: %d", s)
		}
		if s, _ := r.raw(procSetAttr, append(append(args(f), sized(0)...), 0, 0, 0, 0)); s != statusAcces {
			t.Errorf("another cuts it: %d", s)
		}
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != "abc" {
			t.Errorf("%q, %v", data, err)
		}
	}
}

// TestFaultLeavesNothingOpen: a procedure that panics costs a connection, not an unmount.
func TestFaultLeavesNothingOpen(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, nil, dir)
	c := &call{session: &session{Server: r.server, peer: netip.MustParseAddr("127.0.0.1")}}
	var held *place
	err := c.answer(procedure{name: "TEST"}, func() error {
		return c.inside(r.server.byFSID(testFSID), reads, func(p *place, _ Export, _ bool) error {
			held = p
			return who{uid: 1000, gid: 1000}.do(func() error { panic("a fault") })
		})
	})
	if err == nil || !strings.Contains(err.Error(), "a fault") {
		t.Errorf("%v", err)
	}
	if _, err := held.dir.Stat("."); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the tree is open: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Errorf("this thread is somebody else: %v", err)
	}
	if err := r.server.byFSID(testFSID).drain(t.Context()); err != nil {
		t.Error(err)
	}
}
