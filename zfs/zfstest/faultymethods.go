package zfstest

import (
	"context"
	"io"

	"tarn/zfs"
)

// The remaining methods of Host, each through its faults.

var _ Host = (*Faulty)(nil)

// Capabilities is the wrapped method with its faults.
func (f *Faulty) Capabilities(ctx context.Context) (zfs.Capabilities, error) {
	return faultyGet(f, "Capabilities", func() (zfs.Capabilities, error) { return f.host.Capabilities(ctx) })
}

// Pools is the wrapped method with its faults.
func (f *Faulty) Pools(ctx context.Context) ([]zfs.PoolStatus, error) {
	return faultyGet(f, "Pools", func() ([]zfs.PoolStatus, error) { return f.host.Pools(ctx) })
}

// Create is the wrapped method with its faults.
func (f *Faulty) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	return f.do("Create", func() error { return f.host.Create(ctx, name, props, parents) })
}

// Dataset is the wrapped method with its faults.
func (f *Faulty) Dataset(ctx context.Context, name string) (zfs.Dataset, error) {
	return faultyGet(f, "Dataset", func() (zfs.Dataset, error) { return f.host.Dataset(ctx, name) })
}

// Datasets is the wrapped method with its faults.
func (f *Faulty) Datasets(ctx context.Context, root string) ([]zfs.Dataset, error) {
	return faultyGet(f, "Datasets", func() ([]zfs.Dataset, error) { return f.host.Datasets(ctx, root) })
}

// Set is the wrapped method with its faults.
func (f *Faulty) Set(ctx context.Context, name string, props map[string]string) error {
	return f.do("Set", func() error { return f.host.Set(ctx, name, props) })
}

// Inherit is the wrapped method with its faults.
func (f *Faulty) Inherit(ctx context.Context, name, prop string) error {
	return f.do("Inherit", func() error { return f.host.Inherit(ctx, name, prop) })
}

// Get is the wrapped method with its faults.
func (f *Faulty) Get(ctx context.Context, name string, props ...string) (map[string]zfs.Property, error) {
	return faultyGet(f, "Get", func() (map[string]zfs.Property, error) { return f.host.Get(ctx, name, props...) })
}

// Destroy is the wrapped method with its faults.
func (f *Faulty) Destroy(ctx context.Context, name string) error {
	return f.do("Destroy", func() error { return f.host.Destroy(ctx, name) })
}

// Rename is the wrapped method with its faults.
func (f *Faulty) Rename(ctx context.Context, from, to string) error {
	return f.do("Rename", func() error { return f.host.Rename(ctx, from, to) })
}

// Sync is the wrapped method with its faults.
func (f *Faulty) Sync(ctx context.Context, pool string) error {
	return f.do("Sync", func() error { return f.host.Sync(ctx, pool) })
}

// Snapshot is the wrapped method with its faults.
func (f *Faulty) Snapshot(ctx context.Context, names ...string) error {
	return f.do("Snapshot", func() error { return f.host.Snapshot(ctx, names...) })
}

// RenameSnapshot is the wrapped method with its faults.
func (f *Faulty) RenameSnapshot(ctx context.Context, dataset, from, to string) error {
	return f.do("RenameSnapshot", func() error { return f.host.RenameSnapshot(ctx, dataset, from, to) })
}

// DestroySnapshots is the wrapped method with its faults.
func (f *Faulty) DestroySnapshots(ctx context.Context, dataset string, names ...string) error {
	return f.do("DestroySnapshots", func() error { return f.host.DestroySnapshots(ctx, dataset, names...) })
}

// Versions is the wrapped method with its faults.
func (f *Faulty) Versions(ctx context.Context, dataset string) ([]zfs.Version, error) {
	return faultyGet(f, "Versions", func() ([]zfs.Version, error) { return f.host.Versions(ctx, dataset) })
}

// VersionsBelow is the wrapped method with its faults.
func (f *Faulty) VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error) {
	return faultyGet(f, "VersionsBelow", func() (map[string][]zfs.Version, error) { return f.host.VersionsBelow(ctx, root) })
}

