package adoption

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"tarn/agent/replicate"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// What only real datasets can be, and what stands in the way of taking them over: each
// is told with what to do, nothing is changed, and done is done.
func TestObstaclesOfRealDatasets(t *testing.T) {
	pool := realzfs.NewPool(t, 512)
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	home := pool.Name + "/home"
	for _, o := range []struct {
		name, says string
		make       func(t *testing.T) (undo func())
	}{
		{"a volume below", "a volume", func(t *testing.T) func() {
			needVolumes(t)
			output(t, "zfs", "create", home)
			output(t, "zfs", "create", "-V", "16M", home+"/disk")
			return func() { destroy(t, home+"/disk") }
		}},
		{"a file system below", home + "/child", func(t *testing.T) func() {
			output(t, "zfs", "create", "-p", home+"/child")
			return func() { destroy(t, home+"/child") }
		}},
		{"a volume", "no file system", func(t *testing.T) func() {
			needVolumes(t)
			output(t, "zfs", "create", "-V", "16M", home)
			return func() {
				destroy(t, home)
				output(t, "zfs", "create", home)
			}
		}},
		{"files in use", fmt.Sprintf("pid %d", os.Getpid()), func(t *testing.T) func() {
			output(t, "zfs", "create", home)
			f, err := os.Create(filepath.Join(pool.Dir, "home", "open"))
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = f.Close() }
		}},
		{"a clone", "zfs promote", func(t *testing.T) func() {
			output(t, "zfs", "create", pool.Name+"/origin")
			output(t, "zfs", "snapshot", pool.Name+"/origin@s")
			output(t, "zfs", "clone", pool.Name+"/origin@s", home)
			return func() {
				output(t, "zfs", "promote", home)
				destroy(t, pool.Name+"/origin") // zfs-fuse is slow to rename what has a clone
			}
		}},
	} {
		t.Run(o.name, func(t *testing.T) {
			h := newHost(t, ca, uuid.NewString(), pool.Name)
			defer sweep(t, pool.Name+"/origin", home)
			undo := o.make(t)
			h.start()
			h.lease.set(true)
			h.assign(tarnv1.Role_ROLE_ACTIVE, home)
			h.until("refused", func() bool { return strings.Contains(h.report().GetError().GetMessage(), o.says) })
			t.Log(h.report().GetError().GetMessage())
			undo()
			h.until("taken over", func() bool { return h.report().GetWritable() && h.report().GetError() == nil })
			h.lease.set(false)
			h.assign(tarnv1.Role_ROLE_RELEASING, home)
			h.until("given back", func() bool { return h.report().GetGone() })
			h.stop()
		})
	}
}

// needVolumes skips where the tools know volumes and the system has no devices for them.
func needVolumes(t *testing.T) {
	t.Helper()
	if !realzfs.Kernel() {
		t.Skip("zfs-fuse has no volumes; the kernel's ZFS shows this")
	}
}

// sweep removes what there is of some datasets.
func sweep(t *testing.T, datasets ...string) {
	t.Helper()
	for _, ds := range datasets {
		if exec.Command("/usr/sbin/zfs", "list", ds).Run() == nil {
			destroy(t, ds)
		}
	}
}

func destroy(t *testing.T, dataset string) {
	t.Helper()
	if err := realzfs.DestroyAll(dataset); err != nil {
		t.Fatal(err)
	}
}

// ZFS's own exports go past the share's rules: they are off while it is a share.
func TestExportsOfZFSAreSwitchedOff(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	home := pool.Name + "/home"
	output(t, "zfs", "create", "-o", "canmount=noauto", home)
	output(t, "zfs", "set", "sharenfs=ro=@192.0.2.0/24", home)
	before := portrait(t, home)
	h := newHost(t, ca, uuid.NewString(), pool.Name)
	h.start()
	h.lease.set(true)
	h.assign(tarnv1.Role_ROLE_ACTIVE, home)
	h.until("taken over", func() bool { return h.report().GetWritable() })
	if got := strings.TrimSpace(output(t, "zfs", "get", "-H", "-o", "value", "sharenfs", h.dataset())); got != "off" {
		t.Errorf("sharenfs is %s", got)
	}
	h.lease.set(false)
	h.assign(tarnv1.Role_ROLE_RELEASING, home)
	h.until("given back", func() bool { return h.report().GetGone() })
	if after := portrait(t, home); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
}

