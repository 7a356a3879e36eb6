package zfs

import (
	"context"
	"fmt"
	"sort"
	"strings"
)

// Damage is one permanent error of a pool: data that ZFS has found unreadable and
// cannot mend.
type Damage struct {
	Dataset  string // "" when ZFS does not know any more whose it was
	Snapshot string // name after the @; "" for the filesystem itself
	Place    string // file inside of it, or what ZFS calls metadata
}

// String names the place as zpool status does.
func (d Damage) String() string {
	if d.Snapshot != "" {
		return d.Dataset + "@" + d.Snapshot + ":" + d.Place
	}
	return d.Dataset + ":" + d.Place
}

// Damage lists the permanent errors that a pool knows of (zpool status -v); nil when
// there are none. Entries go two scrubs after what they name has gone or healed.
func (h *Host) Damage(ctx context.Context, pool string) ([]Damage, error) {
	if err := h.allow("status", pool); err != nil {
		return nil, err
	}
	out, err := h.output(ctx, invocation{op: "status", object: pool, pool: true, args: []string{"status", "-v", pool}})
	if err != nil {
		return nil, err
	}
	places := damagedPlaces(string(out))
	var mounts []Dataset
	for _, p := range places {
		if p[0] == '/' && mounts == nil { // of a mounted filesystem
			if mounts, err = h.Datasets(ctx, pool); err != nil {
				return nil, fmt.Errorf("find mounts: %w", err)
			}
		}
	}
	var list []Damage
	for _, p := range places {
		list = append(list, damageOf(p, mounts))
	}
	return list, nil
}

// damagedPlaces reads the list at the end of zpool status -v.
func damagedPlaces(out string) []string {
	_, list, found := strings.Cut(out, "Permanent errors have been detected in the following files:")
	if !found {
		return nil
	}
	var places []string
	for line := range strings.Lines(list) {
		if line = strings.TrimSpace(line); line != "" {
			places = append(places, line)
		}
	}
	return places
}

// damageOf takes one place apart: "pool/ds:/file", "pool/ds@snap:<0x0>", "<0x1b>:<0x2>",
// or the path of a file where it is mounted.
func damageOf(place string, mounts []Dataset) Damage {
	if place[0] == '/' {
		// The longest mountpoint wins: filesystems are mounted inside others.
		sort.Slice(mounts, func(i, j int) bool { return len(mounts[i].Mountpoint) > len(mounts[j].Mountpoint) })
		for _, d := range mounts {
			if rest, ok := strings.CutPrefix(place, strings.TrimSuffix(d.Mountpoint, "/")+"/"); ok && d.Mounted {
				return Damage{Dataset: d.Name, Place: "/" + rest}
			}
		}
		return Damage{Place: place}
	}
	name, rest, _ := strings.Cut(place, ":")
	if dataset, snapshot, err := ValidateSnapshot(name); err == nil {
		return Damage{Dataset: dataset, Snapshot: snapshot, Place: rest}
	}
	if ValidateDataset(name) == nil {
		return Damage{Dataset: name, Place: rest}
	}
	return Damage{Place: place}
}
