package zfs_test

import (
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"tarn/zfs"
	"tarn/zfs/zfstest"
	"tarn/zfs/zfstest/realzfs"
)

func TestMain(m *testing.M) { os.Exit(realzfs.Main(m)) }

// open gives a Host of pools.
func open(t testing.TB, pools ...realzfs.Pool) *zfs.Host {
	t.Helper()
	cfg := zfs.Config{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, p := range pools {
		cfg.Pools = append(cfg.Pools, p.Name)
	}
	return openWith(t, cfg)
}

func openWith(t testing.TB, cfg zfs.Config) *zfs.Host {
	t.Helper()
	h, err := zfs.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestConformance runs the suite of all engines on what this machine has: zfs-fuse, or
// the kernel's ZFS. Each test works below two datasets of its own in two pools.
func TestConformance(t *testing.T) {
	src, dst := realzfs.NewPool(t, 2048), realzfs.NewPool(t, 2048)
	h := open(t, src, dst)
	caps, err := h.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("engine: %+v", caps)
	var serial atomic.Int64
	zfstest.Conformance(t, func(t *testing.T) zfstest.Env {
		n := serial.Add(1)
		env := zfstest.Env{Host: h, Slow: true, Source: fmt.Sprintf("%s/t%d", src.Name, n), Target: fmt.Sprintf("%s/t%d", dst.Name, n)}
		for _, ds := range []string{env.Source, env.Target} {
			if err := realzfs.Zfs("create", "-o", "atime=off", ds); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := realzfs.DestroyAll(ds); err != nil && !t.Failed() {
					t.Error(err)
				}
			})
		}
		return env
	})
}

// TestSnapshotsChangedIsTold: by the versions that know, after a snapshot and after its end.
func TestSnapshotsChangedIsTold(t *testing.T) {
	pool := realzfs.NewPool(t, 128)
	h := open(t, pool)
	ds, _ := share(t, h, pool, "s", 1000)
	changed := func() time.Time {
		list, err := h.Datasets(t.Context(), ds)
		ok(t, err)
		return list[0].SnapshotsChanged
	}
	ok(t, h.Snapshot(t.Context(), ds+"@1"))
	first := changed()
	if h.Number() < 202 {
		if !first.IsZero() {
			t.Errorf("version %d says %s", h.Number(), first)
		}
		return
	}
	if ago := time.Since(first); ago < 0 || ago > time.Minute {
		t.Errorf("changed %s ago", ago)
	}
	deadline := time.Now().Add(time.Minute)
	for last := first; !last.After(first); last = changed() { // it counts seconds
		if time.Now().After(deadline) {
			t.Fatalf("still %s", last)
		}
		ok(t, h.DestroySnapshots(t.Context(), ds, "1"))
		if last = changed(); last.After(first) {
			break
		}
		ok(t, h.Snapshot(t.Context(), ds+"@1"))
	}
}
