package nfs3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestNothingOutsideTheTreeIsReached(t *testing.T) {
	top := t.TempDir()
	dir, outside := filepath.Join(top, "tree"), filepath.Join(top, "outside")
	put(t, filepath.Join(outside, "secret"), "secret")
	put(t, filepath.Join(dir, "d", "f"), "inside")
	for name, target := range map[string]string{"abs": outside, "rel": "../outside", "file": "../outside/secret", "self": "."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, nil, dir)
	root := r.root()
	for _, name := range []string{"abs", "rel", "file", "self"} {
		link := r.lookup(root, name)
		r.expect(statusNotDir, procLookup, link, "secret")
		if _, s := r.read(link); s == statusOK {
			t.Errorf("%s was read", name)
		}
		if s, _ := r.call(procWrite, link, uint64(0), 1, 2, []byte("x")); s == statusOK {
			t.Errorf("%s was written", name)
		}
		if s, _ := r.raw(procSetAttr, append(append(args(link), sattr(0o777)...), 0, 0, 0, 0)); s != statusOK {
			t.Errorf("attributes of a link: %d", s) // which changes nothing
		}
	}
	for _, name := range []string{"../outside", "d/f", "", ".", "..", "a\x00b"} {
		if s, _ := r.raw(procMkdir, append(args(root, name), noAttributes()...)); s != statusInval {
			t.Errorf("directory %q: %d", name, s)
		}
	}
	r.expect(statusNameTooLong, procLookup, root, strings.Repeat("x", 256))
	up := r.lookup(root, "..")
	if !bytes.Equal(up, root) {
		t.Error("above the root is something else than the root")
	}
	// A directory that becomes a link under the server's eyes.
	d := r.lookup(root, "d")
	if err := os.Rename(filepath.Join(dir, "d"), filepath.Join(top, "away")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	r.expect(statusStale, procLookup, d, "secret")
	if data, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(data) != "secret" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestHandlesLiveAsLongAsTheirFile(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a", "b", "f"), "one")
	r := newRig(t, nil, dir)
	root := r.root()
	a := r.lookup(root, "a")
	f := r.lookup(r.lookup(a, "b"), "f")
	r.expect(statusOK, procRename, root, "a", root, "z")
	if got, s := r.read(f); s != statusOK || got != "one" {
		t.Errorf("after a rename of a client: %q, %d", got, s)
	}
	if err := os.Rename(filepath.Join(dir, "z", "b"), filepath.Join(dir, "y")); err != nil {
		t.Fatal(err)
	}
	if got, s := r.read(f); s != statusOK || got != "one" {
		t.Errorf("after a rename on the host: %q, %d", got, s)
	}
	again := newRig(t, nil, dir) // as after a restart
	if got, s := again.read(f); s != statusOK || got != "one" {
		t.Errorf("after a restart: %q, %d", got, s)
	}
	// The next file may get the same inode number.
	if err := os.Remove(filepath.Join(dir, "y", "f")); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "y", "f"), "two")
	for _, x := range []*rig{r, again} {
		if got, s := x.read(f); s != statusStale {
			t.Errorf("handle of a removed file reads %q, %d", got, s)
		}
	}
	forged := bytes.Clone(root)
	forged[16]++
	r.expect(statusStale, procGetAttr, forged)
	r.expect(statusBadHandle, procGetAttr, []byte("short"))
	other := newRig(t, func(c *Config) { c.Key = bytes.Repeat([]byte{8}, 32) }, dir)
	other.expect(statusStale, procGetAttr, root)
}

