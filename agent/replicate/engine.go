package replicate

import (
	"context"
	"io"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Datasets is the storage's handling of filesystems.
type Datasets interface {
	Dataset(ctx context.Context, name string) (zfs.Dataset, error)
	Datasets(ctx context.Context, root string) ([]zfs.Dataset, error)
	Create(ctx context.Context, name string, props map[string]string, parents bool) error
	Destroy(ctx context.Context, name string) error
	Rename(ctx context.Context, from, to string) error
	Clone(ctx context.Context, snapshot, name string, props map[string]string) error
	Promote(ctx context.Context, name string) error
}

// Properties reads properties of a filesystem and changes local ones.
type Properties interface {
	Set(ctx context.Context, name string, props map[string]string) error
	Inherit(ctx context.Context, name, prop string) error
	Get(ctx context.Context, name string, props ...string) (map[string]zfs.Property, error)
}

// Mounter makes a filesystem reachable, or certain that it is not.
type Mounter interface {
	Mount(ctx context.Context, name string) error
	Unmount(ctx context.Context, name string, force bool) error
}

// Snapshots is the storage's handling of snapshots.
type Snapshots interface {
	Snapshot(ctx context.Context, names ...string) error
	RenameSnapshot(ctx context.Context, dataset, from, to string) error
	DestroySnapshots(ctx context.Context, dataset string, names ...string) error
	Versions(ctx context.Context, dataset string) ([]zfs.Version, error)
	VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error)
	Named(ctx context.Context, names ...string) ([]zfs.Version, error)
}

// Holds keeps snapshots from being destroyed.
type Holds interface {
	Hold(ctx context.Context, tag string, snapshots ...string) error
	Release(ctx context.Context, tag string, snapshots ...string) error
	Holds(ctx context.Context, snapshot string) ([]zfs.Hold, error)
}

// Bookmarks are bases for increments that keep no data.
type Bookmarks interface {
	Bookmark(ctx context.Context, snapshot, bookmark string) error
	DestroyBookmark(ctx context.Context, bookmark string) error
}

// Receiver takes streams in.
type Receiver interface {
	Receive(ctx context.Context, req zfs.ReceiveRequest, stream io.Reader) error
	AbortReceive(ctx context.Context, dataset string) error
	DecodeToken(ctx context.Context, token string) (zfs.TokenInfo, error)
}

// Engine is the storage of one host; every method as zfstest.Host describes it.
type Engine interface {
	Datasets
	Properties
	Mounter
	Snapshots
	Holds
	Bookmarks
	Receiver
	KeyLoader
}

// Exporter makes a mountpoint reachable for clients. Apply puts the whole rule set
// in force and is idempotent; rules that cannot be applied are told one by one.
// After a nil answer of Remove no client reaches the mountpoint.
type Exporter interface {
	Apply(ctx context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error)
	Remove(ctx context.Context, mountpoint string) error
}

// Lease is the right to serve writes. The channel of Changed closes when an
// answer of Held may have changed; ask for a new one each time.
type Lease interface {
	Held(shareID, replicaID string, epoch uint64) bool
	Changed() <-chan struct{}
}
