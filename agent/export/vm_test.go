package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	tarnv1 "tarn/proto/tarn/v1"
)

// These tests change the machine's NFS server, pools and network. They run in the
// virtual machine of test/vm, which sets TARN_VM.

// guest is a machine of its own with an NFS server and clients at several addresses.
type guest struct {
	*Kernel
	t       *testing.T
	dir     string
	clients int
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	if os.Getenv("TARN_VM") == "" {
		t.Skip("changes the machine: runs in the virtual machine of test/vm (make test-kernel)")
	}
	g := &guest{t: t, dir: t.TempDir()}
	if err := os.MkdirAll("/srv", 0o755); err != nil {
		t.Fatal(err)
	}
	k, err := NewKernel(KernelConfig{Table: filepath.Join(g.dir, "table.json"), Host: "10.9.5.1"})
	if err != nil {
		t.Fatal(err)
	}
	g.Kernel = k
	runExporter(t, k)
	if k.serving() != nil {
		g.run("nfs-up", "4")
	}
	return g
}

func (g *guest) run(name string, args ...string) string {
	g.t.Helper()
	out, err := command(g.t.Context(), name, args...)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

func command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// pool makes a pool in a file, gone at the end. A client may hold on for a moment.
func (g *guest) pool(name string) {
	g.t.Helper()
	file := filepath.Join(g.dir, name+".img")
	g.run("truncate", "-s", "200M", file)
	g.run("zpool", "create", "-m", "none", name, file)
	g.t.Cleanup(func() {
		if _, err := command(context.Background(), "exportfs", "-ua"); err != nil {
			g.t.Error(err)
		}
		until(g.t, 30*time.Second, func() error {
			if !g.flushable() {
				return errors.New("the kernel's caches do not settle")
			}
			_, err := command(context.Background(), "zpool", "destroy", "-f", name)
			return err
		})
	})
}

// share makes a dataset that anybody may write, with a file, mounted at a path.
func (g *guest) share(dataset, mountpoint string) {
	g.t.Helper()
	g.run("zfs", "create", "-o", "canmount=noauto", "-o", "mountpoint="+mountpoint, dataset)
	g.run("zfs", "mount", dataset)
	g.run("chmod", "1777", mountpoint)
	if err := os.WriteFile(filepath.Join(mountpoint, "hello"), []byte("hello\n"), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// unmount works at once after Remove.
func (g *guest) unmount(dataset string) {
	g.t.Helper()
	if _, err := command(g.t.Context(), "zfs", "unmount", dataset); err != nil {
		state, _ := command(g.t.Context(), "sh", "-c", "cat /proc/net/rpc/nfsd.*/content /proc/net/rpc/nfsd.export/flush; date +%s")
		g.t.Fatalf("%v\n%s", err, state)
	}
}

// client is a network namespace with an address of its own, 10.9.N.2; the server
// is 10.9.N.1 for it.
type client struct {
	t       *testing.T
	n       int    // part of its address
	net     string // its network namespace
	link    string // the server's end of its cable
	options string
	mounts  []string
}

func (g *guest) client(n int, options string) *client {
	g.t.Helper()
	// A network that clients still hold on to lives on: names are used once.
	g.clients++
	name, server := fmt.Sprintf("c%d-%d", os.Getpid(), g.clients), fmt.Sprintf("s%d-%d", os.Getpid(), g.clients)
	c := &client{t: g.t, n: n, net: name, link: server, options: options}
	g.run("ip", "netns", "add", name)
	g.run("ip", "link", "add", server, "type", "veth", "peer", "name", "eth0", "netns", name)
	g.run("ip", "addr", "add", fmt.Sprintf("10.9.%d.1/24", n), "dev", server)
	g.run("ip", "link", "set", server, "up")
	g.run("ip", "-n", name, "addr", "add", fmt.Sprintf("10.9.%d.2/24", n), "dev", "eth0")
	g.run("ip", "-n", name, "link", "set", "eth0", "up")
	g.run("ip", "-n", name, "link", "set", "lo", "up")
	g.t.Cleanup(func() {
		for _, m := range c.mounts {
			if _, err := command(context.Background(), "umount", "-f", "-l", m); err != nil {
				g.t.Error(err)
			}
		}
		for _, args := range [][]string{{"link", "del", server}, {"netns", "del", name}} {
			if _, err := command(context.Background(), "ip", args...); err != nil {
				g.t.Error(err)
			}
		}
	})
	return c
}

// connect pulls the client's cable, or plugs it in.
func (c *client) connect(on bool) {
	c.t.Helper()
	state := "down"
	if on {
		state = "up"
	}
	if _, err := command(c.t.Context(), "ip", "link", "set", c.link, state); err != nil {
		c.t.Fatal(err)
	}
}

// mount mounts an export and returns where.
func (c *client) mount(path string) (string, error) {
	at := filepath.Join(c.t.TempDir(), "m")
	if err := os.Mkdir(at, 0o755); err != nil {
		return "", err
	}
	err := c.within(func() error {
		_, err := command(c.t.Context(), "mount", "-t", "nfs", "-o", c.options, fmt.Sprintf("10.9.%d.1:%s", c.n, path), at)
		return err
	})
	if err == nil {
		c.mounts = append(c.mounts, at)
	}
	return at, err
}

func (c *client) mustMount(path string) string {
	c.t.Helper()
	at, err := c.mount(path)
	if err != nil {
		c.t.Fatal(err)
	}
	return at
}

// within runs work in the client's network; what it starts is there too.
func (c *client) within(work func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		ns, err := os.Open("/run/netns/" + c.net)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = work()
		}
		done <- err
	}()
	return <-done
}

// readNow reads a file past the client's cache.
func readNow(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return readOpen(f)
}

func readOpen(f *os.File) (string, error) {
	buffer := make([]byte, 4096)
	n, err := f.ReadAt(buffer, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return string(buffer[:n]), err
}

func writeNow(path, content string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_SYNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// protocols are the mount options of each version that is tested.
var protocols = map[string]string{
	"v3": "vers=3,nolock,noac,lookupcache=none,soft,timeo=50,retrans=2",
	"v4": "vers=4.2,noac,lookupcache=none,soft,timeo=50,retrans=2",
}

func TestKernelNFSEnforcesRules(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			g.pool("a")
			g.share("a/s", "/srv/s")
			g.share("a/other", "/srv/other")
			g.checkRules(options)
		})
	}
}

