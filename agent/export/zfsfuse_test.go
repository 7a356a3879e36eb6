package export

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/zfs/zfstest/realzfs"
)

// insideRole says that this process has mounts of its own, so that a zfs-fuse of
// its own runs beside others.
const insideRole = "TARN_EXPORT_TEST_ZFS_FUSE"

// TestGaneshaOnZFSFuse runs TestInsideZFSFuse where it disturbs nobody.
func TestGaneshaOnZFSFuse(t *testing.T) {
	needRoot(t)
	need(t, "zfs-fuse", "zpool", "ganesha.nfsd", "dbus-daemon", "nfs-cat", "nfs-cp", "nfs-ls")
	if _, err := os.Stat("/dev/fuse"); err != nil {
		if os.Getenv("TARN_REQUIRE_ALL") == "1" {
			t.Fatalf("no FUSE here, and nothing may be skipped: %v", err)
		}
		t.Skipf("no FUSE here: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestInsideZFSFuse$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), insideRole+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "=== ") {
			t.Log(line)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestInsideZFSFuse(t *testing.T) {
	if os.Getenv(insideRole) == "" {
		t.Skip("runs as part of TestGaneshaOnZFSFuse")
	}
	dir := shortDir(t)
	startZFSFuse(t)
	for _, pool := range []string{"a", "b"} {
		zfsCommand(t, "truncate", "-s", "128M", filepath.Join(dir, pool+".img"))
		zfsCommand(t, "zpool", "create", "-m", filepath.Join(dir, pool), pool, filepath.Join(dir, pool+".img"))
		t.Cleanup(func() { zfsCommand(t, "zpool", "destroy", "-f", pool) })
	}
	for _, dataset := range []string{"a/a", "a/b"} {
		zfsCommand(t, "zfs", "create", dataset)
	}
	server := freePort(t, "127.0.0.1")
	g := newGanesha(t, dir, server)
	g.config.Mounts = true
	stop := runExporter(t, g)
	until(t, 30*time.Second, func() error { return g.runner.answers(t.Context()) })
	checkRules(t, g, 4, server, filepath.Join(dir, "a"))
	for _, m := range []string{"a/a", "a/b"} {
		mustRemove(t, g, filepath.Join(dir, m))
	}
	checkHandles(t, g, server, dir)
	checkBoot(t, g, stop, newClient(t, 4, "127.0.0.5", server), "a/a", filepath.Join(dir, "a/a"))
}

// startZFSFuse hides the machine's own zfs-fuse from this process and starts another.
func startZFSFuse(t *testing.T) {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"/var/run/zfs", "/var/lib/zfs", "/var/lock/zfs"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("zfs-fuse", "--no-daemon", "--no-kstat-mount", "-m", "64")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	until(t, 20*time.Second, func() error {
		_, err := os.Stat("/var/run/zfs/zfs_socket")
		return err
	})
}

func zfsCommand(t *testing.T, name string, args ...string) {
	t.Helper()
	until(t, 10*time.Second, func() error { // the daemon may not listen yet, the server may let go in a moment
		switch name { // what zfs-fuse has not heard of is let settle there
		case "zfs":
			return realzfs.Zfs(args...)
		case "zpool":
			return realzfs.Zpool(args...)
		}
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
		}
		return nil
	})
}

// checkHandles moves a share to the other pool's copy, as a promotion does between
// hosts. NFS-Ganesha puts the file system's own number into its handles, so those
// of open files are stale there, and are told to be: they never mean another file.
func checkHandles(t *testing.T, g *Ganesha, server netip.AddrPort, dir string) {
	t.Helper()
	zfsCommand(t, "zfs", "create", "a/s")
	from, to := filepath.Join(dir, "a", "s"), filepath.Join(dir, "b", "s")
	zfsCommand(t, "chmod", "1777", from)
	if err := os.WriteFile(filepath.Join(from, "f"), []byte("content"), 0o666); err != nil {
		t.Fatal(err)
	}
	zfsCommand(t, "chmod", "666", filepath.Join(from, "f"))
	rules := exportsOf(shareFSID, rule("w", "127.0.0.5", rw))
	mustApply(t, g, from, rules, false)
	client := newRawClient(t, newClient(t, 4, "127.0.0.5", server).addr)
	handle := client.handle(filepath.Join(from, "f"))
	if got := client.read(handle); got != "content" {
		t.Fatalf("by its handle the file reads %q", got)
	}
	system := systemHandle(t, filepath.Join(from, "f"))

	mustRemove(t, g, from)
	if got := client.read(handle); got != stale {
		t.Errorf("without an export the file reads %q", got)
	}
	zfsCommand(t, "zfs", "snapshot", "a/s@final")
	zfsCommand(t, "sh", "-c", "zfs send a/s@final | zfs receive b/s")
	zfsCommand(t, "zfs", "unmount", "a/s")
	mustApply(t, g, to, rules, false)
	if got := systemHandle(t, filepath.Join(to, "f")); !bytes.Equal(got, system) {
		t.Errorf("ZFS gave the copy of the file another number: handle %x, was %x", got, system)
	}
	if got := client.read(handle); got != stale {
		t.Errorf("after the move the old handle reads %q", got)
	}
	now := client.handle(filepath.Join(to, "f"))
	t.Logf("handle on the copy %x, was %x", now, handle)
	client.write(now, "CONT")
	if got, err := os.ReadFile(filepath.Join(to, "f")); err != nil || string(got) != "CONTent" {
		t.Errorf("on the copy is %q, %v", got, err)
	}

	// Nothing of the copy is in any cache.
	mustRemove(t, g, to)
	zfsCommand(t, "zfs", "unmount", "b/s")
	zfsCommand(t, "zfs", "mount", "b/s")
	if err := g.table.put(Export{Mountpoint: from, FSID: shareFSID, Squash: SquashRoot, Clients: []Client{}}); err != nil {
		t.Fatal(err)
	}
	// It was there before, and is not mounted: the record is in nobody's way.
	mustApply(t, g, to, rules, false)
	t.Logf("FUSE, mounted again: by its handle the file reads %q", client.read(now))
	mustRemove(t, g, to)
}

// stale is NFS4ERR_STALE as read answers it.
const stale = "status 70"

// systemHandle is what the kernel makes of a file.
func systemHandle(t *testing.T, path string) []byte {
	t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		t.Fatal(err)
	}
	return h.Bytes()
}

// rawClient speaks NFSv4.0 without any state: handles, and reads and writes with
// the anonymous stateid.
type rawClient struct {
	t    *testing.T
	conn net.Conn
	xid  uint32
}

func newRawClient(t *testing.T, addr netip.AddrPort) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t: t, conn: conn}
}

