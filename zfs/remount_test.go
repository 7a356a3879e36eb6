package zfs_test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// mountOptions are those of the mount of a dataset, as the kernel shows them.
func mountOptions(t *testing.T, dataset string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	ok(t, err)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " "+dataset+" ") {
			return strings.Fields(line)[5]
		}
	}
	t.Fatalf("%s is not mounted", dataset)
	return ""
}

// TestRemountGivesNoRights: a mount that keeps everybody from getting rights goes on doing
// so when it becomes read-only or writable.
func TestRemountGivesNoRights(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	h := open(t, pool)
	ctx, ds := t.Context(), pool.Name+"/ro"
	ok(t, h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "on", zfs.PropATime: "off"}, false))
	ok(t, unix.Mount("", pool.Dir+"/ro", "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	for _, readOnly := range []bool{true, false} {
		ok(t, zfs.Remount(ds, readOnly))
		got := strings.Split(mountOptions(t, ds), ",")
		want := "nosuid nodev noexec rw"
		if readOnly {
			want = "nosuid nodev noexec ro"
		}
		for o := range strings.FieldsSeq(want) {
			if !strings.Contains(","+strings.Join(got, ",")+",", ","+o+",") {
				t.Errorf("read-only %v: mounted with %v, without %s", readOnly, got, o)
			}
		}
	}
}

// TestMountGivesNoRights: setuid=off, devices=off and exec=off hold for what is mounted, also
// after it became read-only or writable.
func TestMountGivesNoRights(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	h := open(t, pool)
	ctx, ds := t.Context(), pool.Name+"/s"
	ok(t, h.Create(ctx, ds, map[string]string{"setuid": "off", "devices": "off", "exec": "off"}, false))
	ok(t, h.Mount(ctx, ds))
	for _, readOnly := range []string{"on", "off"} {
		ok(t, h.Set(ctx, ds, map[string]string{zfs.PropReadOnly: readOnly}))
		got := "," + mountOptions(t, ds) + ","
		for _, o := range []string{"nosuid", "nodev", "noexec"} {
			if !strings.Contains(got, ","+o+",") {
				t.Errorf("readonly=%s: mounted with %s, without %s", readOnly, got, o)
			}
		}
	}
}
