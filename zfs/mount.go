package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Mount makes a filesystem's files reachable at its mountpoint.
func (h *Host) Mount(ctx context.Context, name string) error {
	if err := h.allow("mount", name); err != nil {
		return err
	}
	err := h.patiently(ctx, name, "mount", name)
	var e *Error
	if errors.As(err, &e) && strings.Contains(e.Text, "already mounted") {
		return nil
	}
	return err
}

// Unmount takes a filesystem out of the tree of files. ErrBusy, with the holders'
// process ids, while somebody has something of it open.
func (h *Host) Unmount(ctx context.Context, name string, force bool) error {
	if err := h.allow("unmount", name); err != nil {
		return err
	}
	args := []string{"unmount"}
	if force && h.build.bookmarks { // it wedges the daemon of zfs-fuse
		args = append(args, "-f")
	}
	_, err := h.run(ctx, "unmount", name, append(args, name)...)
	if err == nil {
		return h.awaitReleased(ctx, name)
	}
	switch {
	case errors.Is(err, ErrNotMounted):
		return nil
	case errors.Is(err, ErrBusy):
		return h.nameHolders(ctx, name, err)
	}
	return err
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
