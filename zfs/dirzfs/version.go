package dirzfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
)

// versions merges snapshots and bookmarks; at one createtxg the bookmark is first.
func (m meta) versions(ds *datasetRec) ([]zfs.Version, error) {
	snaps, err := m.snapshots(ds.GUID)
	if err != nil {
		return nil, err
	}
	marks, err := m.bookmarks(ds.GUID)
	if err != nil {
		return nil, err
	}
	list := make([]zfs.Version, 0, len(snaps)+len(marks))
	for _, b := range marks {
		list = append(list, zfs.Version{
			Kind: zfs.KindBookmark, Dataset: ds.Name, Name: b.Name, GUID: b.GUID, CreateTXG: b.TXG, Creation: unixTime(b.Creation),
		})
	}
	for _, s := range snaps {
		list = append(list, zfs.Version{
			Kind: zfs.KindSnapshot, Dataset: ds.Name, Name: s.Name, GUID: s.GUID, CreateTXG: s.TXG,
			Creation: unixTime(s.Creation), UserRefs: len(s.Holds),
		})
	}
	slices.SortStableFunc(list, func(a, b zfs.Version) int {
		return cmp.Or(cmp.Compare(a.CreateTXG, b.CreateTXG), cmp.Compare(a.Kind, b.Kind))
	})
	return list, nil
}

// Hold adds a tag to snapshots, all or none; a tag that is there already is fine.
func (h *Host) Hold(ctx context.Context, tag string, snapshots ...string) error {
	return h.eachHold(ctx, "hold", tag, snapshots, func(s *snapRec) {
		if s.Holds == nil {
			s.Holds = map[string]int64{}
		}
		if _, ok := s.Holds[tag]; !ok {
			s.Holds[tag] = time.Now().Unix()
		}
	})
}

// Release removes a tag; a tag that is not there is fine.
func (h *Host) Release(ctx context.Context, tag string, snapshots ...string) error {
	return h.eachHold(ctx, "release", tag, snapshots, func(s *snapRec) { delete(s.Holds, tag) })
}

func (h *Host) eachHold(ctx context.Context, op, tag string, snapshots []string, change func(*snapRec)) error {
	if tag == "" || len(tag) > 255 {
		return fail(op, tag, fmt.Errorf("%w: tag of %d bytes, must be 1 to 255", zfs.ErrInvalid, len(tag)))
	}
	byPool := map[*pool][]string{}
	for _, s := range snapshots {
		p, err := h.snapshotOf(ctx, s)
		if err != nil {
			return fail(op, s, err)
		}
		byPool[p] = append(byPool[p], s)
	}
	for p, list := range byPool {
		if err := p.changeHolds(list, change); err != nil {
			return fail(op, list[0], err)
		}
	}
	return nil
}

func (p *pool) changeHolds(list []string, change func(*snapRec)) error {
	return p.updateGrouped(func(m meta) error {
		for _, full := range list {
			if _, _, err := m.namedSnapshot(full); err != nil {
				return err
			}
		}
		for _, full := range list {
			_, s, err := m.namedSnapshot(full)
			if err != nil {
				return err
			}
			change(s)
			if err := m.putSnapshot(s); err != nil {
				return err
			}
		}
		return nil
	})
}

// Holds lists the tags of a snapshot by name.
func (h *Host) Holds(ctx context.Context, snapshot string) ([]zfs.Hold, error) {
	p, err := h.snapshotOf(ctx, snapshot)
	if err != nil {
		return nil, fail("holds", snapshot, err)
	}
	var list []zfs.Hold
	err = p.view(func(m meta) error {
		_, s, err := m.namedSnapshot(snapshot)
		if err != nil {
			return err
		}
		for _, tag := range slices.Sorted(maps.Keys(s.Holds)) {
			list = append(list, zfs.Hold{Snapshot: snapshot, Tag: tag, Created: unixTime(s.Holds[tag])})
		}
		return nil
	})
	return list, fail("holds", snapshot, err)
}

// Bookmark remembers a snapshot as a base for increments after it is destroyed. It
// keeps the names and hashes of its files, not their content.
func (h *Host) Bookmark(ctx context.Context, snapshot, bookmark string) error {
	p, err := h.snapshotOf(ctx, snapshot)
	if err != nil {
		return fail("bookmark", snapshot, err)
	}
	ds, name, err := zfs.ValidateBookmark(bookmark)
	if err != nil {
		return fail("bookmark", bookmark, err)
	}
	return fail("bookmark", bookmark, p.update(func(m meta) error {
		d, s, err := m.namedSnapshot(snapshot)
		if err != nil {
			return err
		}
		if ds != d.Name {
			return fmt.Errorf("%w: %s is not in %s", zfs.ErrInvalid, bookmark, d.Name)
		}
		return m.addBookmark(d, name, s)
	}))
}

func (m meta) addBookmark(ds *datasetRec, name string, s *snapRec) error {
	if old, err := m.bookmark(ds, name); err == nil {
		if old.GUID == s.GUID {
			return nil
		}
		return fmt.Errorf("%w: %s#%s is another snapshot", zfs.ErrExists, ds.Name, name)
	} else if !errors.Is(err, zfs.ErrNotExist) {
		return err
	}
	if err := store.Ref(m.tx, s.Root, store.Meta); err != nil {
		return err
	}
	return put(m.tx.Bucket(bucketMark), markKey(ds.GUID, name), markRec{GUID: s.GUID, TXG: s.TXG, Creation: s.Creation, Root: s.Root})
}

func (m meta) deleteBookmark(ds zfs.GUID, b *markRec) error {
	if err := store.Unref(m.tx, b.Root, store.Meta); err != nil {
		return err
	}
	return m.tx.Bucket(bucketMark).Delete(markKey(ds, b.Name))
}

// DestroyBookmark removes "dataset#name".
func (h *Host) DestroyBookmark(ctx context.Context, bookmark string) error {
	ds, name, err := zfs.ValidateBookmark(bookmark)
	if err != nil {
		return fail("destroy", bookmark, err)
	}
	p, err := h.dataset(ctx, ds)
	if err != nil {
		return fail("destroy", bookmark, err)
	}
	err = p.update(func(m meta) error {
		d, err := m.dataset(ds)
		if err != nil {
			return err
		}
		b, err := m.bookmark(d, name)
		if err != nil {
			return err
		}
		return m.deleteBookmark(d.GUID, b)
	})
	if err == nil {
		p.sweep()
	}
	return fail("destroy", bookmark, err)
}

// Named gives the snapshots of these full names in their order, the zero Version for
// one that is not there.
func (h *Host) Named(ctx context.Context, names ...string) ([]zfs.Version, error) {
	found := make([]zfs.Version, len(names))
	for i, full := range names {
		ds, _, err := zfs.ValidateSnapshot(full)
		if err != nil {
			return nil, fail("get", full, fmt.Errorf("%v: %w", err, zfs.ErrInvalid))
		}
		list, err := h.Versions(ctx, ds)
		if err != nil && !errors.Is(err, zfs.ErrNotExist) {
			return nil, err
		}
		for _, v := range list {
			if v.Kind == zfs.KindSnapshot && v.FullName() == full {
				found[i] = v
			}
		}
	}
	return found, nil
}
