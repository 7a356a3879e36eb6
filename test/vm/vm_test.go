// Package vm checks that the virtual machine of test/vm is what kernel tests expect:
// real OpenZFS, an NFS server with a client, and a network to cut.
package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain skips the whole package anywhere else: what it does to a system belongs
// in a machine that is thrown away.
func TestMain(m *testing.M) {
	if os.Getenv("TARN_VM") == "" {
		os.Stdout.WriteString("not in the virtual machine (make test-kernel): skipped\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// run gives the output of a command that has to succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pool makes a pool on a file, mounted at the directory returned.
func pool(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	image, mountpoint := filepath.Join(dir, "image"), filepath.Join(dir, "pool")
	run(t, "truncate", "-s", "256M", image)
	run(t, "zpool", "create", "-m", mountpoint, name, image)
	t.Cleanup(func() { destroy(t, name) })
	return mountpoint
}

// destroy ends a pool. What the NFS server has cached of an export, and of the files that
// clients had open, it lets go of only seconds after exportfs -u: until then the pool is busy.
func destroy(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Second) // each try flushes its caches, dated up to a second ahead
	defer tick.Stop()
	for {
		out, err := exec.CommandContext(ctx, "zpool", "destroy", "-f", name).CombinedOutput()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("zpool destroy -f %s: %v\n%s", name, err, out)
			return
		}
	}
}

func TestZFSIsTheKernels(t *testing.T) {
	version := run(t, "zfs", "version")
	if !strings.Contains(version, "zfs-kmod-") {
		t.Errorf("zfs version says %q, no kernel module", version)
	}
	t.Logf("%s: %s", os.Getenv("TARN_VM_VERSIONS"), strings.Fields(version))
}

func TestStreamTravelsBetweenPools(t *testing.T) {
	from := pool(t, "from")
	to := pool(t, "to")
	want := strings.Repeat("a page of a share\n", 10_000)
	if err := os.WriteFile(filepath.Join(from, "file"), []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "zfs", "snapshot", "from@1")
	run(t, "sh", "-c", "zfs send -v from@1 | zfs receive -s to/copy@1")
	got, err := os.ReadFile(filepath.Join(to, "copy", "file"))
	if err != nil || string(got) != want {
		t.Errorf("%d bytes arrived of %d, %v", len(got), len(want), err)
	}
	run(t, "zpool", "scrub", "-w", "to")
	if status := run(t, "zpool", "status", "-x", "to"); !strings.Contains(status, "is healthy") {
		t.Error(status)
	}
}

func TestEncryptionWorks(t *testing.T) {
	pool(t, "safe")
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "zfs", "create", "-o", "encryption=on", "-o", "keyformat=raw", "-o", "keylocation=file://"+key, "safe/share")
	run(t, "zfs", "unmount", "safe/share")
	run(t, "zfs", "unload-key", "safe/share")
	if got := run(t, "zfs", "get", "-H", "-o", "value", "keystatus", "safe/share"); strings.TrimSpace(got) != "unavailable" {
		t.Errorf("keystatus is %q", got)
	}
}

func TestExportsAreMountedOverTheNetwork(t *testing.T) {
	dir := pool(t, "served")
	mnt := t.TempDir()
	run(t, "nfs-up")
	run(t, "exportfs", "-o", "rw,no_root_squash,fsid=7", "127.0.0.1:"+dir)
	t.Cleanup(func() { _ = exec.Command("exportfs", "-u", "127.0.0.1:"+dir).Run() })
	for _, options := range []string{"vers=4.2", "vers=3,nolock"} {
		run(t, "mount", "-t", "nfs", "-o", options, "127.0.0.1:"+dir, mnt)
		err := os.WriteFile(filepath.Join(mnt, options), []byte("seen"), 0o644)
		run(t, "umount", mnt)
		if err != nil {
			t.Errorf("%s: %v", options, err)
		}
		if _, err := os.Stat(filepath.Join(dir, options)); err != nil {
			t.Errorf("%s: what the client wrote is not there: %v", options, err)
		}
	}
}

func TestNetworkNamespacesCanBeCut(t *testing.T) {
	run(t, "ip", "netns", "add", "away")
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", "away").Run() })
	run(t, "ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", "away")
	run(t, "ip", "address", "add", "10.9.0.1/24", "dev", "near")
	run(t, "ip", "link", "set", "near", "up")
	run(t, "tc", "qdisc", "add", "dev", "near", "root", "netem", "loss", "100%")
	run(t, "nft", "add", "table", "inet", "cut")
}