// Named is the wrapped method with its faults.
func (f *Faulty) Named(ctx context.Context, names ...string) ([]zfs.Version, error) {
	return faultyGet(f, "Named", func() ([]zfs.Version, error) { return f.host.Named(ctx, names...) })
}

// Hold is the wrapped method with its faults.
func (f *Faulty) Hold(ctx context.Context, tag string, snapshots ...string) error {
	return f.do("Hold", func() error { return f.host.Hold(ctx, tag, snapshots...) })
}

// Release is the wrapped method with its faults.
func (f *Faulty) Release(ctx context.Context, tag string, snapshots ...string) error {
	return f.do("Release", func() error { return f.host.Release(ctx, tag, snapshots...) })
}

// Holds is the wrapped method with its faults.
func (f *Faulty) Holds(ctx context.Context, snapshot string) ([]zfs.Hold, error) {
	return faultyGet(f, "Holds", func() ([]zfs.Hold, error) { return f.host.Holds(ctx, snapshot) })
}

// Bookmark is the wrapped method with its faults.
func (f *Faulty) Bookmark(ctx context.Context, snapshot, bookmark string) error {
	return f.do("Bookmark", func() error { return f.host.Bookmark(ctx, snapshot, bookmark) })
}

// DestroyBookmark is the wrapped method with its faults.
func (f *Faulty) DestroyBookmark(ctx context.Context, bookmark string) error {
	return f.do("DestroyBookmark", func() error { return f.host.DestroyBookmark(ctx, bookmark) })
}

// LoadKey is the wrapped method with its faults.
func (f *Faulty) LoadKey(ctx context.Context, name, file string) error {
	return f.do("LoadKey", func() error { return f.host.LoadKey(ctx, name, file) })
}

// Clone is the wrapped method with its faults.
func (f *Faulty) Clone(ctx context.Context, snapshot, name string, props map[string]string) error {
	return f.do("Clone", func() error { return f.host.Clone(ctx, snapshot, name, props) })
}

// Promote is the wrapped method with its faults.
func (f *Faulty) Promote(ctx context.Context, name string) error {
	return f.do("Promote", func() error { return f.host.Promote(ctx, name) })
}

// Rollback is the wrapped method with its faults.
func (f *Faulty) Rollback(ctx context.Context, snapshot string) error {
	return f.do("Rollback", func() error { return f.host.Rollback(ctx, snapshot) })
}

// Mount is the wrapped method with its faults.
func (f *Faulty) Mount(ctx context.Context, name string) error {
	return f.do("Mount", func() error { return f.host.Mount(ctx, name) })
}

// Unmount is the wrapped method with its faults.
func (f *Faulty) Unmount(ctx context.Context, name string, force bool) error {
	return f.do("Unmount", func() error { return f.host.Unmount(ctx, name, force) })
}

// Estimate is the wrapped method with its faults.
func (f *Faulty) Estimate(ctx context.Context, req zfs.SendRequest) (int64, error) {
	return faultyGet(f, "Estimate", func() (int64, error) { return f.host.Estimate(ctx, req) })
}

// Receive is the wrapped method with its faults.
func (f *Faulty) Receive(ctx context.Context, req zfs.ReceiveRequest, stream io.Reader) error {
	return f.do("Receive", func() error { return f.host.Receive(ctx, req, stream) })
}

// AbortReceive is the wrapped method with its faults.
func (f *Faulty) AbortReceive(ctx context.Context, dataset string) error {
	return f.do("AbortReceive", func() error { return f.host.AbortReceive(ctx, dataset) })
}

// DecodeToken is the wrapped method with its faults.
func (f *Faulty) DecodeToken(ctx context.Context, token string) (zfs.TokenInfo, error) {
	return faultyGet(f, "DecodeToken", func() (zfs.TokenInfo, error) { return f.host.DecodeToken(ctx, token) })
}
