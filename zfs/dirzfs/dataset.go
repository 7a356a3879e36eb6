package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
)

// Create makes a filesystem. It is mounted only if props say canmount=on.
func (h *Host) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	p, err := h.dataset(ctx, name)
	if err != nil {
		return fail("create", name, err)
	}
	return fail("create", name, p.create(ctx, name, props, parents))
}

func (p *pool) create(ctx context.Context, name string, props map[string]string, parents bool) error {
	clean, err := p.checkProperties(name, props)
	if err != nil {
		return err
	}
	err = p.update(func(m meta) error {
		if parents {
			if err := p.newParents(m, name); err != nil {
				return err
			}
		}
		_, err := p.newDataset(m, name, clean)
		return err
	})
	if err != nil {
		return err
	}
	p.step("created")
	if clean[zfs.PropCanMount] != "on" {
		return nil
	}
	return p.mount(ctx, name)
}

func (p *pool) newParents(m meta, name string) error {
	for i := len(p.name); ; {
		next := strings.IndexByte(name[min(i+1, len(name)):], '/')
		if next < 0 {
			return nil
		}
		i += 1 + next
		if _, err := m.dataset(name[:i]); err == nil {
			continue
		}
		if _, err := p.newDataset(m, name[:i], map[string]string{zfs.PropCanMount: "off"}); err != nil {
			return err
		}
	}
}

// newDataset makes the directory and the record of a new filesystem. Recovery
// removes the directory if the record was not committed.
func (p *pool) newDataset(m meta, name string, props map[string]string) (*datasetRec, error) {
	if _, err := m.dataset(name); err == nil {
		return nil, fmt.Errorf("%w: %s", zfs.ErrExists, name)
	}
	if parent := parentOf(name); parent != "" {
		d, err := m.dataset(parent)
		if err != nil {
			return nil, err
		}
		if d.Inconsistent {
			return nil, fmt.Errorf("%w: %s is not completely received", zfs.ErrBusy, parent)
		}
	}
	txg, err := m.nextTXG()
	if err != nil {
		return nil, err
	}
	ds := &datasetRec{Name: name, GUID: newGUID(), TXG: txg, Creation: time.Now().Unix(), Props: props}
	if err := p.makeHead(ds); err != nil {
		return nil, err
	}
	p.quiet.setFree(ds.GUID, true)
	return ds, m.putDataset(ds)
}

// makeHead makes a dataset's empty directory, open to its owner as a new ZFS
// filesystem is.
func (p *pool) makeHead(ds *datasetRec) error {
	path := p.headDir(ds.GUID)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(path, 0o755) //nolint:gosec // the mode that clients see; the parent is 0700
}

// Destroy removes a filesystem that has no snapshots, bookmarks aside, and no
// children.
func (h *Host) Destroy(ctx context.Context, name string) error {
	p, err := h.dataset(ctx, name)
	if err == nil && parentOf(name) == "" {
		err = fmt.Errorf("%w: %s is a pool", zfs.ErrInvalid, name)
	}
	if err != nil {
		return fail("destroy", name, err)
	}
	return fail("destroy", name, p.destroy(ctx, name))
}

