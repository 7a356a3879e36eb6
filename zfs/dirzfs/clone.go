package dirzfs

import (
	"context"
	"errors"
	"fmt"

	"tarn/zfs"
)

// Clone makes a filesystem that starts from a snapshot. Its files come into being
// with its first mount; until then it costs nothing.
func (h *Host) Clone(ctx context.Context, snapshot, name string, props map[string]string) error {
	p, err := h.snapshotOf(ctx, snapshot)
	if err == nil {
		err = zfs.ValidateDataset(name)
	}
	if err == nil && (poolOf(name) != p.name || name == p.name) {
		err = fmt.Errorf("%w: %s is not in the pool of %s", zfs.ErrInvalid, name, snapshot)
	}
	if err != nil {
		return fail("clone", snapshot, err)
	}
	return fail("clone", name, p.clone(ctx, snapshot, name, props))
}

func (p *pool) clone(ctx context.Context, snapshot, name string, props map[string]string) error {
	clean, err := p.checkProperties(name, props)
	if err != nil {
		return err
	}
	err = p.update(func(m meta) error {
		_, s, err := m.namedSnapshot(snapshot)
		if err != nil {
			return err
		}
		ds, err := p.newDataset(m, name, clean)
		if err != nil {
			return err
		}
		ds.Origin = s.TXG
		return m.want(ds, s.Root, false)
	})
	if err != nil {
		return err
	}
	if clean[zfs.PropCanMount] != "on" {
		return nil
	}
	return p.mount(ctx, name)
}

// Promote makes a clone the owner of the snapshot it came from, of the earlier
// ones and of the bookmarks up to it; the former owner becomes a clone of it.
func (h *Host) Promote(ctx context.Context, name string) error {
	p, err := h.dataset(ctx, name)
	if err != nil {
		return fail("promote", name, err)
	}
	owner, err := p.ownerOfOrigin(name)
	if err != nil {
		return fail("promote", name, err)
	}
	recs, unlock, err := p.lockHeads(ctx, name, owner)
	if err != nil {
		return fail("promote", name, err)
	}
	defer unlock()
	return fail("promote", name, p.update(func(m meta) error { return p.promote(m, recs[name]) }))
}

func (p *pool) ownerOfOrigin(name string) (owner string, err error) {
	err = p.view(func(m meta) error {
		ds, err := m.dataset(name)
		if err != nil {
			return err
		}
		if ds.Origin == 0 {
			return fmt.Errorf("%w: %s is not a clone", zfs.ErrInvalid, name)
		}
		s, err := m.origin(ds.Origin)
		if err != nil {
			return err
		}
		d, err := m.byGUID(s.Dataset)
		if err == nil {
			owner = d.Name
		}
		return err
	})
	return owner, err
}

func (p *pool) promote(m meta, clone *datasetRec) error {
	origin, err := m.origin(clone.Origin)
	if err != nil {
		return err
	}
	old, err := m.byGUID(origin.Dataset)
	if err != nil {
		return err
	}
	if p.busy.isReceiving(old.GUID) || p.busy.isReceiving(clone.GUID) {
		return fmt.Errorf("%w: being received", zfs.ErrBusy)
	}
	list, err := m.snapshots(old.GUID)
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.TXG > origin.TXG {
			break
		}
		if err := m.nameIsFree(clone, s.Name); err != nil {
			return err
		}
		if err := m.moveSnapshot(s, clone.GUID); err != nil {
			return err
		}
	}
	if err := m.moveBookmarks(old, clone, origin.TXG); err != nil {
		return err
	}
	clone.Origin, old.Origin = old.Origin, origin.TXG
	return errors.Join(m.putDataset(clone), m.putDataset(old))
}

func (m meta) moveSnapshot(s *snapRec, to zfs.GUID) error {
	if err := m.deleteSnapshot(s); err != nil {
		return err
	}
	s.Dataset = to
	return m.putSnapshot(s)
}

func (m meta) moveBookmarks(from, to *datasetRec, upTo uint64) error {
	list, err := m.bookmarks(from.GUID)
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.TXG > upTo {
			continue
		}
		if _, err := m.bookmark(to, b.Name); err == nil {
			return fmt.Errorf("%w: %s#%s", zfs.ErrExists, to.Name, b.Name)
		}
		if err := m.tx.Bucket(bucketMark).Delete(markKey(from.GUID, b.Name)); err != nil {
			return err
		}
		if err := put(m.tx.Bucket(bucketMark), markKey(to.GUID, b.Name), b); err != nil {
			return err
		}
	}
	return nil
}

// Rollback returns the head to its newest snapshot, which has to be the one named.
// What was written since is gone: that is what is asked for.
func (h *Host) Rollback(ctx context.Context, snapshot string) error {
	p, err := h.snapshotOf(ctx, snapshot)
	if err != nil {
		return fail("rollback", snapshot, err)
	}
	name, _, _ := zfs.ValidateSnapshot(snapshot)
	recs, unlock, err := p.lockHeads(ctx, name)
	if err != nil {
		return fail("rollback", snapshot, err)
	}
	defer unlock()
	return fail("rollback", snapshot, p.rollback(ctx, recs[name], snapshot))
}

func (p *pool) rollback(ctx context.Context, ds *datasetRec, snapshot string) error {
	if p.busy.isReceiving(ds.GUID) {
		return fmt.Errorf("%w: %s is being received", zfs.ErrBusy, ds.Name)
	}
	if err := p.view(func(m meta) error { return checkLatest(m, snapshot) }); err != nil {
		return err
	}
	if err := p.settleUnlessLazy(ctx, ds); err != nil || ds.Pending {
		return err
	}
	err := p.update(func(m meta) error {
		_, s, err := m.namedSnapshot(snapshot)
		if err != nil {
			return err
		}
		if err := m.want(ds, s.Root, true); err != nil {
			return err
		}
		ds.Started = true
		return m.putDataset(ds)
	})
	if err != nil {
		return err
	}
	return p.settle(ctx, ds)
}

// checkLatest refuses when anything is newer, bookmarks included, as ZFS does.
func checkLatest(m meta, snapshot string) error {
	ds, s, err := m.namedSnapshot(snapshot)
	if err != nil {
		return err
	}
	list, err := m.versions(ds)
	if err != nil {
		return err
	}
	if last := list[len(list)-1]; last.CreateTXG > s.TXG {
		return fmt.Errorf("%w: %s", zfs.ErrNotLatest, last.FullName())
	}
	return nil
}
