package agent

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"tarn/zfs"
)

// lateZFS is the real ZFS of a machine on which it may not run yet: the module is
// loaded, the daemon started or the packages are installed later. Every call tries
// again; while it does not succeed the call fails with the reason.
type lateZFS struct {
	cfg zfs.Config
	// open makes the engine.
	open func(ctx context.Context, cfg zfs.Config) (zfsHost, error)

	mu    sync.Mutex
	host  zfsHost
	tried time.Time
	err   error
}

// zfsHost is the engine behind lateZFS.
type zfsHost interface {
	Storage
	Sync(ctx context.Context, pool string) error
}

// openPause is between two tries to find ZFS: each is a few processes.
const openPause = time.Second

// engine finds ZFS, or tells why there is none.
func (l *lateZFS) engine(ctx context.Context) (zfsHost, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.host != nil || time.Since(l.tried) < openPause {
		return l.host, l.err
	}
	host, err := l.open(ctx, l.cfg)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	l.tried, l.err = time.Now(), err
	if err != nil {
		l.err = fmt.Errorf("storage zfs: %w", err)
		return nil, l.err
	}
	l.host = host
	return host, nil
}

// with runs an operation without a result.
func (l *lateZFS) with(ctx context.Context, run func(zfsHost) error) error {
	h, err := l.engine(ctx)
	if err != nil {
		return err
	}
	return run(h)
}

// from runs one with a result.
func from[T any](ctx context.Context, l *lateZFS, run func(zfsHost) (T, error)) (T, error) {
	h, err := l.engine(ctx)
	if err != nil {
		var none T
		return none, err
	}
	return run(h)
}

// Capabilities, like all that follows, is the engine's method of that name.
func (l *lateZFS) Capabilities(ctx context.Context) (zfs.Capabilities, error) {
	return from(ctx, l, func(h zfsHost) (zfs.Capabilities, error) { return h.Capabilities(ctx) })
}

func (l *lateZFS) Pools(ctx context.Context) ([]zfs.PoolStatus, error) {
	return from(ctx, l, func(h zfsHost) ([]zfs.PoolStatus, error) { return h.Pools(ctx) })
}

func (l *lateZFS) Damage(ctx context.Context, pool string) ([]zfs.Damage, error) {
	return from(ctx, l, func(h zfsHost) ([]zfs.Damage, error) { return h.Damage(ctx, pool) })
}

func (l *lateZFS) Shared(ctx context.Context, root string) (map[string][]string, error) {
	return from(ctx, l, func(h zfsHost) (map[string][]string, error) { return h.Shared(ctx, root) })
}

func (l *lateZFS) Sync(ctx context.Context, pool string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Sync(ctx, pool) })
}

func (l *lateZFS) Dataset(ctx context.Context, name string) (zfs.Dataset, error) {
	return from(ctx, l, func(h zfsHost) (zfs.Dataset, error) { return h.Dataset(ctx, name) })
}

func (l *lateZFS) Datasets(ctx context.Context, root string) ([]zfs.Dataset, error) {
	return from(ctx, l, func(h zfsHost) ([]zfs.Dataset, error) { return h.Datasets(ctx, root) })
}

func (l *lateZFS) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	return l.with(ctx, func(h zfsHost) error { return h.Create(ctx, name, props, parents) })
}

func (l *lateZFS) Destroy(ctx context.Context, name string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Destroy(ctx, name) })
}

func (l *lateZFS) Rename(ctx context.Context, from, to string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Rename(ctx, from, to) })
}

func (l *lateZFS) Clone(ctx context.Context, snapshot, name string, props map[string]string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Clone(ctx, snapshot, name, props) })
}

func (l *lateZFS) Promote(ctx context.Context, name string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Promote(ctx, name) })
}

func (l *lateZFS) Set(ctx context.Context, name string, props map[string]string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Set(ctx, name, props) })
}

func (l *lateZFS) Inherit(ctx context.Context, name, prop string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Inherit(ctx, name, prop) })
}

