package replicate

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"tarn/agent/stream"
	"tarn/agent/stream/memzfs"
	"tarn/zfs"
	"tarn/zfs/dirzfs"
	"tarn/zfs/zfstest"
)

// testStorage is an engine with a client that writes and reads.
type testStorage interface {
	Engine
	stream.Engine
	Write(dataset, text string, root bool) error
	Read(dataset string) (string, error)
	Fence(dataset string)
	Peek(dataset string) (zfs.Dataset, []zfs.Version, bool)
}

// maker makes the storage of the i-th host.
type maker func(t *testing.T, i int) testStorage

func inMemory(_ *testing.T, i int) testStorage { return memzfs.New(uint64(i+1), testPool) }

func onDirectory(t *testing.T, _ int) testStorage {
	dir := filepath.Join(zfstest.TempDir(t), "pool")
	h, err := dirzfs.Open(dirzfs.Config{Pools: []dirzfs.Pool{{Name: testPool, Dir: dir}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close storage: %v", err)
		}
	})
	return &dirStorage{Host: h, dir: dir}
}

// sealed is an engine that keeps a share encrypted, under a key that every host has.
type sealed struct {
	*memzfs.Host
	keyFile string
}

func encrypted(_ *testing.T, i int) testStorage {
	return &sealed{Host: memzfs.New(uint64(i+1), testPool)}
}

// sealable storage may keep its shares encrypted; it hears of the key file and says.
type sealable interface{ seal(keyFile string) bool }

func (s *sealed) seal(keyFile string) bool {
	s.keyFile = keyFile
	return true
}

// Read loads the key first, as an operator does who wants to look at a divergent copy.
func (s *sealed) Read(dataset string) (string, error) {
	ds, _, ok := s.Peek(dataset)
	if ok && ds.Encrypted && !ds.KeyLoaded {
		if err := s.LoadKey(context.Background(), ds.EncryptionRoot, s.keyFile); err != nil {
			return "", err
		}
	}
	return s.Host.Read(dataset)
}

// everywhere runs a test on all engines, with plain shares and encrypted ones.
func everywhere(t *testing.T, test func(*testing.T, maker)) {
	t.Run("encrypted", func(t *testing.T) { test(t, encrypted) })
	plainly(t, test)
}

// plainly runs a test on all engines with plain shares.
func plainly(t *testing.T, test func(*testing.T, maker)) {
	t.Run("memory", func(t *testing.T) { test(t, inMemory) })
	t.Run("dirzfs", func(t *testing.T) { test(t, onDirectory) })
}

// dirStorage is dirzfs with one file per share.
type dirStorage struct {
	*dirzfs.Host
	dir string
}

const testFile = "file"

func (d *dirStorage) Write(dataset, text string, root bool) error {
	ds, err := d.Dataset(context.Background(), dataset)
	switch {
	case err != nil:
		return err
	case !ds.Mounted:
		return zfs.ErrNotMounted
	case ds.ReadOnly && !root:
		return zfs.ErrReadOnly // the tests may run as root, whom write bits do not stop
	}
	f, err := os.OpenFile(filepath.Join(ds.Mountpoint, testFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (d *dirStorage) Read(dataset string) (string, error) { return readShare(d.Host, dataset) }

// readShare reads the one file, and mounts its dataset for that if need be.
func readShare(fs Engine, dataset string) (text string, err error) {
	ctx := context.Background()
	ds, err := fs.Dataset(ctx, dataset)
	if err != nil {
		return "", err
	}
	if !ds.Mounted {
		if err := fs.Mount(ctx, dataset); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, fs.Unmount(ctx, dataset, false)) }()
	}
	if ds, err = fs.Dataset(ctx, dataset); err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(ds.Mountpoint, testFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}

func (d *dirStorage) Fence(dataset string) { _ = dirzfs.Fence(d.dir, dataset) }

func (d *dirStorage) Peek(dataset string) (zfs.Dataset, []zfs.Version, bool) {
	ds, err := d.Dataset(context.Background(), dataset)
	if err != nil {
		return ds, nil, false
	}
	list, err := d.Versions(context.Background(), dataset)
	return ds, list, err == nil
}

func (h *testHost) fence(dataset string) { h.fs.Fence(dataset) }

var _ testStorage = (*memzfs.Host)(nil)
