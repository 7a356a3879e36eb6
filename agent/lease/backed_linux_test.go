package lease

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogPipe stands in for a watchdog's device; what is written to it comes out.
func watchdogPipe(t *testing.T) (path string, written chan byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "watchdog")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	// For writing too, so that it does not end when the helper's end does.
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	written = make(chan byte, 10_000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := bufio.NewReader(file); ; {
			c, err := r.ReadByte()
			if err != nil {
				return
			}
			written <- c
		}
	}()
	t.Cleanup(func() { _ = file.Close(); <-done })
	return path, written
}

func theHelper(t *testing.T, dir string, agent *process) int {
	t.Helper()
	var pids []int
	// What it starts, nft for one, has its name for a moment.
	until(t, "alone", func() bool { pids = without(helpers(t, dir), agent.cmd.Process.Pid); return len(pids) == 1 })
	return pids[0]
}

func wanted(t *testing.T, from chan byte, want byte) {
	t.Helper()
	patience := time.NewTimer(30 * time.Second)
	defer patience.Stop()
	for {
		select {
		case c := <-from:
			if c == want {
				return
			}
		case <-patience.C:
			t.Fatalf("no %q for the watchdog in 30 s", want)
		}
	}
}

// TestWatchdogOutlivesItsHelpers: one that is killed leaves it armed, its successor
// takes it over, and when the last right has ended it is called off.
func TestWatchdogOutlivesItsHelpers(t *testing.T) {
	dir := t.TempDir()
	device, written := watchdogPipe(t)
	if err := Configure(dir, Backing{Watchdog: &WatchdogConfig{Device: device, Timeout: 2 * time.Second}}); err != nil {
		t.Fatal(err)
	}
	pool, target := mountedTarget(t)
	agent := startAgent(t, dir)
	deadline := agent.arm(target, 10*time.Second)
	wanted(t, written, 'f')
	old := theHelper(t, dir, agent)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "replaced", func() bool {
		now := without(helpers(t, dir), agent.cmd.Process.Pid)
		return len(now) == 1 && now[0] != old
	})
	for len(written) > 0 {
		if c := <-written; c != 'f' {
			t.Errorf("the watchdog was told %q by one that was killed", c)
		}
	}
	wanted(t, written, 'f')
	agent.signal(syscall.SIGKILL)
	if at := fencedAt(t, pool); at < deadline-2*time.Second || at > deadline+2*time.Second {
		t.Errorf("fenced %s before the end, want 2 s", deadline-at)
	}
	wanted(t, written, 'V')
}

// namespace is a network of its own that a locked thread of this test lives in.
type namespace struct {
	file string
	work chan func()
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.file = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
			out, lo := exec.Command("/usr/sbin/ip", "link", "set", "lo", "up").CombinedOutput()
			if lo != nil {
				err = fmt.Errorf("%w: %s", lo, out)
			}
		}
		made <- err
		for f := range n.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		close(n.work)
		if os.Geteuid() == 0 {
			t.Fatalf("network namespace: %v", err)
		}
		t.Skipf("a network namespace needs root: %v", err)
	}
	t.Cleanup(func() { close(n.work) })
	return n
}

// do runs f in the namespace.
func (n *namespace) do(f func() error) error {
	result := make(chan error)
	n.work <- func() { result <- f() }
	return <-result
}

