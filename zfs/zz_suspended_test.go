package zfs_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestZSuspendedPool takes the disk of a pool away. What changes the pool ends in time and
// names the next step, however many tries there are, and other pools go on. It leaves
// processes behind that nothing can end, so it runs last and in the virtual machine only.
func TestZSuspendedPool(t *testing.T) {
	realzfs.Require(t)
	if os.Getenv("TARN_VM") == "" || !realzfs.Kernel() {
		t.Skip("a suspended pool stays until the machine restarts: only in the virtual machine (TARN_VM=1)")
	}
	good := realzfs.NewPool(t, 128)
	// A disk that fails its writes: a sparse file in a file system without room for it.
	const name, disk, file = "tarnsuspended", "/tmp/tarndisk", "/tmp/tarndisk/img"
	ok(t, os.Mkdir(disk, 0o700))
	ok(t, syscall.Mount("tarn", disk, "tmpfs", 0, "size=24m"))
	ok(t, errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 128<<20)))
	ok(t, realzfs.Zpool("create", "-o", "cachefile=none", "-m", "/tmp/tarnsuspended", name, file))
	h := openWith(t, zfs.Config{Pools: []string{name, good.Name}, Deadline: 5 * time.Second})
	ctx := t.Context()
	ds := name + "/s"
	ok(t, h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "on"}, false))
	// The writer waits in the kernel from then on, so it is a process of its own.
	ok(t, exec.Command("dd", "if=/dev/urandom", "of=/tmp/tarnsuspended/s/f", "bs=64k", "count=1000").Start())
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for begun, health := time.Now(), ""; health != "SUSPENDED"; <-tick.C {
		list, err := h.Pools(ctx)
		ok(t, err)
		if health = list[0].Health; time.Since(begun) > 3*time.Minute {
			t.Fatalf("the pool is %s after three minutes", health)
		}
	}
	for i := range 6 {
		begun := time.Now()
		err := h.Snapshot(ctx, ds+"@"+string(rune('a'+i)))
		t.Logf("after %v: %v", time.Since(begun).Round(time.Second), err)
		if !errors.Is(err, zfs.ErrHung) && !errors.Is(err, zfs.ErrPoolUnavailable) {
			t.Errorf("snapshot in a suspended pool: %v", err)
		}
		if err != nil && !strings.Contains(err.Error(), "next: ") {
			t.Errorf("no next step: %v", err)
		}
	}
	ok(t, h.Create(ctx, good.Name+"/s", nil, false))
	begun := time.Now()
	err := zfs.Fence(ctx, ds)
	t.Logf("fence after %v: %v", time.Since(begun).Round(time.Second), err)
	if _, err := os.Stat("/tmp/tarnsuspended/s/f"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reachable after the fence: %v", err)
	}
}
