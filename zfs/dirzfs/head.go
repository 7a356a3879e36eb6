package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
)

// findHead tells where a dataset's files are. Their place is the truth about being
// mounted; a fence may move them at any moment, hence the second look.
func (p *pool) findHead(ds *datasetRec) (path string, mounted bool, err error) {
	for range 2 {
		if isDir(p.headDir(ds.GUID)) {
			return p.headDir(ds.GUID), false, nil
		}
		if isDir(p.mountDir(ds.Name)) {
			return p.mountDir(ds.Name), true, nil
		}
		if isDir(moving(p.mountDir(ds.Name))) {
			return moving(p.mountDir(ds.Name)), false, nil
		}
	}
	return "", false, fmt.Errorf("%w: the files of %s are neither mounted nor in %s", zfs.ErrPoolUnavailable, ds.Name, p.headDir(ds.GUID))
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

func (p *pool) isMounted(ds *datasetRec) bool {
	_, mounted, err := p.findHead(ds)
	return mounted && err == nil
}

// openHead opens the top of a dataset's files. The descriptor stays good when they
// are moved.
func (p *pool) openHead(ds *datasetRec) (*dir, error) {
	for try := 0; ; try++ {
		path, _, err := p.findHead(ds)
		if err != nil {
			return nil, err
		}
		d, err := openTop(path)
		if err == nil || try > 2 || !errors.Is(err, fs.ErrNotExist) {
			return d, err
		}
	}
}

// settle finishes what has to happen to a dataset's files: those of a received
// snapshot, of a clone, or a rollback. The caller holds the head's lock.
func (p *pool) settle(ctx context.Context, ds *datasetRec) error {
	if ds.Masked && !ds.MaskDone { // cut by a crash
		if err := p.setMask(ctx, ds, true); err != nil {
			return err
		}
	}
	if !ds.Pending {
		return nil
	}
	if !ds.Started {
		ds.Started = true
		if err := p.update(func(m meta) error { return m.putDataset(ds) }); err != nil {
			return err
		}
	}
	p.step("settle started")
	change, err := p.bringFiles(ctx, ds)
	if err != nil {
		return err
	}
	p.step("settle applied")
	sync := !ds.Masked && p.isMounted(ds)
	if sync {
		if err := p.syncFiles(); err != nil {
			return err
		}
	}
	if err := p.update(func(m meta) error { return p.settled(m, ds, change, sync) }); err != nil {
		return err
	}
	p.step("settle recorded")
	p.sweep()
	return nil
}

func (p *pool) bringFiles(ctx context.Context, ds *datasetRec) (*indexChange, error) {
	top, err := p.openHead(ds)
	if err != nil {
		return nil, err
	}
	defer top.close()
	if !ds.Revert {
		return p.apply(ctx, ds, top, ds.At, ds.Want, p.store.Object)
	}
	batch := p.store.NewBatch()
	defer batch.Close() //nolint:errcheck // nothing was written
	live, err := p.walk(ctx, ds, batch, false)
	if err != nil {
		return nil, err
	}
	return p.apply(ctx, ds, top, live.root, ds.Want, batch.Get)
}

// setAt records a root as that of the files.
func (m meta) setAt(ds *datasetRec, root tree.Hash) error {
	if err := store.Ref(m.tx, root, store.Full); err != nil {
		return err
	}
	if err := store.Unref(m.tx, ds.At, store.Full); err != nil {
		return err
	}
	ds.At = root
	return m.putDataset(ds)
}

// commitBatch ends a batch in one transaction with other records.
func commitBatch(b *store.Batch, fn func(m meta) error) error {
	return b.Commit(func(tx *bolt.Tx) error { return fn(meta{tx}) })
}

// settled records that the files are those of Want.
func (p *pool) settled(m meta, ds *datasetRec, change *indexChange, synced bool) error {
	if err := store.Unref(m.tx, ds.At, store.Full); err != nil {
		return err
	}
	ds.At, ds.Want = ds.Want, tree.Hash{} // At takes over the reference
	ds.Pending, ds.Started, ds.Revert = false, false, false
	ds.Boot = p.boot
	if synced {
		ds.Boot = ""
	}
	if ds.Masked { // all nodes are clean: their modes are in the tree
		if err := dropSubBucket(m.tx, bucketModes, ds.GUID); err != nil {
			return err
		}
	}
	return errors.Join(change.write(m.tx, ds.GUID), m.putDataset(ds))
}

// want asks for the files of a root; settle brings them.
func (m meta) want(ds *datasetRec, root tree.Hash, revert bool) error {
	if err := store.Ref(m.tx, root, store.Full); err != nil {
		return err
	}
	if err := store.Unref(m.tx, ds.Want, store.Full); err != nil {
		return err
	}
	ds.Want, ds.Pending, ds.Revert = root, true, revert
	return m.putDataset(ds)
}

// syncFiles makes the live files of the pool durable.
func (p *pool) syncFiles() error {
	f, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// makeDurable syncs files that a settle left to the page cache. It comes before
// clients may write: until then, a crash of the machine is repaired from the tree.
func (p *pool) makeDurable(ds *datasetRec) error {
	if ds.Boot == "" {
		return nil
	}
	if err := p.syncFiles(); err != nil {
		return err
	}
	ds.Boot = ""
	return p.update(func(m meta) error { return m.putDataset(ds) })
}

// recover finishes what the last process left, and frees what it dropped.
func (p *pool) recover() error {
	if err := clearDir(p.dir + "/tmp"); err != nil {
		return err
	}
	var todo []*datasetRec
	err := p.update(func(m meta) error {
		if err := p.dropStages(m); err != nil {
			return err
		}
		if err := p.distrustIndexes(m); err != nil {
			return err
		}
		list, err := m.below(p.name)
		for _, ds := range list {
			if abandoned, err := m.dropAbandoned(ds); abandoned || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			if err := p.recoverRecord(m, ds); err != nil {
				return err
			}
			// Who looks at mounted files mounts nothing, and would see those of before.
			if ds.Pending && (ds.Started || p.isMounted(ds)) || ds.Masked && !ds.MaskDone {
				todo = append(todo, ds)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	p.recoverFiles(todo)
	p.recoverMasks()
	p.sweep()
	return errors.Join(p.removeStrayHeads(), p.findQuiet())
}

// dropStages releases what unfinished snapshots stored; unfinished receives keep it.
func (p *pool) dropStages(m meta) error {
	for _, owner := range store.StageOwners(m.tx) {
		part, err := m.partial(zfs.GUID(owner))
		if err != nil {
			return err
		}
		if part == nil {
			if err := store.DropStage(m.tx, owner); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropAbandoned removes a dataset whose first receive left nothing to resume.
func (m meta) dropAbandoned(ds *datasetRec) (bool, error) {
	part, err := m.partial(ds.GUID)
	if err != nil || part != nil || !ds.Inconsistent {
		return false, err
	}
	return true, m.deleteDataset(ds)
}

// recoverRecord distrusts files that the page cache of another boot had.
func (p *pool) recoverRecord(m meta, ds *datasetRec) error {
	if ds.Boot == "" || ds.Boot == p.boot {
		return nil
	}
	ds.Boot = ""
	if err := dropSubBucket(m.tx, bucketIndex, ds.GUID); err != nil {
		return err
	}
	if ds.Pending {
		ds.Revert, ds.Started = true, true
		return m.putDataset(ds)
	}
	ds.Started = true
	return m.want(ds, ds.At, true)
}

// recoverFiles settles what was begun. A dataset that cannot be settled now, for
// want of space for instance, is settled before its next use.
func (p *pool) recoverFiles(todo []*datasetRec) {
	for _, ds := range todo {
		if err := p.settle(p.closing, ds); err != nil {
			p.log.Error("finish files", "dataset", ds.Name, "err", err)
		}
	}
}

// removeStrayHeads deletes directories of datasets that were destroyed, and makes
// those whose creation was committed a moment before the crash.
func (p *pool) removeStrayHeads() error {
	known := map[string]bool{}
	var missing []*datasetRec
	err := p.view(func(m meta) error {
		list, err := m.below(p.name)
		for _, ds := range list {
			known[ds.GUID.String()] = true
			if err := p.finishMove(ds); err != nil {
				return err
			}
			if _, _, err := p.findHead(ds); err != nil && ds.At.IsZero() {
				missing = append(missing, ds)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, ds := range missing {
		if err := p.makeHead(ds); err != nil {
			return err
		}
	}
	return eachName(p.dir+"/heads", func(d *dir, name string) error {
		if known[name] {
			return nil
		}
		return d.removeAll(name)
	})
}

// findQuiet looks once for holders of all unmounted files.
func (p *pool) findQuiet() error {
	held, err := holders(p.dir + "/heads")
	if err != nil || len(held) > 0 {
		return err
	}
	return p.view(func(m meta) error {
		list, err := m.below(p.name)
		for _, ds := range list {
			if _, mounted, err := p.findHead(ds); err == nil && !mounted {
				p.quiet.setFree(ds.GUID, true)
			}
		}
		return err
	})
}

func clearDir(path string) error {
	return eachName(path, func(d *dir, name string) error { return d.removeAll(name) })
}

func eachName(path string, fn func(d *dir, name string) error) error {
	d, err := openTop(path)
	if err != nil {
		return err
	}
	defer d.close()
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := fn(d, n); err != nil {
			return err
		}
	}
	return nil
}

// written is the bytes by which the head differs from what it started from; 0
// means that it does not.
func (p *pool) written(ctx context.Context, ds *datasetRec) (int64, error) {
	if ds.Pending && !ds.Started || ds.Inconsistent {
		return 0, nil // the files are still to come: nobody can have changed them
	}
	if err := p.settle(ctx, ds); err != nil {
		return 0, err
	}
	var base tree.Hash
	err := p.view(func(m meta) (err error) { base, _, err = m.baseRoot(ds); return err })
	if err != nil || p.quiet.unchanged(ds.GUID, base) {
		return 0, err
	}
	return p.measureHead(ctx, ds, base)
}

func (p *pool) measureHead(ctx context.Context, ds *datasetRec, base tree.Hash) (int64, error) {
	batch := p.store.NewBatch()
	defer batch.Close() //nolint:errcheck // nothing was written
	live, err := p.walk(ctx, ds, batch, false)
	if err != nil {
		return 0, err
	}
	if err := p.learn(ds, &live.index); err != nil {
		return 0, err
	}
	if base == live.root {
		p.quiet.remember(ds.GUID, base)
		return 0, nil
	}
	n, err := p.difference(base, live.root, batch.Get)
	return max(n, 1), err
}

// learn keeps signatures that a walk found to be those of the tree.
func (p *pool) learn(ds *datasetRec, change *indexChange) error {
	if len(change.put) == 0 {
		return nil
	}
	change.drop, change.gone = nil, nil // a walk that stores nothing forgets nothing
	return p.update(func(m meta) error { return change.write(m.tx, ds.GUID) })
}