func opaque(b []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	return append(append(out, b...), make([]byte, (4-len(b)%4)%4)...)
}

func words(v ...uint32) []byte {
	var out []byte
	for _, w := range v {
		out = binary.BigEndian.AppendUint32(out, w)
	}
	return out
}

// Operations of NFSv4.
const (
	opGetFH     = 10
	opLookup    = 15
	opPutFH     = 22
	opPutRootFH = 24
	opRead      = 25
	opWrite     = 38
)

// compound sends operations as the user 1000 and returns the last one's result, its status first.
func (c *rawClient) compound(operations ...[]byte) []byte {
	c.t.Helper()
	c.xid++
	cred := append(append(words(0), opaque([]byte("raw"))...), words(1000, 1000, 0)...)
	body := append(words(c.xid, 0, 2, 100003, 4, 1, 1), opaque(cred)...)
	body = append(append(body, words(0, 0)...), opaque(nil)...)
	body = append(body, words(0, uint32(len(operations)))...)
	body = append(body, bytes.Join(operations, nil)...)
	if _, err := c.conn.Write(append(words(uint32(len(body))|1<<31), body...)); err != nil {
		c.t.Fatal(err)
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(c.conn, head); err != nil {
		c.t.Fatal(err)
	}
	reply := make([]byte, binary.BigEndian.Uint32(head)&^(1<<31))
	if _, err := io.ReadFull(c.conn, reply); err != nil {
		c.t.Fatal(err)
	}
	// Up to the status of the whole: xid, reply, accepted, verifier, accepted.
	result := reply[24:]
	if status := binary.BigEndian.Uint32(result); status != 0 {
		return result[:4]
	}
	rest := result[12:] // the status of the whole, an empty tag, the count
	for _, op := range operations {
		number := binary.BigEndian.Uint32(op)
		if binary.BigEndian.Uint32(rest) != number {
			c.t.Fatalf("answer to another operation: %x", rest)
		}
		if number == opGetFH || number == opRead || number == opWrite {
			return rest[4:]
		}
		rest = rest[8:]
	}
	return rest
}

func (c *rawClient) handle(path string) []byte {
	c.t.Helper()
	ops := [][]byte{words(opPutRootFH)}
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		ops = append(ops, append(words(opLookup), opaque([]byte(name))...))
	}
	result := c.compound(append(ops, words(opGetFH))...)
	if binary.BigEndian.Uint32(result) != 0 {
		c.t.Fatalf("lookup of %s: status %d", path, binary.BigEndian.Uint32(result))
	}
	n := binary.BigEndian.Uint32(result[4:])
	return result[8 : 8+n]
}

// read answers with the file's beginning, or "status N".
func (c *rawClient) read(handle []byte) string {
	c.t.Helper()
	result := c.compound(append(words(opPutFH), opaque(handle)...), words(opRead, 0, 0, 0, 0, 0, 0, 100))
	if s := binary.BigEndian.Uint32(result); s != 0 {
		return fmt.Sprintf("status %d", s)
	}
	n := binary.BigEndian.Uint32(result[8:])
	return string(result[12 : 12+n])
}

func (c *rawClient) write(handle []byte, content string) {
	c.t.Helper()
	result := c.compound(append(words(opPutFH), opaque(handle)...), append(words(opWrite, 0, 0, 0, 0, 0, 0, 2), opaque([]byte(content))...))
	if s := binary.BigEndian.Uint32(result); s != 0 {
		c.t.Errorf("write: %v", errors.New(fmt.Sprint("status ", s)))
	}
}