func (g *guest) checkRules(options string) {
	t := g.t
	writer, reader, other := g.client(5, options), g.client(6, options), g.client(7, options)
	g.foreign("/srv/other", "10.9.7.2(rw,no_root_squash,fsid=77)")
	mustApply(t, g, "/srv/s", exportsOf(shareFSID, rule("w", "10.9.5.2", rw), rule("r", "10.9.6.0/24", ro)), false)
	w, r := writer.mustMount("/srv/s"), reader.mustMount("/srv/s")
	if _, err := other.mount("/srv/s"); err == nil {
		t.Error("mounted without a rule")
	}
	foreign := other.mustMount("/srv/other")
	if err := writeNow(w+"/f", "one"); err != nil {
		t.Error(err)
	}
	if got, err := readNow(r + "/f"); err != nil || got != "one" {
		t.Errorf("reader: %q, %v", got, err)
	}
	if err := writeNow(r+"/f", "two"); !refused(err) {
		t.Errorf("reader writes: %v", err)
	}
	if info, err := os.Stat("/srv/s/f"); err != nil || fmt.Sprint(owner(info)) != "65534" {
		t.Errorf("root is not squashed: %v, %v", info, err)
	}

	t.Log("networks in networks: the most specific counts, whatever the order of events")
	mustApply(t, g, "/srv/s", exportsOf(shareFSID, rule("all", "0.0.0.0/0", ro), rule("w", "10.9.5.2", rw)), false)
	o := other.mustMount("/srv/s")
	if err := writeNow(o+"/f", "no"); !refused(err) {
		t.Errorf("everybody writes: %v", err)
	}
	mustApply(t, g, "/srv/s", exportsOf(shareFSID, rule("all", "0.0.0.0/0", ro), rule("wide", "10.0.0.0/8", rw), rule("n", "10.9.6.0/24", ro),
		rule("six", "2001:db8::/32", rw), rule("six1", "2001:db8::1", ro)), false)
	if err := writeNow(o+"/f", "yes"); err != nil {
		t.Errorf("the wide network cannot write: %v", err)
	}
	if err := writeNow(r+"/f", "no"); !refused(err) {
		t.Errorf("the narrow network writes: %v", err)
	}

	t.Log("a removed rule ends what is open")
	f, err := os.OpenFile(w+"/f", os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := readOpen(f); err != nil || got != "yes" {
		t.Errorf("%q, %v", got, err)
	}
	mustApply(t, g, "/srv/s", exportsOf(shareFSID, rule("r", "10.9.6.0/24", ro)), false)
	if got, err := readOpen(f); err == nil {
		t.Errorf("a client without a rule reads %q", got)
	}
	if got, err := readNow(r + "/f"); err != nil || got != "yes" {
		t.Errorf("another client: %q, %v", got, err)
	}

	t.Log("a removed export can be unmounted at once, whatever is open")
	held, err := os.OpenFile(r+"/f", os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	begun := time.Now()
	mustRemove(t, g, "/srv/s")
	t.Logf("removed after %s", time.Since(begun).Round(time.Millisecond))
	if got, err := readOpen(held); err == nil {
		t.Errorf("a removed export reads %q", got)
	}
	g.unmount("a/s")
	if _, _, err := g.Apply(t.Context(), "/srv/s", exportsOf(shareFSID), false); err == nil {
		t.Error("exported though nothing is mounted")
	}

	t.Log("the dead-man does the same without the agent")
	g.run("zfs", "mount", "a/s")
	mustApply(t, g, "/srv/s", exportsOf(shareFSID, rule("r", "10.9.6.2", rw)), false)
	if err := Remember(g.dir, g.Kernel); err != nil {
		t.Fatal(err)
	}
	held, err = os.OpenFile(r+"/hello", os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	begun = time.Now()
	if err := Sever(t.Context(), g.dir, "/srv/s"); err != nil {
		t.Fatal(err)
	}
	t.Logf("severed after %s", time.Since(begun).Round(time.Millisecond))
	if got, err := readOpen(held); err == nil {
		t.Errorf("a severed export reads %q", got)
	}
	if got, err := readNow(foreign + "/hello"); err != nil || got != "hello\n" {
		t.Errorf("somebody else's export: %q, %v", got, err)
	}
}

// foreign is somebody else's export. It is in a file: zfs unmount makes exportfs
// forget what is in none.
func (g *guest) foreign(path, clients string) {
	g.t.Helper()
	const file = "/etc/exports.d/other.exports"
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(path+" "+clients+"\n"), 0o644); err != nil {
		g.t.Fatal(err)
	}
	g.run("exportfs", "-a")
	g.t.Cleanup(func() {
		if err := os.Remove(file); err != nil {
			g.t.Error(err)
		}
		if _, err := command(context.Background(), "exportfs", "-r"); err != nil {
			g.t.Error(err)
		}
	})
}

// refused is how a client tells that an export is read-only: version 3 is asked
// before it tries.
func refused(err error) bool { return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) }

func owner(info os.FileInfo) uint32 {
	var st unix.Stat_t
	if err := unix.Stat("/srv/s/"+info.Name(), &st); err != nil {
		return 0
	}
	return st.Uid
}

// A client's open file goes on working when the share moves to another pool's copy
// and the client reaches that under the same address: here the two hosts are one
// machine, and the client's cable is pulled while the share moves.
func TestKernelNFSOpenFileMovesWithTheShare(t *testing.T) {
	for _, c := range []struct {
		name, options, path string
		restart             bool
	}{
		{"v4 same server", "vers=4.2,hard,timeo=10", "/srv/s", false},
		{"v4 other server", "vers=4.2,hard,timeo=10", "/srv/s", true},
		{"v4 other server and path", "vers=4.2,hard,timeo=10", "/srv/elsewhere", true},
		{"v3 other server", "vers=3,nolock,hard,timeo=10", "/srv/s", true},
		{"v3 other path", "vers=3,nolock,hard,timeo=10", "/srv/elsewhere", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuest(t)
			g.pool("a")
			g.pool("b")
			g.share("a/s", "/srv/s")
			g.checkMove(c.options, c.path, c.restart)
		})
	}
}

