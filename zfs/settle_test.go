package zfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestUnmountAfterClose: whoever closes a file at the moment of an unmount leaves
// zfs-fuse, which hears of it late, as it was. One in ten such moments hung every mount of
// the machine once.
func TestUnmountAfterClose(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	h := open(t, pool)
	ctx := t.Context()
	ds, path := pool.Name+"/f", pool.Dir+"/f"
	ok(t, h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "on"}, true))
	rounds := 32
	if realzfs.Kernel() {
		rounds = 16
	}
	for i := range rounds {
		closed := openSome(t, path, 1+i%16)
		if i%16 == 15 {
			ok(t, zfs.Fence(ctx, ds))
			closed()
			ok(t, h.Unmount(ctx, ds, false))
			ok(t, h.Set(ctx, ds, map[string]string{zfs.PropReadOnly: "off"}))
		} else {
			closed()
			ok(t, h.Unmount(ctx, ds, false))
		}
		ok(t, h.Mount(ctx, ds))
	}
}

// openSome opens some files for writing; the function it returns closes them.
func openSome(t *testing.T, dir string, n int) (closed func()) {
	t.Helper()
	var files []*os.File
	for i := range n {
		f, err := os.Create(fmt.Sprintf("%s/%d", dir, i))
		ok(t, err)
		_, err = f.WriteString("x")
		ok(t, err)
		files = append(files, f)
	}
	return func() {
		for _, f := range files {
			ok(t, f.Close())
		}
	}
}

// TestUnmountAmongOpens: no moment is wrong for an unmount, whoever opens and closes files.
func TestUnmountAmongOpens(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	h := open(t, pool)
	ctx := t.Context()
	ds, path := pool.Name+"/f", pool.Dir+"/f"
	ok(t, h.Create(ctx, ds, map[string]string{zfs.PropCanMount: "on"}, true))
	ok(t, os.WriteFile(path+"/data", nil, 0o644))
	var end atomic.Bool
	defer end.Store(true)
	opens := make(chan int, 1)
	go func() {
		n := 0
		for ; !end.Load(); n++ {
			if f, err := os.Open(path + "/data"); err == nil {
				_ = f.Close()
			}
		}
		opens <- n
	}()
	unmounts := 0
	rounds := 100
	if realzfs.Kernel() { // which has no such moments; processes cost a lot in its emulation
		rounds = 10
	}
	for range rounds {
		err := h.Unmount(ctx, ds, false)
		if errors.Is(err, zfs.ErrBusy) {
			continue
		}
		ok(t, err)
		unmounts++
		ok(t, h.Mount(ctx, ds))
	}
	end.Store(true)
	t.Logf("%d opens, %d unmounts", <-opens, unmounts)
}

// TestMountsAtOnce: two agents of a machine, each with many mounts at a time.
func TestMountsAtOnce(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	hosts := []*zfs.Host{open(t, pool), open(t, pool)}
	var g errgroup.Group
	for i := range 8 {
		ds := fmt.Sprintf("%s/a-long-name-of-a-filesystem-%d", pool.Name, i)
		h := hosts[i%len(hosts)]
		ok(t, h.Create(t.Context(), ds, map[string]string{zfs.PropCanMount: "on"}, false))
		g.Go(func() error {
			for range 5 {
				if err := errors.Join(h.Unmount(t.Context(), ds, false), h.Mount(t.Context(), ds)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ok(t, g.Wait())
}

// TestRenameAmongMounts: an agent that mounts again what it finds unmounted does not keep
// a dataset from being renamed.
func TestRenameAmongMounts(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	h, agent := open(t, pool), open(t, pool)
	names := []string{pool.Name + "/a", pool.Name + "/b"}
	ok(t, h.Create(t.Context(), names[0], map[string]string{zfs.PropCanMount: "on"}, true))
	ctx, end := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error {
		for ctx.Err() == nil {
			_ = agent.Mount(ctx, names[0]) // which is not there half of the time
		}
		return nil
	})
	for i := range 10 {
		ok(t, h.Rename(t.Context(), names[i%2], names[1-i%2]))
	}
	end()
	ok(t, g.Wait())
}
