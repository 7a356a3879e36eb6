package zfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	argumentLimit = 96 << 10  // of one argument; the kernel's is 128 KiB
	commandLimit  = 512 << 10 // of all arguments together; the kernel's is 2 MiB
)

// Snapshot takes all of names at one instant, or none.
func (h *Host) Snapshot(ctx context.Context, names ...string) error {
	total, seen := 0, map[string]bool{}
	for _, full := range names {
		ds, _, err := h.allowSnapshot("snapshot", full)
		if err != nil {
			return err
		}
		if seen[ds] || poolOf(full) != poolOf(names[0]) {
			return &Error{Op: "snapshot", Object: full, Class: ErrInvalid, Text: "one call takes one snapshot of each filesystem, all of one pool"}
		}
		seen[ds] = true
		total += len(full) + 9
	}
	switch {
	case len(names) == 0:
		return nil
	case len(names) > 1 && !h.build.multiSnapshot:
		return &Error{Op: "snapshot", Object: names[0], Class: ErrUnsupported, Text: "this version takes one snapshot at a time"}
	case total > commandLimit:
		return &Error{Op: "snapshot", Object: names[0], Class: ErrInvalid, Text: fmt.Sprintf("%d names are too long for one command", len(names))}
	}
	_, err := h.run(ctx, "snapshot", names[0], append([]string{"snapshot"}, names...)...)
	return err
}

// RenameSnapshot keeps the GUID.
func (h *Host) RenameSnapshot(ctx context.Context, dataset, from, to string) error {
	for _, n := range []string{from, to} {
		if _, _, err := h.allowSnapshot("rename", dataset+"@"+n); err != nil {
			return err
		}
	}
	_, err := h.run(ctx, "rename", dataset+"@"+from, "rename", dataset+"@"+from, dataset+"@"+to)
	return err
}

// DestroySnapshots removes snapshots of one filesystem in one transaction, where the
// version can: a held or cloned one fails them all. Names that do not exist are passed
// over as long as one does.
func (h *Host) DestroySnapshots(ctx context.Context, dataset string, names ...string) error {
	for _, n := range names {
		if _, _, err := h.allowSnapshot("destroy", dataset+"@"+n); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return h.allow("destroy", dataset)
	}
	if !h.build.commaDestroy {
		return h.destroyOneByOne(ctx, dataset, names)
	}
	missing := 0
	parts := chunks(names, argumentLimit)
	for _, part := range parts {
		full := dataset + "@" + strings.Join(part, ",")
		_, err := h.run(ctx, "destroy", dataset+"@"+part[0], "destroy", full)
		if errors.Is(err, ErrNotExist) {
			if missing++; missing < len(parts) {
				continue
			}
		}
		if errors.Is(err, ErrBusy) { // what OpenZFS up to 2.1 says of held ones
			return h.heldOr(ctx, err, dataset, part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// heldOr names the snapshot that is held, if one is, and is busy otherwise.
func (h *Host) heldOr(ctx context.Context, busy error, dataset string, names []string) error {
	versions, err := h.Versions(ctx, dataset)
	if err != nil {
		return errors.Join(busy, err)
	}
	for _, v := range versions {
		if v.UserRefs > 0 && slices.Contains(names, v.Name) {
			return v.refuseHeld()
		}
	}
	return busy
}

func (v Version) refuseHeld() error {
	return &Error{Op: "destroy", Object: v.FullName(), Class: ErrHeld, Text: fmt.Sprintf("%d holds", v.UserRefs)}
}

// chunks splits names so that each part joined with commas stays below limit bytes.
func chunks(names []string, limit int) [][]string {
	var parts [][]string
	begin, length := 0, 0
	for i, n := range names {
		if length += len(n) + 1; length > limit && i > begin {
			parts = append(parts, names[begin:i])
			begin, length = i, len(n)+1
		}
	}
	return append(parts, names[begin:])
}

// destroyOneByOne is for zfs-fuse. What can be foreseen fails the call before the
// first is gone: holds, and streams that this host sends (zfs-fuse itself would take
// a snapshot away from under them).
func (h *Host) destroyOneByOne(ctx context.Context, dataset string, names []string) error {
	versions, err := h.Versions(ctx, dataset)
	if err != nil {
		return err
	}
	have := map[string]Version{}
	for _, v := range versions {
		have[v.Name] = v
	}
	var there []string
	for _, n := range names {
		v, ok := have[n]
		switch {
		case !ok:
			continue
		case v.UserRefs > 0:
			return v.refuseHeld()
		case h.held.sending(v.FullName()):
			return &Error{Op: "destroy", Object: v.FullName(), Class: ErrBusy, Text: "it is being sent"}
		}
		there = append(there, n)
	}
	if len(there) == 0 {
		return &Error{Op: "destroy", Object: dataset + "@" + names[0], Class: ErrNotExist}
	}
	for _, n := range there {
		if _, err := h.run(ctx, "destroy", dataset+"@"+n, "destroy", dataset+"@"+n); err != nil && !errors.Is(err, ErrNotExist) {
			return err
		}
	}
	return nil
}

// Clone makes a writable filesystem of a snapshot. Without canmount among props it
// gets canmount=noauto.
func (h *Host) Clone(ctx context.Context, snapshot, name string, props map[string]string) error {
	if _, _, err := h.allowSnapshot("clone", snapshot); err != nil {
		return err
	}
	if err := h.allow("clone", name); err != nil {
		return err
	}
	args, err := h.creation("clone", name, props)
	if err != nil {
		return err
	}
	_, err = h.run(ctx, "clone", name, append(args, snapshot, name)...)
	return err
}

// Promote gives the snapshot that a clone was made of, and all before it, to the
// clone.
func (h *Host) Promote(ctx context.Context, name string) error {
	if err := h.allow("promote", name); err != nil {
		return err
	}
	_, err := h.run(ctx, "promote", name, "promote", name)
	return err
}

// Rollback returns the head to its newest snapshot; zfs refuses any other.
func (h *Host) Rollback(ctx context.Context, snapshot string) error {
	if _, _, err := h.allowSnapshot("rollback", snapshot); err != nil {
		return err
	}
	return h.patiently(ctx, snapshot, "rollback", snapshot)
}