func (g *guest) checkMove(options, path string, restart bool) {
	t := g.t
	rules := exportsOf(shareFSID, rule("w", "10.9.5.2", rw))
	rules.Squash = tarnv1.Squash_SQUASH_NONE
	mustApply(t, g, "/srv/s", rules, false)
	c := g.client(5, options)
	m := c.mustMount("/srv/s")
	old, err := os.Open(m + "/hello")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	stop, wrote := writing(t, m+"/log")
	wrote(3)

	begun := time.Now()
	c.connect(false)
	mustRemove(t, g, "/srv/s")
	g.unmount("a/s")
	g.run("zfs", "snapshot", "a/s@final")
	g.run("sh", "-c", "zfs send a/s@final | zfs receive -u -o canmount=noauto -o mountpoint="+path+" b/s")
	g.run("zfs", "mount", "b/s")
	if restart {
		g.run("rpc.nfsd", "0")
		g.run("nfs-up", "4")
	}
	mustApply(t, g, path, rules, false)
	c.connect(true)
	wrote(3)
	t.Logf("writes went on %s after the cable was pulled", time.Since(begun).Round(time.Millisecond))

	if got, err := readOpen(old); err != nil || got != "hello\n" {
		t.Errorf("the file that was open reads %q, %v", got, err)
	}
	lines, err := stop()
	if err != nil {
		t.Errorf("a write failed: %v", err)
	}
	got, err := os.ReadFile(path + "/log")
	if err != nil || string(got) != lines {
		t.Errorf("on the new owner are %d bytes, written %d, %v", len(got), len(lines), err)
	}
	if restart && strings.HasPrefix(options, "vers=4") {
		// What is new there works too.
		if path == "/srv/s" {
			if err := writeNow(m+"/new", "new"); err != nil {
				t.Error(err)
			}
		}
	}
	mustRemove(t, g, path)
}

// writing appends numbered lines, each on disk before the next. wrote waits until n
// more are; stop returns all of them.
func writing(t *testing.T, path string) (stop func() (string, error), wrote func(n int)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	ended, done, lines := make(chan struct{}), make(chan error, 1), make(chan int)
	var all strings.Builder
	go func() {
		for i := 0; ; i++ {
			line := fmt.Sprintf("line %d\n", i)
			_, err := f.WriteString(line)
			if err == nil {
				err = f.Sync()
			}
			if err != nil {
				done <- errors.Join(err, f.Close())
				return
			}
			all.WriteString(line)
			select {
			case lines <- i:
			case <-ended:
				done <- f.Close()
				return
			}
		}
	}()
	var once sync.Once
	var result error
	stop = func() (string, error) {
		once.Do(func() {
			close(ended)
			result = <-done
		})
		return all.String(), result
	}
	t.Cleanup(func() { _, _ = stop() })
	wrote = func(n int) {
		t.Helper()
		for range n {
			select {
			case <-lines:
			case err := <-done:
				done <- err
				t.Fatalf("a write failed: %v", err)
			case <-time.After(2 * time.Minute):
				t.Fatal("no write came through in two minutes")
			}
		}
	}
	return stop, wrote
}