func TestFilesAreMadeChangedAndRemoved(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, nil, dir)
	root := r.root()
	const name = "n\xe4me\xff \u00fc" // names are bytes
	s, d := r.raw(procCreate, append(args(root, name, guarded), sattr(0o640)...))
	if s != statusOK || !d.flag() {
		t.Fatalf("create: %d", s)
	}
	f := d.handle()
	if s, _ := r.raw(procCreate, append(args(root, name, guarded), sattr(0o640)...)); s != statusExist {
		t.Errorf("create again: %d", s)
	}
	if s, _ := r.raw(procCreate, append(args(root, name, unchecked), sattr(0o777)...)); s != statusOK {
		t.Errorf("create unchecked: %d", s)
	}
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	verifier, otherVerifier := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, [8]byte{9}
	r.expect(statusOK, procCreate, root, "excl", exclusive, verifier)
	r.expect(statusOK, procCreate, root, "excl", exclusive, verifier) // sent again
	r.expect(statusExist, procCreate, root, "excl", exclusive, otherVerifier)

	r.expect(statusOK, procWrite, f, uint64(2), 3, unstable, []byte("abc"))
	r.expect(statusOK, procWrite, f, uint64(0), 2, fileSync, []byte("xy"))
	r.expect(statusInval, procWrite, f, uint64(0), 9, fileSync, []byte("xy"))
	r.expect(statusOK, procCommit, f, uint64(0), 0)
	if got, _ := r.read(f); got != "xyabc" {
		t.Errorf("read %q", got)
	}
	// Beyond what a snapshot can hold.
	r.expect(statusFBig, procWrite, f, uint64(maxFile-1), 2, fileSync, []byte("xy"))
	r.expect(statusFBig, procSetAttr, f, 0, 0, 0, 1, uint64(maxFile+1), 0, 0, 0)
	// Size 3, modification at 5 s of the epoch.
	r.raw(procSetAttr, append(args(f), args(0, 0, 0, 1, uint64(3), 0, 2, 5, 0, 0)...))
	if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != 3 || info.ModTime().Unix() != 5 {
		t.Errorf("%v, %v", info, err)
	}
	if s, _ := r.raw(procSetAttr, append(append(args(f), noAttributes()...), args(1, 7, 7)...)); s != statusNotSync {
		t.Errorf("guarded change: %d", s)
	}
	if s, _ := r.raw(procMkdir, append(args(root, "dir"), sattr(0o1775)...)); s != statusOK {
		t.Errorf("mkdir: %d", s)
	}
	r.expect(statusIsDir, procRemove, root, "dir")
	r.expect(statusNotDir, procRmdir, root, name)
	sub := r.lookup(root, "dir")
	r.expect(statusOK, procHard, f, sub, "hard")
	r.expect(statusNotEmpty, procRmdir, root, "dir")
	r.expect(statusOK, procRename, sub, "hard", root, "moved")
	r.expect(statusOK, procRmdir, root, "dir")
	s, d = r.raw(procSymlink, append(append(args(root, "link"), noAttributes()...), args("/etc/passwd")...))
	if s != statusOK || !d.flag() {
		t.Fatalf("symlink: %d", s)
	}
	s, d = r.call(procLink, d.handle())
	r.skipAttributes(d)
	if target := string(d.bytes(100)); s != statusOK || target != "/etc/passwd" {
		t.Errorf("readlink: %d %q", s, target)
	}
	r.expect(statusNotSupp, procMknod, root)
	r.expect(statusOK, procRemove, root, "moved")
	r.expect(statusNoEnt, procRemove, root, "moved")
	r.expect(statusOK, procFsStat, root)
}

func TestListingsSeeEachNameOnce(t *testing.T) {
	dir := t.TempDir()
	const files = 900
	for i := range files {
		put(t, filepath.Join(dir, fmt.Sprintf("f%04d-%s", i, strings.Repeat("x", i%50))), "")
	}
	r := newRig(t, nil, dir)
	root := r.root()
	for _, proc := range []uint32{procReadDir, procPlus} {
		seen, cookie := map[string]int{}, uint64(0)
		for page := 0; ; page++ {
			put(t, filepath.Join(dir, fmt.Sprintf("new%d-%d", proc, page)), "") // somebody works in it
			var s status
			var d *decoder
			if proc == procReadDir {
				s, d = r.call(proc, root, cookie, [8]byte{}, 4096)
			} else {
				s, d = r.call(proc, root, cookie, [8]byte{}, 4096, 8192)
			}
			if s != statusOK {
				t.Fatalf("listing: %d", s)
			}
			r.skipAttributes(d)
			_ = d.u64()
			for d.flag() {
				_ = d.u64()
				name := d.name()
				seen[name]++
				cookie = d.u64()
				if proc == procPlus {
					r.skipAttributes(d)
					if !d.flag() || len(d.handle()) != handleBytes {
						t.Fatal("no handle")
					}
				}
			}
			if end := d.flag(); d.err != nil || end {
				break
			}
		}
		old := 0
		for name, n := range seen {
			if n != 1 {
				t.Errorf("%s is listed %d times", name, n)
			}
			if strings.HasPrefix(name, "f") {
				old++
			}
		}
		if old != files || seen["."] != 1 || seen[".."] != 1 {
			t.Errorf("procedure %d lists %d files of %d", proc, old, files)
		}
	}
	r.expect(statusTooSmall, procReadDir, root, uint64(0), [8]byte{}, 50)
	r.expect(statusNotDir, procReadDir, r.lookup(root, "f0000-"), uint64(0), [8]byte{}, 4096)
}

