package dirzfs

import (
	"context"
	"errors"
	"slices"

	"tarn/zfs"
)

// Dataset gives one filesystem as it is now. Written is measured by a walk.
func (h *Host) Dataset(ctx context.Context, name string) (zfs.Dataset, error) {
	p, err := h.dataset(ctx, name)
	if err != nil {
		return zfs.Dataset{}, fail("get", name, err)
	}
	d, err := p.describe(ctx, name)
	return d, fail("get", name, err)
}

// Datasets gives root and all below it in name order. Written is -1 for one whose files
// cannot be read, or not be brought for want of space: Dataset says why, and the others of
// the pool go on.
func (h *Host) Datasets(ctx context.Context, root string) ([]zfs.Dataset, error) {
	p, err := h.dataset(ctx, root)
	if err != nil {
		return nil, fail("list", root, err)
	}
	var names []string
	err = p.view(func(m meta) error {
		if _, err := m.dataset(root); err != nil {
			return err
		}
		list, err := m.below(root)
		for _, d := range list {
			names = append(names, d.Name)
		}
		return err
	})
	if err != nil {
		return nil, fail("list", root, err)
	}
	slices.Sort(names)
	return p.describeAll(ctx, names)
}

func (p *pool) describeAll(ctx context.Context, names []string) ([]zfs.Dataset, error) {
	list := make([]zfs.Dataset, 0, len(names))
	for _, n := range names {
		d, err := p.describe(ctx, n)
		if err != nil && !errors.Is(err, zfs.ErrNotExist) && errors.Join(ctx.Err(), p.closing.Err()) == nil {
			p.log.Debug("files not measured", "dataset", n, "err", err) // Dataset says it
			d, err = p.describeUnread(ctx, n)
		}
		if errors.Is(err, zfs.ErrNotExist) {
			continue // destroyed since it was listed
		}
		if err != nil {
			return nil, fail("list", n, err)
		}
		list = append(list, d)
	}
	return list, nil
}

func (p *pool) describe(ctx context.Context, name string) (zfs.Dataset, error) {
	recs, unlock, err := p.lockHeads(ctx, name)
	if err != nil {
		return zfs.Dataset{}, err
	}
	defer unlock()
	written, err := p.written(ctx, recs[name])
	if err != nil {
		return zfs.Dataset{}, err
	}
	return p.describeRecord(recs[name], written)
}

// describeUnread is describe without a look at the files.
func (p *pool) describeUnread(ctx context.Context, name string) (zfs.Dataset, error) {
	recs, unlock, err := p.lockHeads(ctx, name)
	if err != nil {
		return zfs.Dataset{}, err
	}
	defer unlock()
	return p.describeRecord(recs[name], -1)
}

func (p *pool) describeRecord(ds *datasetRec, written int64) (zfs.Dataset, error) {
	_, free, err := p.room()
	if err != nil {
		return zfs.Dataset{}, err
	}
	out := zfs.Dataset{
		Name: ds.Name, GUID: ds.GUID, CreateTXG: ds.TXG, Mounted: p.isMounted(ds),
		Quota: parseQuota(ds.Props[zfs.PropQuota]), RefQuota: parseQuota(ds.Props[zfs.PropRefQuota]), Written: written,
	}
	return out, p.view(func(m meta) error { return p.describeIn(m, ds, &out, free) })
}

func (p *pool) describeIn(m meta, ds *datasetRec, out *zfs.Dataset, free int64) error {
	below, err := m.usedBelow(ds.Name)
	if err != nil {
		return err
	}
	room, err := m.quotaRoom(ds)
	if err != nil {
		return err
	}
	own := max(0, out.Written)
	out.Used, out.Available = below+own, max(0, min(free, room-own))
	if out.Referenced, err = p.referenced(m, ds, own); err != nil {
		return err
	}
	if out.RefQuota > 0 {
		out.Available = max(0, min(out.Available, out.RefQuota-out.Referenced))
	}
	if out.User, err = m.userProperties(ds); err != nil {
		return err
	}
	ro, _, err := m.property(ds, zfs.PropReadOnly)
	if err != nil {
		return err
	}
	out.ReadOnly = ro == "on"
	mp, _, err := m.property(ds, zfs.PropMountpoint)
	if err != nil {
		return err
	}
	if mp != "none" {
		out.Mountpoint = p.mountDir(ds.Name)
	}
	return p.describeLinks(m, ds, out)
}

func (p *pool) describeLinks(m meta, ds *datasetRec, out *zfs.Dataset) error {
	if ds.Origin != 0 {
		s, err := m.origin(ds.Origin)
		if err != nil {
			return err
		}
		d, err := m.byGUID(s.Dataset)
		if err != nil {
			return err
		}
		out.Origin = d.Name + "@" + s.Name
	}
	part, err := m.partial(ds.GUID)
	if err != nil || part == nil {
		return err
	}
	out.ResumeToken, err = part.token()
	return err
}

// referenced is the size of the head: that of its base and what was written since.
func (p *pool) referenced(m meta, ds *datasetRec, written int64) (int64, error) {
	s, err := m.newest(ds.GUID)
	if err == nil && s == nil && ds.Origin != 0 {
		s, err = m.origin(ds.Origin)
	}
	if err != nil || s == nil {
		return written, err
	}
	return s.Referenced + written, nil
}
