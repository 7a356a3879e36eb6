package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"tarn/zfs"
)

// checkProperty validates one property and gives its canonical value.
func (p *pool) checkProperty(ds, name, value string) (string, error) {
	bad := func(rule string) (string, error) {
		return "", fmt.Errorf("%w: property %s=%q: %s", zfs.ErrInvalid, name, value, rule)
	}
	switch name {
	case zfs.PropQuota, zfs.PropRefQuota:
		if value == "none" {
			return "0", nil
		}
		if n, err := strconv.ParseUint(value, 10, 63); err == nil {
			return strconv.FormatUint(n, 10), nil
		}
		return bad("must be none or bytes")
	case zfs.PropReadOnly, zfs.PropATime:
		if value == "on" || value == "off" {
			return value, nil
		}
		return bad("must be on or off")
	case zfs.PropCanMount:
		if value == "on" || value == "off" || value == "noauto" {
			return value, nil
		}
		return bad("must be on, off or noauto")
	case zfs.PropMountpoint:
		if value == "none" || value == p.mountDir(ds) {
			return value, nil
		}
		if strings.HasPrefix(value, "/") {
			return "", fmt.Errorf("%w: property mountpoint=%q: a directory pool mounts at %s or not at all", zfs.ErrUnsupported, value, p.mountDir(ds))
		}
		return bad("must be none or absolute")
	case zfs.PropEncryption, zfs.PropKeyFormat, zfs.PropKeyLocation:
		return "", fmt.Errorf("%w: property %s: a directory pool cannot encrypt", zfs.ErrUnsupported, name)
	}
	return value, zfs.ValidateUserProperty(name, value)
}

func inheritable(name string) bool {
	return name != zfs.PropQuota && name != zfs.PropRefQuota && name != zfs.PropCanMount
}

func (p *pool) defaultOf(ds, name string) string {
	switch name {
	case zfs.PropQuota, zfs.PropRefQuota:
		return "0"
	case zfs.PropReadOnly, zfs.PropATime:
		return "off"
	case zfs.PropCanMount:
		return "on"
	case zfs.PropMountpoint:
		return p.mountDir(ds)
	}
	return "-"
}

// property gives an effective value; "" stands for the default.
func (m meta) property(ds *datasetRec, name string) (string, zfs.Source, error) {
	if v, ok := ds.Props[name]; ok {
		return v, zfs.SourceLocal, nil
	}
	if !inheritable(name) {
		return "", zfs.SourceDefault, nil
	}
	for at := parentOf(ds.Name); at != ""; at = parentOf(at) {
		d, err := m.dataset(at)
		if err != nil {
			return "", "", err
		}
		v, ok := d.Props[name]
		if ok && (name != zfs.PropMountpoint || v == "none") {
			return v, zfs.SourceInherited, nil
		}
	}
	return "", zfs.SourceDefault, nil
}

func parentOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

func (p *pool) effectiveReadOnly(ds *datasetRec) (on bool, err error) {
	err = p.view(func(m meta) error {
		v, _, err := m.property(ds, zfs.PropReadOnly)
		on = v == "on"
		return err
	})
	return on, err
}

// Set writes local values. A quota below what is used is zfs.ErrNoSpace; a changed
// readonly takes effect on mounted filesystems before Set returns.
func (h *Host) Set(ctx context.Context, name string, props map[string]string) error {
	p, err := h.dataset(ctx, name)
	if err != nil {
		return fail("set", name, err)
	}
	return fail("set", name, p.set(ctx, name, props))
}