// mortal is an engine whose process dies at a command: everything from then on fails.
type mortal struct {
	replicate.Engine
	left atomic.Int64
	dead atomic.Bool
}

var errDied = errors.New("the process died")

func (m *mortal) die(op func() error) error {
	if m.dead.Load() || m.left.Add(-1) < 0 {
		m.dead.Store(true)
		return errDied
	}
	return op()
}

func (m *mortal) Set(ctx context.Context, name string, props map[string]string) error {
	for k, v := range props { // one by one, as old versions do: a process may die in between
		if err := m.die(func() error { return m.Engine.Set(ctx, name, map[string]string{k: v}) }); err != nil {
			return err
		}
	}
	return nil
}

func (m *mortal) Inherit(ctx context.Context, name, prop string) error {
	return m.die(func() error { return m.Engine.Inherit(ctx, name, prop) })
}

func (m *mortal) Rename(ctx context.Context, from, to string) error {
	return m.die(func() error { return m.Engine.Rename(ctx, from, to) })
}

func (m *mortal) Mount(ctx context.Context, name string) error {
	return m.die(func() error { return m.Engine.Mount(ctx, name) })
}

func (m *mortal) Unmount(ctx context.Context, name string, force bool) error {
	return m.die(func() error { return m.Engine.Unmount(ctx, name, force) })
}

func (m *mortal) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	return m.die(func() error { return m.Engine.Create(ctx, name, props, parents) })
}

// The process dies at every command that changes something, of taking over and of
// giving back; the next one ends in the same place.
func TestCrashesOnRealDatasets(t *testing.T) {
	pool := realzfs.NewPool(t, 512)
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	home := pool.Name + "/home"
	output(t, "zfs", "create", "-o", "quota=1G", "-o", "atime=off", home)
	write(t, filepath.Join(pool.Dir, "home"), "file", 1000)
	output(t, "zfs", "snapshot", home+"@monday")
	before := portrait(t, home)
	for n := int64(0); ; n++ {
		h := newHost(t, ca, uuid.NewString(), pool.Name)
		m := &mortal{Engine: h.fs}
		m.left.Store(n)
		h.engine = m
		h.start()
		h.lease.set(true)
		h.assign(tarnv1.Role_ROLE_ACTIVE, home)
		writable := func() bool { return h.report().GetWritable() }
		h.until("taken over or dead", func() bool { return m.dead.Load() || writable() })
		h.reborn()
		h.assign(tarnv1.Role_ROLE_ACTIVE, home)
		h.until("taken over", writable)
		h.stop()
		m = &mortal{Engine: h.fs}
		m.left.Store(n)
		h.engine = m
		h.start()
		h.lease.set(false)
		h.assign(tarnv1.Role_ROLE_RELEASING, home)
		gone := func() bool { return h.report().GetGone() }
		h.until("given back or dead", func() bool { return m.dead.Load() || gone() })
		h.reborn()
		h.assign(tarnv1.Role_ROLE_RELEASING, home)
		h.until("given back", gone)
		h.stop()
		if after := portrait(t, home); after != before {
			t.Fatalf("crash at %d: was\n%s\nis\n%s", n, before, after)
		}
		if !m.dead.Load() {
			t.Logf("%d crash points", n)
			return
		}
	}
}

// reborn is another process on the same storage.
func (h *host) reborn() {
	h.stop()
	h.engine = nil
	h.start()
}

var _ replicate.Engine = (*zfs.Host)(nil)
