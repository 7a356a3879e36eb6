package privsep

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest"
	"tarn/zfs/zfstest/realzfs"
)

func TestMain(m *testing.M) { os.Exit(realzfs.Main(m)) }

// serve starts a helper for a user, and gives its client.
func serve(t *testing.T, config Config) Client {
	t.Helper()
	c := Client{Socket: filepath.Join(zfstest.TempDir(t), "helper.sock")}
	listener, err := Listen(t.Context(), c.Socket, config.UID)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(config).Run(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// testLog shows what a helper did when TARN_TEST_LOG is set.
func testLog(t *testing.T) *slog.Logger {
	var w io.Writer = io.Discard
	if os.Getenv("TARN_TEST_LOG") != "" {
		w = t.Output()
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// The engine is the same through the helper: every command that it builds is of a shape
// that the policy knows, and streams, errors and ends come back as they are.
func TestConformanceThroughHelper(t *testing.T) {
	src, dst := realzfs.NewPool(t, 2048), realzfs.NewPool(t, 2048)
	client := serve(t, Config{
		Policy: Policy{Base: "tarn", Pools: []Pool{{src.Name, filepath.Join(src.Dir, "mnt")}, {dst.Name, filepath.Join(dst.Dir, "mnt")}}, KeyDir: "/", trees: true, also: []string{"canmount=on", "readonly=maybe", "quota=-5"}},
		UID:    uint32(os.Getuid()), Logger: testLog(t),
	})
	h, err := zfs.Open(t.Context(), zfs.Config{Pools: []string{src.Name, dst.Name}, Launcher: client, Logger: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []realzfs.Pool{src, dst} {
		if err := realzfs.Zfs("create", "-o", "mountpoint="+filepath.Join(p.Dir, "mnt"), "-o", "atime=off", p.Name+"/tarn"); err != nil {
			t.Fatal(err)
		}
	}
	var serial atomic.Int64
	zfstest.Conformance(t, func(t *testing.T) zfstest.Env {
		n := serial.Add(1)
		env := zfstest.Env{Host: h, Source: fmt.Sprintf("%s/tarn/t%d", src.Name, n), Target: fmt.Sprintf("%s/tarn/t%d", dst.Name, n)}
		for _, ds := range []string{env.Source, env.Target} {
			if err := realzfs.Zfs("create", ds); err != nil {
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