func (p *pool) set(ctx context.Context, name string, props map[string]string) error {
	clean, err := p.checkProperties(name, props)
	if err != nil {
		return err
	}
	recs, unlock, err := p.lockBelow(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	ds := recs[name]
	if clean[zfs.PropMountpoint] == "none" && p.isMounted(ds) {
		return fmt.Errorf("%w: unmount %s before taking its mountpoint away", zfs.ErrBusy, name)
	}
	err = p.update(func(m meta) error {
		if err := p.quotaFits(m, ds, clean); err != nil {
			return err
		}
		if ds.Props == nil {
			ds.Props = map[string]string{}
		}
		maps.Copy(ds.Props, clean)
		for _, limit := range []string{zfs.PropQuota, zfs.PropRefQuota} {
			if clean[limit] == "0" {
				delete(ds.Props, limit) // as with ZFS, where no limit is the default
			}
		}
		return m.putDataset(ds)
	})
	if _, ok := clean[zfs.PropReadOnly]; !ok || err != nil {
		return err
	}
	return p.remask(ctx, recs)
}

func (p *pool) checkProperties(ds string, props map[string]string) (map[string]string, error) {
	clean := make(map[string]string, len(props))
	for k, v := range props {
		value, err := p.checkProperty(ds, k, v)
		if err != nil {
			return nil, err
		}
		clean[k] = value
	}
	return clean, nil
}

func (p *pool) quotaFits(m meta, ds *datasetRec, props map[string]string) error {
	if limit := parseQuota(props[zfs.PropRefQuota]); limit != 0 {
		refers, err := p.referenced(m, ds, 0)
		if err != nil {
			return err
		}
		if refers > limit {
			return fmt.Errorf("%w: refquota %d is less than the %d bytes referred to", zfs.ErrNoSpace, limit, refers)
		}
	}
	limit := parseQuota(props[zfs.PropQuota])
	if limit == 0 {
		return nil
	}
	used, err := m.usedBelow(ds.Name)
	if err == nil && used > limit {
		err = fmt.Errorf("%w: quota %d is less than the %d bytes used", zfs.ErrNoSpace, limit, used)
	}
	return err
}

// parseQuota reads a checked value; 0 is no limit.
func parseQuota(v string) int64 {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// remask makes readonly take effect on everything that is mounted among the
// datasets, whose heads the caller has locked.
func (p *pool) remask(ctx context.Context, recs map[string]*datasetRec) error {
	for _, ds := range recs {
		if err := p.remaskOne(ctx, ds); err != nil {
			return err
		}
	}
	return nil
}

func (p *pool) remaskOne(ctx context.Context, ds *datasetRec) error {
	on, err := p.effectiveReadOnly(ds)
	if err != nil || !p.isMounted(ds) {
		return err
	}
	if err := p.settle(ctx, ds); err != nil {
		return err
	}
	return p.setMask(ctx, ds, on)
}

// Inherit removes a local value.
func (h *Host) Inherit(ctx context.Context, name, prop string) error {
	p, err := h.dataset(ctx, name)
	if err != nil {
		return fail("inherit", name, err)
	}
	return fail("inherit", name, p.inherit(ctx, name, prop))
}

func (p *pool) inherit(ctx context.Context, name, prop string) error {
	if strings.Contains(prop, ":") {
		if err := zfs.ValidateUserProperty(prop, ""); err != nil {
			return err
		}
	} else if p.defaultOf(name, prop) == "-" {
		return fmt.Errorf("%w: no property %q", zfs.ErrInvalid, prop)
	}
	recs, unlock, err := p.lockBelow(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	ds := recs[name]
	err = p.update(func(m meta) error {
		delete(ds.Props, prop)
		return m.putDataset(ds)
	})
	if err != nil || prop != zfs.PropReadOnly {
		return err
	}
	return p.remask(ctx, recs)
}

// Get answers with effective values and sources; an unset user property is "-"
// with zfs.SourceNone. Without names it gives the native and all set user
// properties.
func (h *Host) Get(ctx context.Context, name string, props ...string) (map[string]zfs.Property, error) {
	p, err := h.dataset(ctx, name)
	if err != nil {
		return nil, fail("get", name, err)
	}
	var out map[string]zfs.Property
	err = p.view(func(m meta) error {
		ds, err := m.dataset(name)
		if err != nil {
			return err
		}
		out, err = p.properties(m, ds, props)
		return err
	})
	return out, fail("get", name, err)
}

func (p *pool) properties(m meta, ds *datasetRec, names []string) (map[string]zfs.Property, error) {
	if len(names) == 0 {
		user, err := m.userProperties(ds)
		if err != nil {
			return nil, err
		}
		names = append(slices.Collect(maps.Keys(user)), zfs.PropQuota, zfs.PropRefQuota, zfs.PropReadOnly, zfs.PropCanMount, zfs.PropMountpoint)
	}
	out := make(map[string]zfs.Property, len(names))
	for _, n := range names {
		v, src, err := m.property(ds, n)
		if err != nil {
			return nil, err
		}
		if src == zfs.SourceDefault {
			v = p.defaultOf(ds.Name, n)
			if v == "-" {
				src = zfs.SourceNone
				if err := zfs.ValidateUserProperty(n, ""); err != nil {
					return nil, err
				}
			}
		}
		out[n] = zfs.Property{Value: v, Source: src}
	}
	return out, nil
}

// userProperties gives the user properties in effect.
func (m meta) userProperties(ds *datasetRec) (map[string]zfs.Property, error) {
	out := map[string]zfs.Property{}
	src := zfs.SourceLocal
	for d, at := ds, ds.Name; ; src = zfs.SourceInherited {
		for k, v := range d.Props {
			if _, ok := out[k]; !ok && strings.Contains(k, ":") {
				out[k] = zfs.Property{Value: v, Source: src}
			}
		}
		if at = parentOf(at); at == "" {
			return out, nil
		}
		var err error
		if d, err = m.dataset(at); err != nil {
			return nil, err
		}
	}
}

// used is what a dataset's history occupies: each snapshot counts what its
// predecessor lacks. Live changes come on top.
func (m meta) used(ds zfs.GUID) (n int64, err error) {
	list, err := m.snapshots(ds)
	for _, s := range list {
		n += s.Written
	}
	return n, err
}

func (m meta) usedBelow(name string) (n int64, err error) {
	list, err := m.below(name)
	for _, d := range list {
		own, err := m.used(d.GUID)
		if err != nil {
			return 0, err
		}
		n += own
	}
	return n, err
}

// quotaRoom is what the quotas of a dataset and its ancestors leave; 1<<63-1 when
// there are none.
func (m meta) quotaRoom(ds *datasetRec) (int64, error) {
	room := int64(math.MaxInt64)
	for name, d := ds.Name, ds; ; {
		if q := parseQuota(d.Props[zfs.PropQuota]); q > 0 {
			used, err := m.usedBelow(name)
			if err != nil {
				return 0, err
			}
			room = min(room, q-used)
		}
		if name = parentOf(name); name == "" {
			return room, nil
		}
		var err error
		if d, err = m.dataset(name); err != nil {
			return 0, errors.Join(err)
		}
	}
}
