package realzfs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/zfs"
)

// Pool is a pool on a sparse file, destroyed with its test.
type Pool struct {
	Name string
	Dir  string // where it is mounted
	File string // its only disk
}

// Require skips a test when there is no real ZFS, and says why. Where everything is
// required of root it fails.
func Require(t testing.TB) {
	t.Helper()
	err := Unavailable()
	switch {
	case err == nil:
	case os.Getenv("TARN_REQUIRE_ALL") == "1" && os.Geteuid() == 0:
		t.Fatalf("real ZFS is required: %v", err)
	default:
		t.Skipf("no real ZFS: %v", err)
	}
}

// NewPool makes a pool of a size in MiB (at least 64). options are further arguments
// of zpool create.
func NewPool(t testing.TB, mib int64, options ...string) Pool {
	t.Helper()
	Require(t)
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	name := "tarn" + hex.EncodeToString(b[:])
	base := filepath.Join(os.Getenv(envDir), name)
	p := Pool{Name: name, Dir: base + ".mnt", File: base + ".img"}
	if err := errors.Join(os.WriteFile(p.File, nil, 0o600), os.Truncate(p.File, mib<<20)); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"create", "-o", "cachefile=none", "-o", "ashift=12", "-m", p.Dir}, options...)
	if err := Zpool(append(args, name, p.File)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Destroy(); err != nil {
			t.Errorf("pool %s stays: %v", name, err)
		}
	})
	return p
}

// Destroy ends the pool before its test does; one that is gone is no error.
func (p Pool) Destroy() error {
	err := patiently(func() error { return Zpool("destroy", "-f", p.Name) })
	if _, gone := os.Stat(p.File); gone != nil || err != nil && strings.Contains(err.Error(), "no such pool") {
		err = nil
	}
	_ = os.Remove(p.File)
	_ = os.RemoveAll(p.Dir)
	return err
}

// DestroyAll removes a dataset with all below it, also one that an agent looks at:
// zfs-fuse refuses as busy while a list holds it.
func DestroyAll(dataset string) error {
	return patiently(func() error { return Zfs("destroy", "-r", "-f", dataset) })
}

// patiently tries again for some time what fails because something is busy: zfs-fuse
// hears late of an unmount.
func patiently(try func() error) (err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		if err = try(); err == nil || !strings.Contains(err.Error(), "busy") {
			return err
		}
		<-tick.C
	}
	return err
}

// Zfs runs zfs(8) behind the engine's back, as an administrator would.
func Zfs(args ...string) error { return run("zfs", args) }

// Zpool runs zpool(8).
func Zpool(args ...string) error { return run("zpool", args) }

// commandDeadline is longer than any command takes that does end.
const commandDeadline = 2 * time.Minute

func run(tool string, args []string) error {
	settle()
	ctx, cancel := context.WithTimeout(context.Background(), commandDeadline)
	defer cancel()
	if tool == "zfs" {
		after, err := zfs.Alone(ctx, args)
		if err != nil {
			return err
		}
		defer after()
	}
	cmd := exec.CommandContext(ctx, "/usr/sbin/"+tool, args...)
	cmd.WaitDelay = time.Second
	cmd.Env, cmd.Dir = append(os.Environ(), "LC_ALL=C"), "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", tool, strings.Join(args, " "), err, out)
	}
	return nil
}

// Export takes a pool away from the machine, as when its disks are pulled in good order.
// flags come before its name.
func Export(p Pool, flags ...string) error {
	args := append(append([]string{"export"}, flags...), p.Name)
	return patiently(func() error { return Zpool(args...) })
}

// Import brings it back.
func Import(p Pool) error {
	return Zpool("import", "-d", filepath.Dir(p.File), "-o", "cachefile=none", p.Name)
}

// settle lets zfs-fuse hear of the files that a test has closed: an unmount before that,
// by whichever command, hangs the daemon (zfs.Unmount).
func settle() {
	if Kernel() {
		return
	}
	text, _ := os.ReadFile("/proc/self/mountinfo") // nothing is mounted where there is none
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); len(fields) > 4 && strings.HasPrefix(after, "fuse.zfs ") {
			for range 8 {
				var st syscall.Statfs_t
				_ = syscall.Statfs(fields[4], &st)
			}
		}
	}
}
