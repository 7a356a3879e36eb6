package zfs

import (
	"context"
	"errors"
	"strings"
	"time"
)

// settleTime bounds the wait for zfs-fuse to notice an unmount.
const settleTime = 3 * time.Second

// lateRelease tells a version whose datasets stay busy for some milliseconds after they
// were unmounted: the kernel's FUSE has let go of them, the zfs-fuse daemon has not
// heard of it. Whatever needs the dataset alone fails until then, some of it
// for good (a mount in that time leaves the dataset busy for ever).
func (h *Host) lateRelease() bool { return !h.build.bookmarks }

// patiently runs a command, on zfs-fuse again and again for settleTime while the
// dataset is busy.
func (h *Host) patiently(ctx context.Context, object string, args ...string) error {
	begun, wait := time.Now(), 5*time.Millisecond
	for {
		_, err := h.run(ctx, args[0], object, args...)
		if !h.lateRelease() || !errors.Is(err, ErrBusy) || time.Since(begun) > settleTime {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
}

// awaitReleased waits after an unmount until the daemon has let go. It asks by a rename
// onto the dataset's own parent: that name is taken as long as the dataset exists, and
// whether the dataset is busy is looked at first.
func (h *Host) awaitReleased(ctx context.Context, name string) error {
	i := strings.LastIndexByte(name, '/')
	if !h.lateRelease() || strings.Count(name, "/") < 2 {
		return nil
	}
	_ = h.patiently(ctx, name, "rename", name, name[:i])
	return nil // it is unmounted, and busy by something else
}

// renameUnmounted is Rename for zfs-fuse, which cannot rename what is mounted and
// unmounts it before it looks at the new name.
func (h *Host) renameUnmounted(ctx context.Context, from, to string) error {
	if _, err := h.run(ctx, "list", to, "list", "-H", "-o", "name", to); err == nil {
		return &Error{Op: "rename", Object: from, Class: ErrExists, Text: to}
	}
	if i := strings.LastIndexByte(to, '/'); i > 0 {
		if _, err := h.run(ctx, "rename", to[:i], "list", "-H", "-o", "name", to[:i]); err != nil {
			return err
		}
	}
	tree, err := h.Datasets(ctx, from)
	if err != nil {
		return err
	}
	for i := len(tree) - 1; i >= 0; i-- { // children first
		if tree[i].Mounted {
			if err := h.Unmount(ctx, tree[i].Name, false); err != nil {
				return err
			}
		}
	}
	moved := h.patiently(ctx, from, "rename", from, to)
	now := to
	if moved != nil {
		now = from
	}
	for _, d := range tree {
		if d.Mounted {
			moved = errors.Join(moved, h.Mount(ctx, now+strings.TrimPrefix(d.Name, from)))
		}
	}
	return moved
}

// showReceived lets a filesystem of zfs-fuse that stays mounted during a receive show what
// arrived: the kernel keeps names and attributes of FUSE files for an hour (Debian's
// /etc/zfs/zfsrc) and is told of no change. It is mounted anew; while somebody uses it,
// only what is not in use is forgotten.
func (h *Host) showReceived(ctx context.Context, name string) error {
	if !h.lateRelease() {
		return nil
	}
	d, err := h.Dataset(ctx, name)
	if err != nil || !d.Mounted {
		return err
	}
	err = h.Unmount(ctx, name, false)
	if errors.Is(err, ErrBusy) {
		h.log.Warn("received snapshot may show late to those who use the filesystem: set fuse-attr-timeout and fuse-entry-timeout to 0 in /etc/zfs/zfsrc", "dataset", name)
		return forgetNames(d.Mountpoint, d.ReadOnly)
	}
	if err != nil {
		return err
	}
	return h.Mount(ctx, name)
}
