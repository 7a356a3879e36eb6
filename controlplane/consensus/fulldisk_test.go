package consensus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a file system of its own below the test's directory.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tarn-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("skipped: a disk that can be full is a mount of its own: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all space that is left.
func fill(t *testing.T, dir string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return ballast
}

// TestFullDiskEndsTheNodeAndNotTheCluster: one disk is full, mostly the leader's. Its node ends, the others
// go on, it does not start while there is no space, and comes back when there is
// (reliability.md 4, row 23).
func TestFullDiskEndsTheNodeAndNotTheCluster(t *testing.T) {
	c := &cluster{t: t}
	first := &member{t: t, dir: filepath.Join(smallDisk(t, "8m"), "raft"), addr: "127.0.0.1:0",
		config: func(cfg *Config) { cfg.BootstrapExpect = 1 }}
	t.Cleanup(func() { _ = first.stop() })
	c.start(first)
	for range 2 {
		c.add(func(cfg *Config) { cfg.Join = []string{first.addr} })
	}
	eventually(t, "three voters", func() bool {
		servers, err := first.node.Servers()
		return err == nil && voters(servers) == 3
	})
	c.write("before")
	c.agree()
	ballast := fill(t, filepath.Dir(first.dir))
	if err := c.writeUntilEnd(first); !errors.Is(err, ErrStoreFailed) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("with a full disk it ended with %v", err)
	}
	first.cancel()
	first.cancel = nil
	c.write("without it")
	c.start(first)
	if err := <-first.done; err == nil {
		t.Fatal("it runs without a log")
	}
	first.cancel = nil
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	c.start(first)
	c.write("after")
	c.agree()
	if text := first.fsm.text(); !strings.Contains(text, "without it") || !strings.Contains(text, "before") {
		t.Error("it came back without what it had missed")
	}
}

// writeUntilEnd writes through whoever leads until the member ends, and says with what.
func (c *cluster) writeUntilEnd(victim *member) error {
	for {
		select {
		case err := <-victim.done:
			return err
		default:
		}
		for _, m := range c.members {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			_, _, _ = m.node.Propose(ctx, []byte(strings.Repeat("x", 20_000))) // most of them do not lead
			cancel()
		}
	}
}