func (p *pool) destroy(ctx context.Context, name string) error {
	recs, unlock, err := p.lockHeads(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	ds := recs[name]
	if err := p.destroyable(ds); err != nil {
		return err
	}
	if err := p.unmountLocked(ctx, ds, false); err != nil {
		return err
	}
	if err := p.update(func(m meta) error { return m.deleteDataset(ds) }); err != nil {
		return err
	}
	p.step("dataset destroyed")
	p.quiet.setFree(ds.GUID, false)
	_ = os.Remove(fenceFile(p.dir, name)) // without its dataset it does nothing
	p.sweep()
	return p.removeHead(ds)
}

func (p *pool) removeHead(ds *datasetRec) error {
	d, err := openTop(filepath.Join(p.dir, "heads"))
	if err != nil {
		return err
	}
	defer d.close()
	return d.removeAll(ds.GUID.String())
}

func (p *pool) destroyable(ds *datasetRec) error {
	if p.busy.isReceiving(ds.GUID) {
		return fmt.Errorf("%w: %s is being received", zfs.ErrBusy, ds.Name)
	}
	return p.view(func(m meta) error {
		list, err := m.below(ds.Name)
		if err != nil {
			return err
		}
		if len(list) > 1 {
			return fmt.Errorf("%w: %s", zfs.ErrHasSnapshots, list[1].Name)
		}
		s, err := m.newest(ds.GUID)
		if err == nil && s != nil {
			err = fmt.Errorf("%w: %s@%s", zfs.ErrHasSnapshots, ds.Name, s.Name)
		}
		return err
	})
}

// deleteDataset removes a record with all that depends on it.
func (m meta) deleteDataset(ds *datasetRec) error {
	marks, err := m.bookmarks(ds.GUID)
	if err != nil {
		return err
	}
	for _, b := range marks {
		if err := m.deleteBookmark(ds.GUID, b); err != nil {
			return err
		}
	}
	for _, h := range []tree.Hash{ds.At, ds.Want} {
		if err := store.Unref(m.tx, h, store.Full); err != nil {
			return err
		}
	}
	id := idKey(uint64(ds.GUID))
	return errors.Join(
		m.dropPartial(ds.GUID),
		dropSubBucket(m.tx, bucketIndex, ds.GUID), dropSubBucket(m.tx, bucketModes, ds.GUID),
		m.tx.Bucket(bucketName).Delete(id), m.tx.Bucket(bucketDataset).Delete([]byte(ds.Name)))
}

// Rename moves a filesystem with its children inside the pool. Mounted ones move
// their mountpoint, and must not be in use.
func (h *Host) Rename(ctx context.Context, from, to string) error {
	p, err := h.dataset(ctx, from)
	if err == nil {
		err = p.renamable(from, to)
	}
	if err != nil {
		return fail("rename", from, err)
	}
	return fail("rename", from, p.rename(ctx, from, to))
}

func (p *pool) renamable(from, to string) error {
	if err := zfs.ValidateDataset(to); err != nil {
		return err
	}
	switch {
	case parentOf(from) == "" || parentOf(to) == "":
		return fmt.Errorf("%w: a pool is not renamed", zfs.ErrInvalid)
	case !strings.HasPrefix(to, p.name+"/"):
		return fmt.Errorf("%w: %s is in another pool", zfs.ErrInvalid, to)
	case strings.HasPrefix(to+"/", from+"/"):
		return fmt.Errorf("%w: %s is inside %s", zfs.ErrInvalid, to, from)
	}
	return nil
}

func (p *pool) rename(ctx context.Context, from, to string) error {
	recs, unlock, err := p.lockBelow(ctx, from)
	if err != nil {
		return err
	}
	defer unlock()
	var remount []*datasetRec
	for _, ds := range recs {
		if p.busy.isReceiving(ds.GUID) {
			return errors.Join(fmt.Errorf("%w: %s is being received", zfs.ErrBusy, ds.Name), p.remount(ctx, remount))
		}
		if !p.isMounted(ds) {
			continue
		}
		if err := p.unmountLocked(ctx, ds, false); err != nil {
			return errors.Join(err, p.remount(ctx, remount))
		}
		remount = append(remount, ds)
	}
	p.step("before rename")
	err = p.update(func(m meta) error { return m.renameDatasets(recs, from, to) })
	p.step("renamed")
	return errors.Join(err, p.remount(ctx, remount))
}

func (p *pool) remount(ctx context.Context, list []*datasetRec) error {
	var errs []error
	for _, ds := range list {
		errs = append(errs, p.mountLocked(ctx, ds))
	}
	return errors.Join(errs...)
}

func (m meta) renameDatasets(recs map[string]*datasetRec, from, to string) error {
	if _, err := m.dataset(to); err == nil {
		return fmt.Errorf("%w: %s", zfs.ErrExists, to)
	}
	if _, err := m.dataset(parentOf(to)); err != nil {
		return err
	}
	for _, ds := range recs {
		if err := zfs.ValidateDataset(to + strings.TrimPrefix(ds.Name, from)); err != nil {
			return err
		}
	}
	for _, ds := range recs {
		if err := m.tx.Bucket(bucketDataset).Delete([]byte(ds.Name)); err != nil {
			return err
		}
		moved := *ds
		moved.Name = to + strings.TrimPrefix(ds.Name, from)
		if err := m.putDataset(&moved); err != nil {
			return err
		}
	}
	m.tx.OnCommit(func() {
		for _, ds := range recs {
			ds.Name = to + strings.TrimPrefix(ds.Name, from)
		}
	})
	return nil
}
