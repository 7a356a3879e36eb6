package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
)

// Snapshot takes all of names in one commit, or none. Each file is taken whole;
// files that are written meanwhile may be of different moments. The snapshot of an
// unmounted dataset is exact.
func (h *Host) Snapshot(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	p, err := h.snapshotOf(ctx, names[0])
	if err != nil {
		return fail("snapshot", names[0], err)
	}
	wanted, list, err := p.parseSnapshots(names)
	if err != nil {
		return fail("snapshot", names[0], err)
	}
	recs, unlock, err := p.lockHeads(ctx, list...)
	if err != nil {
		return fail("snapshot", names[0], err)
	}
	defer unlock()
	return fail("snapshot", names[0], p.takeSnapshots(ctx, recs, wanted))
}

// parseSnapshots gives dataset -> snapshot name.
func (p *pool) parseSnapshots(names []string) (map[string]string, []string, error) {
	wanted := make(map[string]string, len(names))
	var list []string
	for _, n := range names {
		ds, snap, err := zfs.ValidateSnapshot(n)
		if err != nil {
			return nil, nil, err
		}
		if _, dup := wanted[ds]; dup {
			return nil, nil, fmt.Errorf("%w: two snapshots of %s in one call", zfs.ErrInvalid, ds)
		}
		if poolOf(ds) != p.name {
			return nil, nil, fmt.Errorf("%w: %s is in another pool than %s", zfs.ErrInvalid, n, names[0])
		}
		wanted[ds] = snap
		list = append(list, ds)
	}
	return wanted, list, nil
}

func poolOf(dataset string) string {
	for at := dataset; ; {
		up := parentOf(at)
		if up == "" {
			return at
		}
		at = up
	}
}

// taken is one dataset of a snapshot in the making.
type taken struct {
	ds   *datasetRec
	name string
	live *walked
}

