package replicate

import (
	"context"
	"io"
	"sync"
	"testing"

	"tarn/zfs"
)

// hooks is asked before every operation of a storage, and after its effect.
type hooks = func(call int, op, object string) error

// mortal is a storage whose process can be made to die at any operation.
type mortal interface {
	Calls() int
	SetHooks(before, after func(call int, op, object string) error)
}

// hookedDir is dirzfs behind such hooks.
type hookedDir struct {
	*dirStorage
	mu            sync.Mutex
	calls         int
	before, after hooks
}

func onHookedDirectory(t *testing.T, i int) testStorage {
	return &hookedDir{dirStorage: onDirectory(t, i).(*dirStorage)}
}

func (d *hookedDir) Calls() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls
}

func (d *hookedDir) SetHooks(before, after func(int, string, string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before, d.after = before, after
}

// do runs one operation between the hooks.
func (d *hookedDir) do(op, object string, run func() error) error {
	d.mu.Lock()
	d.calls++
	call, before, after := d.calls, d.before, d.after
	d.mu.Unlock()
	if before != nil {
		if err := before(call, op, object); err != nil {
			return err
		}
	}
	err := run()
	if err == nil && after != nil {
		err = after(call, op, object)
	}
	return err
}

func hooked[T any](d *hookedDir, op, object string, run func() (T, error)) (v T, err error) {
	err = d.do(op, object, func() error {
		v, err = run()
		return err
	})
	return v, err
}

func (d *hookedDir) Dataset(ctx context.Context, name string) (zfs.Dataset, error) {
	return hooked(d, "get", name, func() (zfs.Dataset, error) { return d.Host.Dataset(ctx, name) })
}

func (d *hookedDir) Datasets(ctx context.Context, root string) ([]zfs.Dataset, error) {
	return hooked(d, "list", root, func() ([]zfs.Dataset, error) { return d.Host.Datasets(ctx, root) })
}

func (d *hookedDir) Versions(ctx context.Context, name string) ([]zfs.Version, error) {
	return hooked(d, "list", name, func() ([]zfs.Version, error) { return d.Host.Versions(ctx, name) })
}

func (d *hookedDir) Holds(ctx context.Context, snapshot string) ([]zfs.Hold, error) {
	return hooked(d, "holds", snapshot, func() ([]zfs.Hold, error) { return d.Host.Holds(ctx, snapshot) })
}

func (d *hookedDir) Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error) {
	return hooked(d, "send", req.Dataset, func() (zfs.Stream, error) { return d.Host.Send(ctx, req) })
}

func (d *hookedDir) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	return d.do("create", name, func() error { return d.Host.Create(ctx, name, props, parents) })
}

func (d *hookedDir) Destroy(ctx context.Context, name string) error {
	return d.do("destroy", name, func() error { return d.Host.Destroy(ctx, name) })
}

func (d *hookedDir) Rename(ctx context.Context, from, to string) error {
	return d.do("rename", from, func() error { return d.Host.Rename(ctx, from, to) })
}

func (d *hookedDir) Set(ctx context.Context, name string, props map[string]string) error {
	return d.do("set", name, func() error { return d.Host.Set(ctx, name, props) })
}

func (d *hookedDir) Mount(ctx context.Context, name string) error {
	return d.do("mount", name, func() error { return d.Host.Mount(ctx, name) })
}

func (d *hookedDir) Unmount(ctx context.Context, name string, force bool) error {
	return d.do("unmount", name, func() error { return d.Host.Unmount(ctx, name, force) })
}

func (d *hookedDir) Snapshot(ctx context.Context, names ...string) error {
	return d.do("snapshot", names[0], func() error { return d.Host.Snapshot(ctx, names...) })
}

func (d *hookedDir) DestroySnapshots(ctx context.Context, dataset string, names ...string) error {
	return d.do("destroy", dataset, func() error { return d.Host.DestroySnapshots(ctx, dataset, names...) })
}

func (d *hookedDir) Hold(ctx context.Context, tag string, snapshots ...string) error {
	return d.do("hold", tag, func() error { return d.Host.Hold(ctx, tag, snapshots...) })
}

func (d *hookedDir) Release(ctx context.Context, tag string, snapshots ...string) error {
	return d.do("release", tag, func() error { return d.Host.Release(ctx, tag, snapshots...) })
}

func (d *hookedDir) Receive(ctx context.Context, req zfs.ReceiveRequest, r io.Reader) error {
	return d.do("receive", req.Target, func() error { return d.Host.Receive(ctx, req, r) })
}

func (d *hookedDir) AbortReceive(ctx context.Context, dataset string) error {
	return d.do("abort", dataset, func() error { return d.Host.AbortReceive(ctx, dataset) })
}
