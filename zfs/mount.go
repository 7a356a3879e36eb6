package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Mount makes a filesystem's files reachable at its mountpoint.
func (h *Host) Mount(ctx context.Context, name string) error {
	if err := h.allow("mount", name); err != nil {
		return err
	}
	if h.isFuse() {
		return h.mountFlagged(ctx, name)
	}
	_, err := h.run(ctx, "mount", name, "mount", name)
	return unlessMounted(err)
}

// unlessMounted is the error of a mount, none if the filesystem is mounted already.
func unlessMounted(err error) error {
	var e *Error
	if errors.As(err, &e) && strings.Contains(e.Text, "already mounted") {
		return nil
	}
	return err
}

// Unmount takes a filesystem out of the tree of files. ErrBusy, with the holders'
// process ids, while somebody has something of it open: through its mountpoint, through
// a mount that Fence detached, or in another mount namespace. force asks the kernel to
// try harder, which for ZFS on Linux means little: open files still win. On zfs-fuse it
// asks for nothing, since a forced unmount wedges the daemon.
func (h *Host) Unmount(ctx context.Context, name string, force bool) error {
	if err := h.allow("unmount", name); err != nil {
		return err
	}
	var err error
	if h.isFuse() {
		err = h.unmountSettled(ctx, name)
	} else {
		args := []string{"unmount"}
		if force {
			args = append(args, "-f")
		}
		_, err = h.run(ctx, "unmount", name, append(args, name)...)
	}
	switch {
	case err == nil, errors.Is(err, ErrNotMounted), h.legacyAtRest(ctx, name, err):
		return h.released(ctx, name)
	case errors.Is(err, ErrBusy):
		return h.nameHolders(ctx, name, err)
	}
	return err
}

// legacyAtRest tells a dataset with mountpoint=legacy that is not mounted: zfs unmount says
// of each such dataset, mounted or not, only that umount(8) is for it.
func (h *Host) legacyAtRest(ctx context.Context, name string, err error) bool {
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Text, "legacy mountpoint") {
		return false
	}
	d, lookErr := h.Dataset(ctx, name)
	return lookErr == nil && !d.Mounted
}

// released makes sure that an unmounted filesystem has no users that the tree of files
// does not show.
func (h *Host) released(ctx context.Context, name string) error {
	if h.isFuse() {
		return h.detachedUsers(ctx, name)
	}
	got, err := h.Get(ctx, name, "objsetid")
	if err != nil {
		return err
	}
	id, err := strconv.ParseUint(got["objsetid"].Value, 10, 64)
	if err != nil { // 0.7 has no such property
		return nil //nolint:nilerr // and no such check
	}
	stat := fmt.Sprintf("/proc/spl/kstat/zfs/%s/objset-0x%x", poolOf(name), id)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); ; {
		if _, err := os.Stat(stat); err != nil {
			return nil //nolint:nilerr // it is gone
		}
		if time.Since(begun) > time.Second {
			return &Error{
				Op: "unmount", Object: name, Class: ErrBusy, Text: "it is not in the tree of files, but the kernel still has it open",
				Next: "somebody has files open on a detached mount, or it is mounted in another mount namespace (a container, a service with private mounts)",
			}
		}
		select {
		case <-ctx.Done():
			return &Error{Op: "unmount", Object: name, Class: ctx.Err()}
		case <-tick.C:
		}
	}
}

// nameHolders adds to a busy error who keeps the filesystem busy.
func (h *Host) nameHolders(ctx context.Context, name string, busy error) error {
	var e *Error
	errors.As(busy, &e)
	d, err := h.Dataset(ctx, name)
	if err != nil || d.Mountpoint == "" {
		return busy
	}
	list := holders(d.Mountpoint)
	next := fmt.Sprintf("lsof %s and the NFS server's clients tell who uses it", d.Mountpoint)
	if len(list) > 0 {
		next = "end or restart " + strings.Join(list, ", ")
	}
	return &Error{Op: e.Op, Object: e.Object, Class: ErrBusy, Text: e.Text, Next: next}
}

// Sync waits until everything written to a pool so far is on disk and counted in
// Dataset.Written, which shows the last transaction group only (up to 5 s old, more
// on a busy pool).
func (h *Host) Sync(ctx context.Context, pool string) error {
	if err := h.allow("sync", pool); err != nil {
		return err
	}
	if h.build.poolSync {
		_, err := h.output(ctx, invocation{op: "sync", object: pool, pool: true, args: []string{"sync", pool}})
		return err
	}
	// Any change of a property waits for its transaction group; this one changes nothing.
	_, err := h.run(ctx, "inherit", pool, "inherit", "tarn:sync", pool)
	return err
}
