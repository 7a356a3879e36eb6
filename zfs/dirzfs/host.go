package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"tarn/zfs"
)

// Pool is where one pool lives.
type Pool struct {
	Name string // one component of a dataset name
	Dir  string // made by CreatePool, or by Open
	// Capacity bounds the bytes of stored chunks; 0 leaves it to the file system.
	// Live files come on top: keep Dir's file system twice as large.
	Capacity int64
}

// Config is what Open needs.
type Config struct {
	Pools  []Pool
	Logger *slog.Logger // required

	// step is told where an operation is; tests end the process there.
	step func(point string)
	// window replaces receiveWindow in tests.
	window int64
}

func (c Config) validate() error {
	if c.Logger == nil {
		return errors.New("dirzfs: no logger")
	}
	seen := map[string]bool{}
	for _, p := range c.Pools {
		if err := zfs.ValidateComponent(p.Name); err != nil {
			return fmt.Errorf("dirzfs: pool: %w", err)
		}
		if seen[p.Name] || p.Dir == "" || p.Capacity < 0 {
			return fmt.Errorf("dirzfs: pool %s: named twice, without a directory or of negative capacity", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}

// Host has every method of zfstest.Host, with the semantics of package zfs, for
// the pools of one process. All methods are safe for concurrent use and their
// errors are *zfs.Error.
type Host struct {
	pools map[string]*pool
}

// CreatePool makes the directories of a pool and its root dataset, and is content
// if they are there. The pool must not be open elsewhere.
func CreatePool(dir string, name string) error {
	h, err := Open(Config{Pools: []Pool{{Name: name, Dir: dir}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return h.Close()
}

// Open locks the pools, creates what is missing, and finishes what a crash cut
// short. A pool that another process has open is zfs.ErrBusy.
func Open(cfg Config) (*Host, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h := &Host{pools: map[string]*pool{}}
	for _, c := range cfg.Pools {
		p, err := openPool(c, cfg.Logger.With("pool", c.Name), cfg)
		if err != nil {
			return nil, errors.Join(fail("open", c.Name, err), h.Close())
		}
		h.pools[c.Name] = p
	}
	return h, nil
}

// Close ends all streams and releases the pools. Datasets stay as they are,
// mounted ones stay reachable.
func (h *Host) Close() error {
	var errs []error
	for _, p := range h.pools {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// pool finds the pool of a dataset, snapshot or bookmark.
func (h *Host) pool(name string) (*pool, error) {
	first := name
	if i := strings.IndexAny(name, "/@#"); i >= 0 {
		first = name[:i]
	}
	p := h.pools[first]
	if p == nil {
		return nil, fmt.Errorf("%w: no pool %q", zfs.ErrNotExist, first)
	}
	return p, nil
}

// dataset checks a dataset's name and finds its pool.
func (h *Host) dataset(ctx context.Context, name string) (*pool, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := zfs.ValidateDataset(name); err != nil {
		return nil, err
	}
	return h.pool(name)
}

// snapshotOf checks "dataset@name" and finds its pool.
func (h *Host) snapshotOf(ctx context.Context, full string) (*pool, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, _, err := zfs.ValidateSnapshot(full); err != nil {
		return nil, err
	}
	return h.pool(full)
}

// Capabilities says that everything is there but what belongs to ZFS records.
func (h *Host) Capabilities(ctx context.Context) (zfs.Capabilities, error) {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	return zfs.Capabilities{
		Engine: "dirzfs", Version: version, Resume: true, Bookmarks: true, Written: true,
		MultiSnapshot: true, HoldsListed: true, Clones: true, ReceiveProperties: true,
	}, ctx.Err()
}

// Sync does nothing: Written is measured when it is asked for.
func (h *Host) Sync(ctx context.Context, pool string) error {
	_, err := h.pool(pool)
	return fail("sync", pool, errors.Join(err, ctx.Err()))
}

// Pools lists the open pools by name.
func (h *Host) Pools(ctx context.Context) ([]zfs.PoolStatus, error) {
	var list []zfs.PoolStatus
	for _, name := range slices.Sorted(maps.Keys(h.pools)) {
		s, err := h.pools[name].status()
		if err != nil {
			return nil, fail("list", name, err)
		}
		list = append(list, s)
	}
	return list, ctx.Err()
}

// makeDirs creates the folders of a pool, closed to others: snapshots in them
// keep files that a client may have made private since.
func makeDirs(dir string) error {
	for _, sub := range []string{"", "mnt", "heads", "orphans", "tmp", "fence"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}