// What a stopped agent wakes up to do is not confirmed, and nothing new begins.
func TestNothingIsConfirmedWithoutTheRightToServe(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "old")
	var asked, until atomic.Int64
	until.Store(1 << 30)
	r := newRig(t, func(c *Config) {
		c.Serving = func(path string, readOnly bool) bool {
			if path != dir || readOnly {
				t.Errorf("asked about %s, %v", path, readOnly)
			}
			return asked.Add(1) <= until.Load()
		}
	}, dir)
	root := r.root()
	f := r.lookup(root, "f")
	until.Store(asked.Load() + 1) // before the write, not after it
	r.expect(statusJukebox, procWrite, f, uint64(0), 3, fileSync, []byte("new"))
	r.expect(statusJukebox, procWrite, f, uint64(0), 3, fileSync, []byte("xxx"))
	if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(got) != "new" {
		t.Errorf("file is %q, %v", got, err)
	}
	until.Store(1 << 30)
	if got, s := r.read(f); s != statusOK || got != "new" {
		t.Errorf("with the right again: %q, %d", got, s)
	}
	// Moved away, as a dead-man does it, and another tree in its place.
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	r.expect(statusJukebox, procGetAttr, root)
	put(t, filepath.Join(dir, "f"), "other")
	r.expect(statusStale, procGetAttr, root)
	r.expect(statusStale, procGetAttr, f)
}

func TestRulesHoldForEveryRequest(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "x")
	r := newRig(t, nil, dir)
	root := r.root()
	f := r.lookup(root, "f")
	set := func(readOnly, ok bool) {
		if err := r.server.Export(Export{Path: dir, FSID: testFSID, Access: func(a netip.Addr) (bool, bool) {
			return readOnly, ok && a == netip.MustParseAddr("127.0.0.1")
		}}); err != nil {
			t.Fatal(err)
		}
	}
	set(true, true)
	r.expect(statusOK, procGetAttr, f)
	r.expect(statusROFS, procWrite, f, uint64(0), 1, fileSync, []byte("y"))
	r.expect(statusROFS, procRemove, root, "f")
	if s, d := r.call(procAccess, root, 0x3f); s != statusOK {
		t.Errorf("access: %d", s)
	} else if r.skipAttributes(d); d.u32()&(accessModify|accessExtend|accessDelete) != 0 {
		t.Error("access promises writes")
	}
	set(false, false)
	r.expect(statusAcces, procGetAttr, f)
	if _, d := r.send(programMount, 3, 1, args(dir)); d.u32() != uint32(statusAcces) {
		t.Error("mounted without a rule")
	}
	if _, d := r.send(programMount, 3, 5, nil); d.flag() {
		t.Error("sees what it may not reach")
	}
	set(false, true)
	if _, d := r.send(programMount, 3, 5, nil); !d.flag() || d.name() != dir {
		t.Error("does not see what it may reach")
	}
	if err := r.server.Export(Export{Path: dir + "2", FSID: testFSID, Access: anybody}); err == nil {
		t.Error("two trees with one fsid")
	}
	if err := r.server.Unexport(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	r.expect(statusStale, procGetAttr, f)
}

// Unexport waits for what runs, and then nothing of the tree is open.
func TestUnexportLeavesNothingOpen(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), strings.Repeat("x", 1000))
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var block atomic.Bool
	r := newRig(t, func(c *Config) {
		c.Serving = func(string, bool) bool {
			if block.Load() {
				once.Do(func() { close(entered); <-leave })
			}
			return true
		}
	}, dir)
	f := r.lookup(r.root(), "f")
	block.Store(true)
	read := make(chan status, 1)
	go func() {
		_, s := r.read(f)
		read <- s
	}()
	<-entered
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.server.Unexport(short, dir); err == nil {
		t.Error("a request runs and the tree is said to be free")
	}
	done := make(chan error, 1)
	go func() { done <- r.server.Unexport(t.Context(), dir) }()
	close(leave)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	<-read
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if at, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(at, dir) {
			t.Errorf("%s is open", at)
		}
	}
}

