package dirzfs_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
	"tarn/zfs/zfstest"
)

var _ zfstest.Host = (*dirzfs.Host)(nil)

func open(t *testing.T, pools ...dirzfs.Pool) *dirzfs.Host {
	t.Helper()
	h, err := dirzfs.Open(dirzfs.Config{Pools: pools, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, p := range pools {
			if err := h.Scrub(context.Background(), p.Name); err != nil && !h.Closed() {
				t.Error(err)
			}
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		for _, p := range pools {
			ok(t, zfstest.MakeRemovable(p.Dir))
		}
	})
	return h
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func transfer(t *testing.T, h *dirzfs.Host, from zfs.SendRequest, to zfs.ReceiveRequest) {
	t.Helper()
	s, err := h.Send(t.Context(), from)
	ok(t, err)
	err = h.Receive(t.Context(), to, s)
	ok(t, errors.Join(err, s.Close()))
}

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	h := open(t, dirzfs.Pool{Name: "a", Dir: t.TempDir()}, dirzfs.Pool{Name: "b", Dir: t.TempDir()})
	ok(t, h.Create(ctx, "a/x", map[string]string{"canmount": "on"}, false))
	d, err := h.Dataset(ctx, "a/x")
	ok(t, err)
	f := filepath.Join(d.Mountpoint, "f")
	ok(t, os.WriteFile(f, []byte("hello"), 0o640))
	ok(t, os.MkdirAll(filepath.Join(d.Mountpoint, "d/e"), 0o750))
	ok(t, os.Link(f, filepath.Join(d.Mountpoint, "d/e/l")))
	ok(t, os.Symlink("../../f", filepath.Join(d.Mountpoint, "d/e/s")))
	ok(t, h.Snapshot(ctx, "a/x@1"))
	transfer(t, h, zfs.SendRequest{Dataset: "a/x", To: "1"}, zfs.ReceiveRequest{Target: "b/y@1"})
	ok(t, h.Set(ctx, "b/y", map[string]string{"readonly": "on"}))
	ok(t, h.Mount(ctx, "b/y"))
	ok(t, os.WriteFile(f, []byte("hello again"), 0o640))
	ok(t, h.Snapshot(ctx, "a/x@2"))
	transfer(t, h, zfs.SendRequest{Dataset: "a/x", From: "@1", To: "2"}, zfs.ReceiveRequest{Target: "b/y@2"})
	y, err := h.Dataset(ctx, "b/y")
	ok(t, err)
	t.Logf("%+v", y)
	for _, n := range []string{"f", "d/e/l", "d/e/s"} {
		b, err := os.ReadFile(filepath.Join(y.Mountpoint, n))
		ok(t, err)
		if string(b) != "hello again" {
			t.Errorf("%s: %q", n, b)
		}
	}
	if y.Written != 0 {
		t.Errorf("written %d", y.Written)
	}
	v, err := h.Versions(ctx, "b/y")
	ok(t, err)
	t.Logf("%+v", v)
}