func (p *pool) takeSnapshots(ctx context.Context, recs map[string]*datasetRec, wanted map[string]string) error {
	if err := p.view(func(m meta) error { return checkNewSnapshots(m, recs, wanted) }); err != nil {
		return err
	}
	batch := p.store.NewBatch()
	var list []taken
	for name, ds := range recs {
		live, err := p.walkToStore(ctx, ds, batch)
		if err != nil {
			return errors.Join(err, batch.Close())
		}
		list = append(list, taken{ds, wanted[name], live})
	}
	p.step("snapshot walked")
	err := commitBatch(batch, func(m meta) error {
		for _, t := range list {
			if err := p.recordSnapshot(m, t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.step("snapshot committed")
	p.sweep()
	return nil
}

// checkNewSnapshots refuses before any work what the commit would refuse.
func checkNewSnapshots(m meta, recs map[string]*datasetRec, wanted map[string]string) error {
	for name, ds := range recs {
		if ds.Inconsistent {
			return fmt.Errorf("%w: %s is not completely received", zfs.ErrBusy, name)
		}
		if err := m.nameIsFree(ds, wanted[name]); err != nil {
			return err
		}
	}
	return nil
}

func (m meta) nameIsFree(ds *datasetRec, snap string) error {
	if _, err := m.snapshot(ds, snap); err == nil {
		return fmt.Errorf("%w: %s@%s", zfs.ErrExists, ds.Name, snap)
	} else if !errors.Is(err, zfs.ErrNotExist) {
		return err
	}
	return nil
}

// walkToStore reads the live files. Those of a clone that nobody needed yet are
// known without.
func (p *pool) walkToStore(ctx context.Context, ds *datasetRec, batch *store.Batch) (*walked, error) {
	if err := p.settleUnlessLazy(ctx, ds); err != nil {
		return nil, err
	}
	if ds.Pending {
		return &walked{root: ds.Want}, nil
	}
	return p.walk(ctx, ds, batch, true)
}

// settleUnlessLazy leaves files alone that nobody needed yet.
func (p *pool) settleUnlessLazy(ctx context.Context, ds *datasetRec) error {
	if ds.Pending && !ds.Started {
		return nil
	}
	return p.settle(ctx, ds)
}

func (p *pool) recordSnapshot(m meta, t taken) error {
	if err := m.nameIsFree(t.ds, t.name); err != nil {
		return err
	}
	s := &snapRec{Name: t.name, GUID: newGUID(), Creation: time.Now().Unix(), Root: t.live.root, Dataset: t.ds.GUID}
	if err := p.addSnapshot(m, t.ds, s); err != nil {
		return err
	}
	if t.ds.Pending {
		return nil // the files are still those of the tree before
	}
	if err := m.setAt(t.ds, t.live.root); err != nil {
		return err
	}
	return t.live.index.write(m.tx, t.ds.GUID)
}

// addSnapshot records a snapshot as the newest of its dataset, inside the quota.
func (p *pool) addSnapshot(m meta, ds *datasetRec, s *snapRec) error {
	if err := store.Ref(m.tx, s.Root, store.Full); err != nil {
		return err
	}
	base, _, err := m.baseRoot(ds)
	if err != nil {
		return err
	}
	if err := m.sizeSnapshot(s, base); err != nil {
		return err
	}
	room, err := m.quotaRoom(ds)
	if err != nil {
		return err
	}
	if s.Written > room {
		return fmt.Errorf("%w: %s needs %d bytes, the quota leaves %d", zfs.ErrQuota, ds.Name, s.Written, max(room, 0))
	}
	if limit := parseQuota(ds.Props[zfs.PropRefQuota]); limit > 0 && s.Referenced > limit {
		return fmt.Errorf("%w: %s refers to %d bytes, the refquota is %d", zfs.ErrQuota, ds.Name, s.Referenced, limit)
	}
	if s.TXG, err = m.nextTXG(); err != nil {
		return err
	}
	return m.putSnapshot(s)
}

// sizeSnapshot measures a snapshot against its predecessor.
func (m meta) sizeSnapshot(s *snapRec, base tree.Hash) error {
	top, err := tree.Root(s.Root, m.object)
	if err != nil {
		return err
	}
	s.Referenced = top.Bytes
	d := newDiffer(m.object, m.object)
	d.check = m.checkChunk
	_, s.Written, err = d.measure(base, s.Root)
	return err
}

// checkChunk makes sure that a tree which came in a stream can become files.
func (m meta) checkChunk(h tree.Hash, length int) error {
	if n := store.ChunkLenIn(m.tx, h); n != length {
		return fmt.Errorf("%w: chunk %s of %d bytes in the place of %d", zfs.ErrStreamCorrupt, h, n, length)
	}
	return nil
}

func (m meta) object(h tree.Hash) ([]byte, error) { return store.ObjectIn(m.tx, h) }

// RenameSnapshot gives a snapshot another name; its GUID stays.
func (h *Host) RenameSnapshot(ctx context.Context, dataset, from, to string) error {
	full := dataset + "@" + from
	p, err := h.snapshotOf(ctx, full)
	if err == nil {
		err = zfs.ValidateSnapshotName(to)
	}
	if err == nil {
		_, _, err = zfs.ValidateSnapshot(dataset + "@" + to)
	}
	if err != nil {
		return fail("rename", full, err)
	}
	return fail("rename", full, p.update(func(m meta) error {
		ds, s, err := m.namedSnapshot(full)
		if err != nil {
			return err
		}
		if err := m.nameIsFree(ds, to); err != nil {
			return err
		}
		s.Name = to
		return m.putSnapshot(s)
	}))
}

// DestroySnapshots removes snapshots of one filesystem, all or none. Names that do not
// exist are passed over as long as one does.
func (h *Host) DestroySnapshots(ctx context.Context, dataset string, names ...string) error {
	p, err := h.dataset(ctx, dataset)
	if err != nil {
		return fail("destroy", dataset, err)
	}
	_, unlock, err := p.lockHeads(ctx, dataset)
	if err != nil {
		return fail("destroy", dataset, err)
	}
	defer unlock()
	err = p.update(func(m meta) error {
		ds, err := m.dataset(dataset)
		if err != nil {
			return err
		}
		missing := error(nil)
		destroyed := 0
		for _, n := range names {
			err := p.destroySnapshot(m, ds, n)
			switch {
			case errors.Is(err, zfs.ErrNotExist):
				missing = err
			case err != nil:
				return err
			default:
				destroyed++
			}
		}
		if destroyed == 0 {
			return missing
		}
		return nil
	})
	if err == nil {
		p.step("snapshots destroyed")
		p.sweep()
	}
	return fail("destroy", dataset, err)
}

func (p *pool) destroySnapshot(m meta, ds *datasetRec, name string) error {
	if err := zfs.ValidateSnapshotName(name); err != nil {
		return err
	}
	s, err := m.snapshot(ds, name)
	if err != nil {
		return err
	}
	if err := p.removable(m, ds, s); err != nil {
		return err
	}
	if err := errors.Join(m.deleteSnapshot(s), m.resizeNext(ds, s)); err != nil {
		return err
	}
	return store.Unref(m.tx, s.Root, store.Full)
}

func (p *pool) removable(m meta, ds *datasetRec, s *snapRec) error {
	full := ds.Name + "@" + s.Name
	if len(s.Holds) > 0 {
		return fmt.Errorf("%w: %s by %d tags", zfs.ErrHeld, full, len(s.Holds))
	}
	if p.busy.isSent(s.TXG) {
		return fmt.Errorf("%w: %s is being sent", zfs.ErrBusy, full)
	}
	clone, err := m.cloneOf(s)
	if err == nil && clone != nil {
		return fmt.Errorf("%w: %s is the origin of %s", zfs.ErrHasClones, full, clone.Name)
	}
	if err == nil && p.busy.isReceiving(ds.GUID) {
		if newest, err := m.newest(ds.GUID); err != nil || newest.GUID == s.GUID {
			return errors.Join(err, fmt.Errorf("%w: %s is the base of a receive", zfs.ErrBusy, full))
		}
	}
	return err
}

func (m meta) cloneOf(s *snapRec) (clone *datasetRec, err error) {
	list, err := m.below(m.poolName())
	for _, d := range list {
		if d.Origin == s.TXG {
			return d, nil
		}
	}
	return nil, err
}

// resizeNext measures the successor of a snapshot that is gone against its new
// predecessor.
func (m meta) resizeNext(ds *datasetRec, gone *snapRec) error {
	list, err := m.snapshots(ds.GUID)
	if err != nil {
		return err
	}
	var base tree.Hash
	if ds.Origin != 0 {
		o, err := m.origin(ds.Origin)
		if err != nil {
			return err
		}
		base = o.Root
	}
	for _, s := range list {
		if s.TXG < gone.TXG {
			base = s.Root
			continue
		}
		if err := m.sizeSnapshot(s, base); err != nil {
			return err
		}
		return m.putSnapshot(s)
	}
	return nil
}

// Versions lists snapshots and bookmarks of one filesystem by createtxg.
func (h *Host) Versions(ctx context.Context, dataset string) ([]zfs.Version, error) {
	p, err := h.dataset(ctx, dataset)
	if err != nil {
		return nil, fail("list", dataset, err)
	}
	var list []zfs.Version
	err = p.view(func(m meta) error {
		ds, err := m.dataset(dataset)
		if err != nil {
			return err
		}
		list, err = m.versions(ds)
		return err
	})
	return list, fail("list", dataset, err)
}

// VersionsBelow does so for root and all below it, in one read of the pool.
func (h *Host) VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error) {
	p, err := h.dataset(ctx, root)
	if err != nil {
		return nil, fail("list", root, err)
	}
	out := map[string][]zfs.Version{}
	err = p.view(func(m meta) error {
		if _, err := m.dataset(root); err != nil {
			return err
		}
		list, err := m.below(root)
		for _, ds := range list {
			if out[ds.Name], err = m.versions(ds); err != nil {
				return err
			}
		}
		return err
	})
	return out, fail("list", root, err)
}
