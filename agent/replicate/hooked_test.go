package replicate

import (
	"context"
	"io"
	"strings"
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

// hookedStorage is an engine behind such hooks.
type hookedStorage struct {
	testStorage
	mu            sync.Mutex
	calls         int
	before, after hooks
}

func onHookedDirectory(t *testing.T, i int) testStorage {
	return &hookedStorage{testStorage: onDirectory(t, i)}
}

func (d *hookedStorage) Calls() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls
}

func (d *hookedStorage) SetHooks(before, after func(int, string, string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before, d.after = before, after
}

// do runs one operation between the hooks.
func (d *hookedStorage) do(op, object string, run func() error) error {
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

func hooked[T any](d *hookedStorage, op, object string, run func() (T, error)) (v T, err error) {
	err = d.do(op, object, func() error {
		v, err = run()
		return err
	})
	return v, err
}

func (d *hookedStorage) Dataset(ctx context.Context, name string) (zfs.Dataset, error) {
	return hooked(d, "get", name, func() (zfs.Dataset, error) { return d.testStorage.Dataset(ctx, name) })
}

func (d *hookedStorage) Datasets(ctx context.Context, root string) ([]zfs.Dataset, error) {
	return hooked(d, "list", root, func() ([]zfs.Dataset, error) { return d.testStorage.Datasets(ctx, root) })
}

func (d *hookedStorage) Versions(ctx context.Context, name string) ([]zfs.Version, error) {
	return hooked(d, "list", name, func() ([]zfs.Version, error) { return d.testStorage.Versions(ctx, name) })
}

func (d *hookedStorage) Named(ctx context.Context, names ...string) ([]zfs.Version, error) {
	return hooked(d, "list", strings.Join(names, ","), func() ([]zfs.Version, error) { return d.testStorage.Named(ctx, names...) })
}

func (d *hookedStorage) Holds(ctx context.Context, snapshot string) ([]zfs.Hold, error) {
	return hooked(d, "holds", snapshot, func() ([]zfs.Hold, error) { return d.testStorage.Holds(ctx, snapshot) })
}

func (d *hookedStorage) Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error) {
	return hooked(d, "send", req.Dataset, func() (zfs.Stream, error) { return d.testStorage.Send(ctx, req) })
}

func (d *hookedStorage) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	return d.do("create", name, func() error { return d.testStorage.Create(ctx, name, props, parents) })
}

func (d *hookedStorage) Destroy(ctx context.Context, name string) error {
	return d.do("destroy", name, func() error { return d.testStorage.Destroy(ctx, name) })
}

func (d *hookedStorage) Rename(ctx context.Context, from, to string) error {
	return d.do("rename", from, func() error { return d.testStorage.Rename(ctx, from, to) })
}

func (d *hookedStorage) Set(ctx context.Context, name string, props map[string]string) error {
	return d.do("set", name, func() error { return d.testStorage.Set(ctx, name, props) })
}

func (d *hookedStorage) Mount(ctx context.Context, name string) error {
	return d.do("mount", name, func() error { return d.testStorage.Mount(ctx, name) })
}

func (d *hookedStorage) Unmount(ctx context.Context, name string, force bool) error {
	return d.do("unmount", name, func() error { return d.testStorage.Unmount(ctx, name, force) })
}

func (d *hookedStorage) Snapshot(ctx context.Context, names ...string) error {
	return d.do("snapshot", names[0], func() error { return d.testStorage.Snapshot(ctx, names...) })
}

func (d *hookedStorage) DestroySnapshots(ctx context.Context, dataset string, names ...string) error {
	return d.do("destroy", dataset, func() error { return d.testStorage.DestroySnapshots(ctx, dataset, names...) })
}

func (d *hookedStorage) Hold(ctx context.Context, tag string, snapshots ...string) error {
	return d.do("hold", tag, func() error { return d.testStorage.Hold(ctx, tag, snapshots...) })
}

func (d *hookedStorage) Release(ctx context.Context, tag string, snapshots ...string) error {
	return d.do("release", tag, func() error { return d.testStorage.Release(ctx, tag, snapshots...) })
}

func (d *hookedStorage) Receive(ctx context.Context, req zfs.ReceiveRequest, r io.Reader) error {
	return d.do("receive", req.Target, func() error { return d.testStorage.Receive(ctx, req, r) })
}

func (d *hookedStorage) AbortReceive(ctx context.Context, dataset string) error {
	return d.do("abort", dataset, func() error { return d.testStorage.AbortReceive(ctx, dataset) })
}