func (l *lateZFS) Get(ctx context.Context, name string, props ...string) (map[string]zfs.Property, error) {
	return from(ctx, l, func(h zfsHost) (map[string]zfs.Property, error) { return h.Get(ctx, name, props...) })
}

func (l *lateZFS) LoadKey(ctx context.Context, name, file string) error {
	return l.with(ctx, func(h zfsHost) error { return h.LoadKey(ctx, name, file) })
}

func (l *lateZFS) Mount(ctx context.Context, name string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Mount(ctx, name) })
}

func (l *lateZFS) Unmount(ctx context.Context, name string, force bool) error {
	return l.with(ctx, func(h zfsHost) error { return h.Unmount(ctx, name, force) })
}

func (l *lateZFS) Snapshot(ctx context.Context, names ...string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Snapshot(ctx, names...) })
}

func (l *lateZFS) RenameSnapshot(ctx context.Context, dataset, from, to string) error {
	return l.with(ctx, func(h zfsHost) error { return h.RenameSnapshot(ctx, dataset, from, to) })
}

func (l *lateZFS) DestroySnapshots(ctx context.Context, dataset string, names ...string) error {
	return l.with(ctx, func(h zfsHost) error { return h.DestroySnapshots(ctx, dataset, names...) })
}

func (l *lateZFS) Versions(ctx context.Context, dataset string) ([]zfs.Version, error) {
	return from(ctx, l, func(h zfsHost) ([]zfs.Version, error) { return h.Versions(ctx, dataset) })
}

func (l *lateZFS) VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error) {
	return from(ctx, l, func(h zfsHost) (map[string][]zfs.Version, error) { return h.VersionsBelow(ctx, root) })
}

func (l *lateZFS) Named(ctx context.Context, names ...string) ([]zfs.Version, error) {
	return from(ctx, l, func(h zfsHost) ([]zfs.Version, error) { return h.Named(ctx, names...) })
}

func (l *lateZFS) Hold(ctx context.Context, tag string, snapshots ...string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Hold(ctx, tag, snapshots...) })
}

func (l *lateZFS) Release(ctx context.Context, tag string, snapshots ...string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Release(ctx, tag, snapshots...) })
}

func (l *lateZFS) Holds(ctx context.Context, snapshot string) ([]zfs.Hold, error) {
	return from(ctx, l, func(h zfsHost) ([]zfs.Hold, error) { return h.Holds(ctx, snapshot) })
}

func (l *lateZFS) Bookmark(ctx context.Context, snapshot, bookmark string) error {
	return l.with(ctx, func(h zfsHost) error { return h.Bookmark(ctx, snapshot, bookmark) })
}

func (l *lateZFS) DestroyBookmark(ctx context.Context, bookmark string) error {
	return l.with(ctx, func(h zfsHost) error { return h.DestroyBookmark(ctx, bookmark) })
}

func (l *lateZFS) Receive(ctx context.Context, req zfs.ReceiveRequest, stream io.Reader) error {
	return l.with(ctx, func(h zfsHost) error { return h.Receive(ctx, req, stream) })
}

func (l *lateZFS) AbortReceive(ctx context.Context, dataset string) error {
	return l.with(ctx, func(h zfsHost) error { return h.AbortReceive(ctx, dataset) })
}

func (l *lateZFS) DecodeToken(ctx context.Context, token string) (zfs.TokenInfo, error) {
	return from(ctx, l, func(h zfsHost) (zfs.TokenInfo, error) { return h.DecodeToken(ctx, token) })
}

func (l *lateZFS) Estimate(ctx context.Context, req zfs.SendRequest) (int64, error) {
	return from(ctx, l, func(h zfsHost) (int64, error) { return h.Estimate(ctx, req) })
}

func (l *lateZFS) Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error) {
	return from(ctx, l, func(h zfsHost) (zfs.Stream, error) { return h.Send(ctx, req) })
}

func (l *lateZFS) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.host == nil {
		return nil
	}
	return l.host.Close()
}