// echo serves on a port of the namespace, and returns a client's established connection.
func (n *namespace) echo(t *testing.T, addr string) *echoed {
	t.Helper()
	var l net.Listener
	var client net.Conn
	err := n.do(func() (err error) {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	err = n.do(func() (err error) {
		client, err = net.DialTimeout("tcp4", addr, 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return &echoed{conn: client}
}

// echoed is a connection whose other end says all again.
type echoed struct {
	conn  net.Conn
	asked byte
}

// drops reports whether nothing answers a new connection to a server that listens there.
func (n *namespace) drops(addr string) bool {
	err := n.do(func() error {
		c, err := net.DialTimeout("tcp4", addr, 300*time.Millisecond)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// answers reports whether an established connection still gets through in time. What comes
// late, for an earlier call, is no answer.
func (c *echoed) answers() bool {
	if err := c.conn.SetDeadline(time.Now().Add(150 * time.Millisecond)); err != nil {
		return false
	}
	c.asked++
	if _, err := c.conn.Write([]byte{c.asked}); err != nil {
		return false
	}
	for got := []byte{0}; ; {
		if _, err := c.conn.Read(got); err != nil || got[0] == c.asked {
			return err == nil
		}
	}
}

func nftTool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/nft")
	}
	if err != nil {
		if os.Getenv("TARN_REQUIRE_ALL") != "" && os.Geteuid() == 0 {
			t.Fatal("nft is needed: install nftables")
		}
		t.Skip("nft is not installed")
	}
	return path
}

// TestPacketFilterClosesByItself: with agent and helper stopped, nobody but the kernel is
// left to end a client's established connection, and it does, before the right ends.
func TestPacketFilterClosesByItself(t *testing.T) {
	nft := nftTool(t)
	n := newNamespace(t)
	client := n.echo(t, "127.0.0.1:2049")
	dir := t.TempDir()
	command := []string{"/usr/bin/nsenter", "--net=" + n.file, nft}
	if err := Configure(dir, Backing{Filter: &FilterConfig{Nft: command, Ports: []int{2049, 20048}}}); err != nil {
		t.Fatal(err)
	}
	_, target := mountedTarget(t)
	agent := startAgent(t, dir)
	former := agent.arm(target, 8*time.Second)
	until(t, "closed but for the lease", func() bool { return timeout(ruleset(n, nft)) > 0 })
	until(t, "served while the right lasts", func() bool { return client.answers() })
	deadline := agent.arm(target, 12*time.Second)
	helper := theHelper(t, dir, agent)
	until(t, "renewed", func() bool { return timeout(ruleset(n, nft)) > 8*time.Second })
	agent.signal(syscall.SIGSTOP)
	if err := syscall.Kill(helper, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var served time.Duration
	until(t, "cut off", func() bool {
		if client.answers() {
			served = BootTime()
			return false
		}
		return n.drops("127.0.0.1:2049") // else it was only slow
	})
	if late := served - deadline; late > 0 {
		t.Errorf("served %s after the end of the right", late)
	}
	if served < former {
		t.Errorf("cut off %s before the end of the former right", former-served)
	}
	if err := syscall.Kill(helper, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// The helper fences, and what is left to serve is read-only.
	until(t, "opened again", func() bool { return ruleset(n, nft) == "" })
	agent.signal(syscall.SIGCONT)
}

// TestPacketFilterEndsByTheClockToo: what the set still lets in, because the machine was
// suspended or nft was, does not pass when the right has ended.
func TestPacketFilterEndsByTheClockToo(t *testing.T) {
	nft := nftTool(t)
	n := newNamespace(t)
	client := n.echo(t, "127.0.0.1:2049")
	f := newFilter(FilterConfig{Nft: []string{"/usr/bin/nsenter", "--net=" + n.file, nft}, Ports: []int{2049, 20048}}, slog.New(slog.DiscardHandler))
	set := func(end time.Time) {
		t.Helper()
		if err := f.run(f.close(time.Hour, end)); err != nil {
			t.Fatal(err)
		}
	}
	set(time.Now().Add(time.Minute))
	until(t, "served while the right lasts", func() bool { return client.answers() })
	set(time.Now().Add(-time.Second))
	if client.answers() {
		t.Error("served after the end of the right")
	}
}

// timeout is what one of the set's elements was put in with; 0 without any.
func timeout(rules string) time.Duration {
	_, text, _ := strings.Cut(regexp.MustCompile(`timeout [0-9smh]+`).FindString(rules), " ")
	d, _ := time.ParseDuration(text) // 0 for what is none
	return d
}

func ruleset(n *namespace, nft string) string {
	var out []byte
	if err := n.do(func() (err error) { out, err = exec.Command(nft, "list", "ruleset").Output(); return err }); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// TestPacketFilterThatIsNotThereIsTold: the helper guards all the same.
func TestPacketFilterThatIsNotThereIsTold(t *testing.T) {
	dir := t.TempDir()
	if err := Configure(dir, Backing{Filter: &FilterConfig{Nft: []string{"/nonexistent/nft"}, Ports: []int{2049}}}); err != nil {
		t.Fatal(err)
	}
	d, err := NewDeadman(DeadmanConfig{Command: helperCommand(dir), Patience: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { done <- d.Run(ctx) }()
	until(t, "told", func() bool { return strings.Contains(d.Trouble(), "packet filter") })
	until(t, "up", d.Up) // it may tell before it has confirmed its first order
	pool, target := mountedTarget(t)
	deadline := BootTime() + time.Second
	if err := d.Arm(ctx, []Armed{{Target: target, Deadline: deadline}}); err != nil {
		t.Error(err)
	}
	checkFenced(t, pool, deadline)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