// othersDir is a directory that other users than this process's, root, reach.
func othersDir(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can act for others")
	}
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestUsersAreWhoTheyAreUnlessSquashed(t *testing.T) {
	dir := othersDir(t)
	for _, d := range []string{dir, filepath.Join(dir, "open")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o777); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"root": 0o600, "group": 0o640} {
		put(t, filepath.Join(dir, name), name)
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "group"), 0, 4242); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, nil, dir)
	root := r.root()
	for _, c := range []struct {
		who         who
		squash      Squash
		root, group status
		owner       uint32
	}{
		{who{}, SquashNone, statusOK, statusOK, 0},
		{who{}, SquashRoot, statusAcces, statusAcces, nobody},
		{who{uid: 1000, gid: 1000}, SquashRoot, statusAcces, statusAcces, 1000},
		{who{uid: 1000, gid: 1000, gids: []uint32{5, 4242}}, SquashRoot, statusAcces, statusOK, 1000},
		{who{uid: 1000, gid: 4242}, SquashAll, statusAcces, statusAcces, nobody},
	} {
		if err := r.server.Export(Export{Path: dir, FSID: testFSID, Squash: c.squash, Access: anybody}); err != nil {
			t.Fatal(err)
		}
		r.who = c.who
		if _, s := r.read(r.lookup(root, "root")); s != c.root {
			t.Errorf("%+v squashed by %d reads root's file: %d", c.who, c.squash, s)
		}
		if _, s := r.read(r.lookup(root, "group")); s != c.group {
			t.Errorf("%+v squashed by %d reads the group's file: %d", c.who, c.squash, s)
		}
		name := fmt.Sprintf("by%d-%d", c.who.uid, c.squash)
		s, _ := r.raw(procCreate, append(args(r.lookup(root, "open"), name, unchecked), sattr(0o644)...))
		info, err := os.Stat(filepath.Join(dir, "open", name))
		if s != statusOK || err != nil || info.Sys().(*syscall.Stat_t).Uid != c.owner {
			t.Errorf("%+v squashed by %d: made %v, %d, %v", c.who, c.squash, info, s, err)
		}
	}
	if os.Geteuid() != 0 {
		t.Error("the process is somebody else now")
	}
}

func TestWhatIsNoRequestIsRefused(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, func(c *Config) { c.MaxConnections = 8 }, dir)
	for _, c := range []struct {
		program, version, proc uint32
		want                   uint32
	}{
		{programNFS, 3, 0, 0}, {programMount, 3, 0, 0}, {programNFS, 4, 0, 2}, {programNFS, 3, 22, 3}, {100000, 2, 3, 1}, {programNFS, 3, procRead, 4},
	} {
		if got, _ := r.send(c.program, c.version, c.proc, nil); got != c.want {
			t.Errorf("%+v is answered with %d", c, got)
		}
	}
	if got, _ := r.send(programNFS, 3, procWrite, append(args(r.root(), uint64(0), 0, 0), 0x7f, 0xff, 0xff, 0xff)); got != 4 {
		t.Errorf("2 GiB of data are answered with %d", got)
	}
	// A fourth of all connections is enough for one address: this one and another.
	var refused net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		refused = conn
	}
	if err := refused.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(refused, make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection too many is not refused: %v", err)
	}
}

func TestPortsOfOrdinaryProgramsAreRefusedUnlessAllowed(t *testing.T) {
	r := newRig(t, func(c *Config) { c.AnyPort = false }, t.TempDir())
	if _, err := r.conn.Read(make([]byte, 1)); err == nil {
		t.Error("served")
	}
}

func FuzzRequest(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		f.Fatal(err)
	}
	s, err := New(Config{Key: make([]byte, 16)})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Export(Export{Path: dir, FSID: testFSID, Squash: SquashNone, Access: func(netip.Addr) (bool, bool) { return true, true }}); err != nil {
		f.Fatal(err)
	}
	p, err := s.trees[dir].enter()
	if err != nil {
		f.Fatal(err)
	}
	root := s.seal.handle(testFSID, p.root)
	if err := p.dir.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(procLookup), args(root, "f"))
	f.Add(uint8(procPlus), args(root, uint64(0), [8]byte{}, 4096, 8192))
	f.Add(uint8(procRename), args(root, "f", root, "g"))
	f.Fuzz(func(t *testing.T, proc uint8, arguments []byte) {
		table := append(nfsProcedures(), mountProcedures()...)
		p := table[int(proc)%len(table)]
		c := &call{session: &session{Server: s, ctx: t.Context()}, in: decoder{r: bytes.NewReader(arguments)}}
		run := p.decode(c)
		if c.in.err != nil {
			return
		}
		if err := c.answer(p, run); err != nil {
			t.Fatal(err)
		}
		if len(c.out.b)%4 != 0 || len(c.out.b) > 2*maxData {
			t.Fatalf("answer of %d bytes", len(c.out.b))
		}
	})
}
