package memzfs

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn/zfs"
)

// Snapshot takes all or none.
func (h *Host) Snapshot(ctx context.Context, names ...string) error {
	return h.do(ctx, "snapshot", strings.Join(names, ","), func() error {
		for _, full := range names {
			ds, name, err := zfs.ValidateSnapshot(full)
			if err != nil {
				return err
			}
			d, err := h.get("snapshot", ds)
			if err != nil {
				return err
			}
			if d.find(name) != nil {
				return fail("snapshot", full, zfs.ErrExists)
			}
		}
		h.txg++
		for _, full := range names {
			ds, name, _ := strings.Cut(full, "@")
			h.guid++
			h.all[ds].add(&snapshot{name: name, guid: zfs.GUID(h.guid), txg: h.txg, creation: time.Now()})
		}
		return nil
	})
}

func (d *dataset) add(s *snapshot) {
	s.of, s.data, s.holds = d, d.data, map[string]time.Time{}
	d.snaps = append(d.snaps, s)
	d.written = 0
}

func (d *dataset) find(name string) *snapshot {
	for _, s := range d.snaps {
		if s.name == name {
			return s
		}
	}
	return nil
}

// RenameSnapshot keeps the GUID.
func (h *Host) RenameSnapshot(ctx context.Context, ds, from, to string) error {
	return h.do(ctx, "rename", ds+"@"+from, func() error {
		s, err := h.snapshotNamed("rename", ds+"@"+from)
		if err != nil {
			return err
		}
		if s.of.find(to) != nil {
			return fail("rename", ds+"@"+to, zfs.ErrExists)
		}
		s.name = to
		return nil
	})
}

// DestroySnapshots removes all or none.
func (h *Host) DestroySnapshots(ctx context.Context, ds string, names ...string) error {
	return h.do(ctx, "destroy", ds+"@"+strings.Join(names, ","), func() error {
		for _, name := range names {
			s, err := h.snapshotNamed("destroy", ds+"@"+name)
			if err != nil {
				return err
			}
			if len(s.holds) > 0 {
				return fail("destroy", ds+"@"+name, zfs.ErrHeld)
			}
			if h.cloned(s) {
				return fail("destroy", ds+"@"+name, zfs.ErrHasClones)
			}
		}
		d := h.all[ds]
		d.snaps = slices.DeleteFunc(d.snaps, func(s *snapshot) bool { return slices.Contains(names, s.name) })
		return nil
	})
}

func (h *Host) cloned(s *snapshot) bool {
	for _, d := range h.all {
		if d.origin == s {
			return true
		}
	}
	return false
}

func (d *dataset) versions() []zfs.Version {
	out := []zfs.Version{}
	for _, m := range d.marks {
		m.Dataset = d.name
		out = append(out, m)
	}
	for _, s := range d.snaps {
		out = append(out, zfs.Version{
			Kind: zfs.KindSnapshot, Dataset: d.name, Name: s.name, GUID: s.guid, CreateTXG: s.txg,
			Creation: s.creation, UserRefs: len(s.holds),
		})
	}
	slices.SortStableFunc(out, func(a, b zfs.Version) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
	return out
}

// Versions lists the snapshots of one filesystem.
func (h *Host) Versions(ctx context.Context, name string) (out []zfs.Version, err error) {
	err = h.do(ctx, "list", name, func() error {
		d, err := h.get("list", name)
		if err == nil {
			out = d.versions()
		}
		return err
	})
	return out, err
}

// VersionsBelow lists those of root and all below it.
func (h *Host) VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error) {
	out := map[string][]zfs.Version{}
	err := h.do(ctx, "list", root, func() error {
		for name, d := range h.all {
			if name == root || strings.HasPrefix(name, root+"/") {
				out[name] = d.versions()
			}
		}
		return nil
	})
	return out, err
}

// Named gives snapshots by full name, the zero Version for one that is not there.
func (h *Host) Named(ctx context.Context, names ...string) ([]zfs.Version, error) {
	out := make([]zfs.Version, len(names))
	err := h.do(ctx, "get", strings.Join(names, ","), func() error {
		for i, full := range names {
			ds, _, _ := strings.Cut(full, "@")
			d := h.all[ds]
			if d == nil {
				continue
			}
			for _, v := range d.versions() {
				if v.Kind == zfs.KindSnapshot && v.FullName() == full {
					out[i] = v
				}
			}
		}
		return nil
	})
	return out, err
}

// Hold is idempotent.
func (h *Host) Hold(ctx context.Context, tag string, names ...string) error {
	return h.do(ctx, "hold", strings.Join(names, ","), func() error {
		for _, full := range names {
			if _, err := h.snapshotNamed("hold", full); err != nil {
				return err
			}
		}
		for _, full := range names {
			s, _ := h.snapshotNamed("hold", full)
			s.holds[tag] = time.Now()
		}
		return nil
	})
}

// Release is idempotent.
func (h *Host) Release(ctx context.Context, tag string, names ...string) error {
	return h.do(ctx, "release", strings.Join(names, ","), func() error {
		for _, full := range names {
			s, err := h.snapshotNamed("release", full)
			if err != nil {
				return err
			}
			delete(s.holds, tag)
		}
		return nil
	})
}

// Holds lists the holds of a snapshot.
func (h *Host) Holds(ctx context.Context, full string) (out []zfs.Hold, err error) {
	err = h.do(ctx, "holds", full, func() error {
		s, err := h.snapshotNamed("holds", full)
		if err != nil {
			return err
		}
		for _, tag := range slices.Sorted(maps.Keys(s.holds)) {
			out = append(out, zfs.Hold{Snapshot: full, Tag: tag, Created: s.holds[tag]})
		}
		return nil
	})
	return out, err
}

// Clone makes a filesystem from a snapshot.
func (h *Host) Clone(ctx context.Context, from, name string, props map[string]string) error {
	return h.do(ctx, "clone", name, func() error {
		s, err := h.snapshotNamed("clone", from)
		if err != nil {
			return err
		}
		if _, ok := h.all[name]; ok {
			return fail("clone", name, zfs.ErrExists)
		}
		d := h.newDataset(name, props)
		d.origin, d.data = s, s.data
		d.inherit(s.of)
		d.split = s.of.split
		h.all[name] = d
		return nil
	})
}

// Promote moves the origin snapshot and older ones to the clone.
func (h *Host) Promote(ctx context.Context, name string) error {
	return h.do(ctx, "promote", name, func() error {
		d, err := h.get("promote", name)
		if err != nil {
			return err
		}
		if d.origin == nil {
			return fail("promote", name, zfs.ErrInvalid)
		}
		return h.swap(d)
	})
}

func (h *Host) swap(d *dataset) error {
	origin := d.origin
	old := origin.of
	at := slices.Index(old.snaps, origin) + 1
	for _, s := range old.snaps[:at] {
		if d.find(s.name) != nil {
			return fail("promote", d.name, zfs.ErrExists)
		}
	}
	moved := slices.Clone(old.snaps[:at])
	old.snaps = slices.Clone(old.snaps[at:])
	d.snaps = append(moved, d.snaps...)
	for _, s := range moved {
		s.of = d
	}
	d.origin, old.origin = old.origin, origin
	d.takeOver(old)
	return nil
}
