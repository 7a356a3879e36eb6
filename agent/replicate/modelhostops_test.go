package replicate

import (
	"context"
	"fmt"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

func (b *box) Rename(_ context.Context, from, to string) error {
	d := b.find(from)
	if d == nil {
		return missing("rename", from)
	}
	if d.mounted {
		return &zfs.Error{Op: "rename", Object: from, Class: zfs.ErrBusy}
	}
	if err := b.change(); err != nil {
		return err
	}
	for i := range b.disk.asides {
		free := &b.disk.asides[i]
		if free.there {
			continue
		}
		*free = *d
		free.nameEpoch, free.nameNth = asideParts(to)
		*d = dataset{}
		return nil
	}
	b.full = true
	return nil
}

// asideParts reads epoch and number back from a name of layout.aside.
func asideParts(name string) (epoch, nth uint8) {
	parts := strings.Split(name[strings.LastIndexByte(name, '/')+1:], "-")
	epoch = number(parts[1])
	if len(parts) > 2 {
		nth = number(parts[2])
	}
	return epoch, nth
}

func (b *box) Clone(_ context.Context, snapshot, name string, props map[string]string) error {
	from, snap, _ := strings.Cut(snapshot, "@")
	d := b.find(from)
	if d == nil {
		return missing("clone", snapshot)
	}
	if name != b.layout().dataset() || b.disk.main.there {
		return fmt.Errorf("the model clones to the replica's own name, not to %s: %w", name, zfs.ErrUnsupported)
	}
	for _, v := range b.versions(d) {
		if v.Name != snap {
			continue
		}
		if err := b.change(); err != nil {
			return err
		}
		b.disk.main = dataset{there: true, origin: uint8(v.GUID)}
		b.set(&b.disk.main, props)
		return nil
	}
	return missing("clone", snapshot)
}

// Promote moves the origin and what is older to the clone.
func (b *box) Promote(_ context.Context, name string) error {
	d := b.find(name)
	if d == nil || d.origin == 0 {
		return &zfs.Error{Op: "promote", Object: name, Class: zfs.ErrInvalid}
	}
	if err := b.change(); err != nil {
		return err
	}
	for _, other := range b.all() {
		if other == d || other.snaps&bit(d.origin) == 0 {
			continue
		}
		upTo := bit(d.origin)<<1 - 1
		d.snaps |= other.snaps & upTo
		other.snaps &^= upTo
		other.origin, d.origin = d.origin, other.origin
		return nil
	}
	return missing("promote", name)
}

func (b *box) Mount(_ context.Context, name string) error           { return b.setMounted(name, true) }
func (b *box) Unmount(_ context.Context, name string, _ bool) error { return b.setMounted(name, false) }

func (b *box) setMounted(name string, mounted bool) error {
	d := b.find(name)
	if d == nil {
		return missing("mount", name)
	}
	if err := b.change(); err != nil {
		return err
	}
	d.mounted = mounted
	return nil
}

func (b *box) Snapshot(_ context.Context, names ...string) error {
	ds, name, _ := strings.Cut(names[0], "@")
	d := b.find(ds)
	if d == nil {
		return missing("snapshot", names[0])
	}
	if err := b.change(); err != nil {
		return err
	}
	b.snapshot(d, bornAs(name))
	return nil
}

// snapshot takes one of a dataset.
func (b *box) snapshot(d *dataset, s born) {
	for g := uint8(1); g <= maxGUID; g++ {
		if b.past[g-1].kind == 0 {
			s.parent = d.base()
			b.past[g-1] = s
			d.snaps |= bit(g)
			d.dirty = false
			return
		}
	}
	b.full = true
}

// bornAs reads back what snapName writes.
func bornAs(name string) born {
	for prefix, kind := range map[string]uint8{finalPrefix: bornFinal, divergentPrefix: bornDivergent} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		epoch, nth, more := strings.Cut(rest, ".")
		s := born{kind: kind, epoch: number(epoch)}
		if more {
			s.nth = number(nth)
		}
		return s
	}
	panic("the model takes no snapshot named " + name)
}

// Hold, Release and Holds: nothing is destroyed in the model, so holds hold nothing.
func (b *box) Hold(_ context.Context, _ string, names ...string) error {
	for _, full := range names {
		ds, name, _ := strings.Cut(full, "@")
		d, found := b.find(ds), false
		if d != nil {
			for _, v := range b.versions(d) {
				found = found || v.Name == name
			}
		}
		if !found {
			return missing("hold", full)
		}
	}
	return nil
}

func (b *box) Release(context.Context, string, ...string) error { return nil }

// Apply and Remove make a box an Exporter.
func (b *box) Apply(_ context.Context, _ string, _ *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	if err := b.change(); err != nil {
		return nil, nil, err
	}
	b.disk.exported = exportedRW
	if readOnly {
		b.disk.exported = exportedRO
	}
	return nil, nil, nil
}

func (b *box) Remove(context.Context, string) error {
	if b.disk.exported == exportedNone {
		return nil
	}
	if err := b.change(); err != nil {
		return err
	}
	b.disk.exported = exportedNone
	return nil
}
