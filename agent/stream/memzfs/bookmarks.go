package memzfs

import (
	"context"
	"slices"

	"tarn/zfs"
)

// Bookmark remembers a snapshot as a base; idempotent for an equal GUID.
func (h *Host) Bookmark(ctx context.Context, snapshot, bookmark string) error {
	return h.do(ctx, "bookmark", snapshot, func() error {
		s, err := h.snapshotNamed("bookmark", snapshot)
		if err != nil {
			return err
		}
		ds, name, err := zfs.ValidateBookmark(bookmark)
		if err != nil || ds != s.of.name {
			return fail("bookmark", bookmark, zfs.ErrInvalid)
		}
		if old, ok := s.of.marked(name); ok {
			if old.GUID != s.guid {
				return fail("bookmark", bookmark, zfs.ErrExists)
			}
			return nil
		}
		s.of.marks = append(s.of.marks, zfs.Version{
			Kind: zfs.KindBookmark, Dataset: ds, Name: name, GUID: s.guid, CreateTXG: s.txg, Creation: s.creation,
		})
		return nil
	})
}

// DestroyBookmark removes "dataset#name".
func (h *Host) DestroyBookmark(ctx context.Context, bookmark string) error {
	return h.do(ctx, "destroy", bookmark, func() error {
		ds, name, err := zfs.ValidateBookmark(bookmark)
		if err != nil {
			return fail("destroy", bookmark, zfs.ErrInvalid)
		}
		d, err := h.get("destroy", ds)
		if err != nil {
			return err
		}
		if _, ok := d.marked(name); !ok {
			return fail("destroy", bookmark, zfs.ErrNotExist)
		}
		d.marks = slices.DeleteFunc(d.marks, func(m zfs.Version) bool { return m.Name == name })
		return nil
	})
}

func (d *dataset) marked(name string) (zfs.Version, bool) {
	for _, m := range d.marks {
		if m.Name == name {
			return m, true
		}
	}
	return zfs.Version{}, false
}

// base is the GUID and the place in time of "@snapshot" or "#bookmark".
func (d *dataset) base(from string) (guid zfs.GUID, txg uint64, ok bool) {
	if from[0] == '#' {
		m, ok := d.marked(from[1:])
		return m.GUID, m.CreateTXG, ok
	}
	if s := d.find(from[1:]); s != nil {
		return s.guid, s.txg, true
	}
	return 0, 0, false
}
