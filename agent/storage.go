package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tarn/agent/privsep"
	"tarn/agent/replicate"
	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// openStorage opens the engine that cfg names.
func openStorage(cfg Config, log *slog.Logger) (Storage, error) {
	switch cfg.Storage {
	case StorageDir:
		return openDir(cfg, log)
	case StorageZFS:
		return openZFS(cfg, log), nil
	default:
		return nil, fmt.Errorf("this build has no engine %q", cfg.Storage)
	}
}

// openZFS only prepares: that ZFS does not run, or lacks a pool, is no reason not to start.
func openZFS(cfg Config, log *slog.Logger) *lateZFS {
	var pools []string
	for _, p := range cfg.Pools {
		pools = append(pools, p.Name)
	}
	settings := zfs.Config{Pools: pools, UserProperties: replicate.Marks(), ReceivePatience: cfg.Stream.ReceiveTimeout, Logger: log}
	if cfg.Helper.Socket != "" {
		settings.Launcher = privsep.Client{Socket: cfg.Helper.Socket}
	}
	return &lateZFS{
		cfg:  settings,
		open: func(ctx context.Context, cfg zfs.Config) (zfsHost, error) { return zfs.Open(ctx, cfg) },
	}
}

// syncing is how a pool's listings are made exact; nil where they always are.
func syncing(engine Storage, pool string) func(context.Context) error {
	late, ok := engine.(*lateZFS)
	if !ok {
		return nil
	}
	return func(ctx context.Context) error { return late.Sync(ctx, pool) }
}

func openDir(cfg Config, log *slog.Logger) (Storage, error) {
	var pools []dirzfs.Pool
	for _, p := range cfg.Pools {
		pools = append(pools, dirzfs.Pool{Name: p.Name, Dir: filepath.Clean(p.Path), Capacity: int64(p.Capacity)})
	}
	host, err := dirzfs.Open(dirzfs.Config{Pools: pools, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	return host, nil
}

// rootProperties are those of the dataset above all replicas of a pool. It is never
// mounted itself; what is below it and was never told otherwise is read-only, and no
// sharing of the storage's own makes it reachable: a stream that was cut, or a host
// that boots, exposes nothing. Files that a stream brings give nobody rights on the host:
// clients decide by their own mounts what set-user-id bits and devices mean to them.
func (a *Agent) rootProperties(pool string) map[string]string {
	props := map[string]string{zfs.PropCanMount: "off"}
	if a.cfg.Storage == StorageDir {
		return props
	}
	for _, name := range []string{propShareNFS, propSetuid, propDevices} {
		props[name] = "off"
	}
	props[zfs.PropReadOnly] = "on"
	if p, _ := a.pool(pool); p.Mountpoint != "" {
		props[zfs.PropMountpoint] = filepath.Clean(p.Mountpoint)
	}
	return props
}

// Native properties that only this package sets.
const (
	propShareNFS = "sharenfs"
	propSetuid   = "setuid"
	propDevices  = "devices"
)

// measured counts and times what is asked of the storage.
type measured struct {
	Storage
	commands  *prometheus.CounterVec
	durations *prometheus.HistogramVec
}

func (m measured) done(op string, begun time.Time, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.commands.WithLabelValues(op, result).Inc()
	m.durations.WithLabelValues(op).Observe(time.Since(begun).Seconds())
}

// timed runs one operation without a result.
func (m measured) timed(op string, run func() error) error {
	begun := time.Now()
	err := run()
	m.done(op, begun, err)
	return err
}

func (m measured) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	return m.timed("create", func() error { return m.Storage.Create(ctx, name, props, parents) })
}

func (m measured) Destroy(ctx context.Context, name string) error {
	return m.timed("destroy", func() error { return m.Storage.Destroy(ctx, name) })
}

func (m measured) Rename(ctx context.Context, from, to string) error {
	return m.timed("rename", func() error { return m.Storage.Rename(ctx, from, to) })
}

func (m measured) Clone(ctx context.Context, snapshot, name string, props map[string]string) error {
	return m.timed("clone", func() error { return m.Storage.Clone(ctx, snapshot, name, props) })
}

func (m measured) LoadKey(ctx context.Context, name, file string) error {
	return m.timed("load_key", func() error { return m.Storage.LoadKey(ctx, name, file) })
}

func (m measured) Promote(ctx context.Context, name string) error {
	return m.timed("promote", func() error { return m.Storage.Promote(ctx, name) })
}

func (m measured) Set(ctx context.Context, name string, props map[string]string) error {
	return m.timed("set", func() error { return m.Storage.Set(ctx, name, props) })
}

func (m measured) Mount(ctx context.Context, name string) error {
	return m.timed("mount", func() error { return m.Storage.Mount(ctx, name) })
}

func (m measured) Unmount(ctx context.Context, name string, force bool) error {
	return m.timed("unmount", func() error { return m.Storage.Unmount(ctx, name, force) })
}

func (m measured) Snapshot(ctx context.Context, names ...string) error {
	return m.timed("snapshot", func() error { return m.Storage.Snapshot(ctx, names...) })
}

func (m measured) DestroySnapshots(ctx context.Context, dataset string, names ...string) error {
	return m.timed("destroy_snapshots", func() error { return m.Storage.DestroySnapshots(ctx, dataset, names...) })
}

func (m measured) Hold(ctx context.Context, tag string, snapshots ...string) error {
	return m.timed("hold", func() error { return m.Storage.Hold(ctx, tag, snapshots...) })
}

func (m measured) Release(ctx context.Context, tag string, snapshots ...string) error {
	return m.timed("release", func() error { return m.Storage.Release(ctx, tag, snapshots...) })
}

func (m measured) Receive(ctx context.Context, req zfs.ReceiveRequest, from io.Reader) error {
	return m.timed("receive", func() error { return m.Storage.Receive(ctx, req, from) })
}

func (m measured) AbortReceive(ctx context.Context, dataset string) error {
	return m.timed("abort_receive", func() error { return m.Storage.AbortReceive(ctx, dataset) })
}

func (m measured) Dataset(ctx context.Context, name string) (zfs.Dataset, error) {
	begun := time.Now()
	d, err := m.Storage.Dataset(ctx, name)
	m.done("get", begun, err)
	return d, err
}

func (m measured) Datasets(ctx context.Context, root string) ([]zfs.Dataset, error) {
	begun := time.Now()
	list, err := m.Storage.Datasets(ctx, root)
	m.done("list", begun, err)
	return list, err
}

func (m measured) Versions(ctx context.Context, dataset string) ([]zfs.Version, error) {
	begun := time.Now()
	list, err := m.Storage.Versions(ctx, dataset)
	m.done("versions", begun, err)
	return list, err
}

func (m measured) VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error) {
	begun := time.Now()
	all, err := m.Storage.VersionsBelow(ctx, root)
	m.done("versions_below", begun, err)
	return all, err
}

func (m measured) Named(ctx context.Context, names ...string) ([]zfs.Version, error) {
	begun := time.Now()
	list, err := m.Storage.Named(ctx, names...)
	m.done("named", begun, err)
	return list, err
}

func (m measured) Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error) {
	begun := time.Now()
	stream, err := m.Storage.Send(ctx, req)
	m.done("send", begun, err)
	return stream, err
}
