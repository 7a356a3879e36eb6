package export

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// exporter is what the agent needs of each of them.
type exporter interface {
	Apply(ctx context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error)
	Remove(ctx context.Context, mountpoint string) error
	Run(ctx context.Context) error
}

// need skips a test that wants programs which are not installed, or fails where
// nothing may be skipped.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("TARN_REQUIRE_ALL") == "1" {
				t.Fatalf("%s is missing and nothing may be skipped", p)
			}
			t.Skipf("%s is not installed: see docs/nfs.md for the Debian packages", p)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can run this server")
	}
}

// until waits for a condition; what it returned last is told if it never holds.
func until(t *testing.T, patience time.Duration, ask func() error) {
	t.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-ticker.C:
		}
	}
}

// from forwards connections to server from another address of this machine, so
// that a client comes from there. libnfs cannot choose its own.
func from(t *testing.T, source string, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))}
	running.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			upstream, err := dialer.Dial("tcp", server.String())
			if err != nil {
				_ = client.Close()
				continue
			}
			mu.Lock()
			open = append(open, client, upstream)
			mu.Unlock()
			for _, pair := range [][2]net.Conn{{client, upstream}, {upstream, client}} {
				running.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
					_ = pair[1].Close()
				})
			}
		}
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// nfsClient is libnfs coming from one address.
type nfsClient struct {
	t       *testing.T
	version int
	addr    netip.AddrPort
	uid     int // of the user
	dir     string
}

func newClient(t *testing.T, version int, source string, server netip.AddrPort) nfsClient {
	t.Helper()
	return nfsClient{t: t, version: version, addr: from(t, source, server), uid: 1000, dir: t.TempDir()}
}

func (c nfsClient) url(path string) string {
	u := url.URL{Scheme: "nfs", Host: c.addr.Addr().String(), Path: path}
	q := fmt.Sprintf("version=%d&nfsport=%d&uid=%d&gid=%d", c.version, c.addr.Port(), c.uid, c.uid)
	if c.version == 3 {
		q += fmt.Sprintf("&mountport=%d", c.addr.Port())
	}
	return u.String() + "?" + q
}

func (c nfsClient) run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	args = append([]string{name}, args...)
	if os.Getenv(insideRole) != "" {
		args = append(shiftedClock(), args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(problems.String()))
	}
	return out.String(), nil
}

// shiftedClock starts a program whose monotonic clock is 25 days ahead. libnfs makes
// the verifier of an exclusive create from it, which NFS-Ganesha keeps in the file's
// times; zfs-fuse has 31 bits for those, and the verifier of a machine that has not
// been up for so long has 32.
func shiftedClock() []string { return []string{"unshare", "--time", "--monotonic", "2200000"} }

func (c nfsClient) read(path string) (string, error) { return c.run("nfs-cat", c.url(path)) }

func (c nfsClient) list(path string) (string, error) { return c.run("nfs-ls", c.url(path)) }

func (c nfsClient) write(path, content string) error {
	file := filepath.Join(c.dir, "content")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		return err
	}
	_, err := c.run("nfs-cp", file, c.url(path))
	return err
}

// mustWrite and its like say what a client has to be able to do, or not.
func (c nfsClient) mustWrite(path, content string) {
	c.t.Helper()
	if err := c.write(path, content); err != nil {
		c.t.Error(err)
	}
}

func (c nfsClient) mustRead(path, want string) {
	c.t.Helper()
	if got, err := c.read(path); err != nil || got != want {
		c.t.Errorf("%s reads %q, %v; want %q", path, got, err, want)
	}
}

func (c nfsClient) mustNotWrite(path string) {
	c.t.Helper()
	if err := c.write(path, "refused"); err == nil {
		c.t.Errorf("%s was written", path)
	}
}

func (c nfsClient) mustNotRead(path string) {
	c.t.Helper()
	if got, err := c.read(path); err == nil {
		c.t.Errorf("%s was read: %q", path, got)
	}
}

// reading is a client in the middle of a large file: it has the file open, has
// read some of it, and waits.
type reading struct {
	out  io.ReadCloser
	wait func() error
}

// open starts to read a file, which must be larger than all pipes on the way.
func (c nfsClient) open(path string) reading {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "nfs-cat", c.url(path))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, 1))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return reading{out: out, wait: cmd.Wait}
}

// finish reads on to the end and returns how much there was and how it ended.
func (r reading) finish() (int64, error) {
	n, err := io.Copy(io.Discard, r.out)
	if werr := r.wait(); err == nil {
		err = werr
	}
	return n + 1, err
}
