package zfstest

import (
	"context"
	"io"

	"tarn/zfs"
)

// Host is every method that an engine has. Consumers declare the few that they
// call; only the conformance suite needs the whole set. All methods are safe for
// concurrent use, classify their errors as *zfs.Error, and honour ctx.
type Host interface {
	Capabilities(ctx context.Context) (zfs.Capabilities, error)
	Pools(ctx context.Context) ([]zfs.PoolStatus, error)
	// Sync waits until all that was written to a pool counts in Dataset.Written.
	Sync(ctx context.Context, pool string) error

	// Create makes a filesystem. Missing parents are made with canmount=off when parents is set.
	// It is not mounted by Create unless canmount=on is among props.
	Create(ctx context.Context, name string, props map[string]string, parents bool) error
	// Dataset gives one, Datasets gives root and all below it in name order.
	Dataset(ctx context.Context, name string) (zfs.Dataset, error)
	Datasets(ctx context.Context, root string) ([]zfs.Dataset, error)
	// Set writes local values, Inherit removes one. Get answers with effective values and sources.
	Set(ctx context.Context, name string, props map[string]string) error
	Inherit(ctx context.Context, name, prop string) error
	Get(ctx context.Context, name string, props ...string) (map[string]zfs.Property, error)
	// Destroy removes a filesystem without snapshots, children or clones of them. Never recursive.
	Destroy(ctx context.Context, name string) error
	// Rename moves a filesystem (children with it) inside its pool, parents must exist.
	Rename(ctx context.Context, from, to string) error

	// Snapshot takes all of names ("fs@snap", one pool, one per filesystem) at one
	// instant, or none.
	Snapshot(ctx context.Context, names ...string) error
	// RenameSnapshot keeps the GUID.
	RenameSnapshot(ctx context.Context, dataset, from, to string) error
	// DestroySnapshots removes snapshots of one filesystem. Held or cloned ones fail the whole call;
	// names that do not exist are passed over, ErrNotExist when none does.
	DestroySnapshots(ctx context.Context, dataset string, names ...string) error
	// Versions lists snapshots and bookmarks of one filesystem by createtxg;
	// VersionsBelow does so for root and all below it in one go.
	Versions(ctx context.Context, dataset string) ([]zfs.Version, error)
	VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error)
	// Named gives snapshots by full name, the zero Version for one that is not there.
	Named(ctx context.Context, names ...string) ([]zfs.Version, error)

	// Hold and Release are idempotent.
	Hold(ctx context.Context, tag string, snapshots ...string) error
	Release(ctx context.Context, tag string, snapshots ...string) error
	Holds(ctx context.Context, snapshot string) ([]zfs.Hold, error)
	// Bookmark is idempotent for an equal GUID, ErrExists otherwise.
	Bookmark(ctx context.Context, snapshot, bookmark string) error
	DestroyBookmark(ctx context.Context, bookmark string) error

	// LoadKey gives the storage a dataset's key, 32 bytes in a file. Idempotent; ErrKey
	// when there is no key or it does not fit, ErrUnsupported without encryption.
	LoadKey(ctx context.Context, name, file string) error

	Clone(ctx context.Context, snapshot, name string, props map[string]string) error
	Promote(ctx context.Context, name string) error
	// Rollback returns the head to its most recent snapshot, which must be the one
	// named: ErrNotLatest otherwise. Never destroys a snapshot.
	Rollback(ctx context.Context, snapshot string) error

	// Mount and Unmount are idempotent. Unmount fails with ErrBusy while somebody
	// has a file or directory of it open; force tries harder. After a nil answer
	// nobody can write to the filesystem any more.
	Mount(ctx context.Context, name string) error
	Unmount(ctx context.Context, name string, force bool) error

	// Estimate is the size of the stream in bytes, 0 when unknown.
	Estimate(ctx context.Context, req zfs.SendRequest) (int64, error)
	Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error)
	// Receive reads one stream to its end. nil means durable: the target snapshot
	// exists, though callers verify its GUID all the same.
	Receive(ctx context.Context, req zfs.ReceiveRequest, stream io.Reader) error
	// AbortReceive drops half-received state; ErrNotResumable when there is none.
	AbortReceive(ctx context.Context, dataset string) error
	DecodeToken(ctx context.Context, token string) (zfs.TokenInfo, error)
}
