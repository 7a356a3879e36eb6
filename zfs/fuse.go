package zfs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
)

// showReceived lets a filesystem of zfs-fuse that stays mounted during a receive show what
// arrived: the kernel keeps names and attributes of FUSE files for an hour (Debian's
// /etc/zfs/zfsrc) and is told of no change. It is mounted anew; while somebody uses it,
// only what is not in use is forgotten.
func (h *Host) showReceived(ctx context.Context, name string) error {
	if !h.isFuse() || h.launcher == nil && !mountedHere(name) {
		return nil
	}
	d, err := h.Dataset(ctx, name)
	if err != nil || !d.Mounted {
		return err
	}
	err = h.Unmount(ctx, name, false)
	if errors.Is(err, ErrBusy) {
		h.log.Warn("received snapshot may show late to those who use the filesystem: set fuse-attr-timeout and fuse-entry-timeout to 0 in /etc/zfs/zfsrc", "dataset", name)
		return h.remount(ctx, name, d.ReadOnly)
	}
	if err != nil {
		return err
	}
	return h.Mount(ctx, name)
}

// mountFlagged is Mount for zfs-fuse, whose readonly=on keeps nobody from writing into
// files that exist, and whose setuid=off nobody from anything: it has to be mounted so.
func (h *Host) mountFlagged(ctx context.Context, name string) error {
	d, err := h.Dataset(ctx, name)
	if err != nil || d.Mounted {
		return err
	}
	options, err := h.mountOptions(ctx, d)
	if err != nil {
		return err
	}
	args := []string{"mount"}
	if options != "" {
		args = append(args, "-o", options)
	}
	// One that was told to be busy may have been mounted all the same.
	return unlessMounted(h.patiently(ctx, name, append(args, name)...))
}

// mountOptions are those that properties ask for. zfs-fuse mounts without them: a program with
// the setuid bit gave root's rights to everybody in spite of setuid=off.
func (h *Host) mountOptions(ctx context.Context, d Dataset) (string, error) {
	got, err := h.Get(ctx, d.Name, "setuid", "devices", "exec")
	if err != nil {
		return "", err
	}
	var list []string
	if d.ReadOnly {
		list = append(list, "ro")
	}
	for _, o := range [][2]string{{"setuid", "nosuid"}, {"devices", "nodev"}, {"exec", "noexec"}} {
		if got[o[0]].Value == "off" {
			list = append(list, o[1])
		}
	}
	return strings.Join(list, ","), nil
}

// mountFollows gives the mount of a dataset the readonly property that was set. Those who
// have files open for writing keep them; datasets below follow when they are mounted
// anew. (What zfs get shows for a mounted dataset is the mount's, not the property.)
func (h *Host) mountFollows(ctx context.Context, name string, readOnly bool) error {
	// Whoever is at the launcher sees the host's mounts; this process may not.
	if err := h.remount(ctx, name, readOnly); err != nil {
		h.log.Warn("readonly is in force for new writers only", "dataset", name, "err", err)
	}
	return nil
}

// mountAnew lets the mount of a dataset follow a readonly property that it inherits.
func (h *Host) mountAnew(ctx context.Context, name string) error {
	list, err := mountsOf(name)
	if err != nil || len(list) == 0 {
		return err
	}
	if err := h.Unmount(ctx, name, false); err != nil {
		return err
	}
	return h.Mount(ctx, name)
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
	moved := h.renameAlone(ctx, from, to)
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

// renameAlone lets nobody mount what it has unmounted, until zfs-fuse has noticed that: on a
// busy machine somebody who mounts again and again was always quicker.
func (h *Host) renameAlone(ctx context.Context, from, to string) error {
	if h.launcher == nil { // else it is its server's part, for each try
		wait, cancel := context.WithTimeout(ctx, h.deadline)
		defer cancel()
		after, err := Alone(wait, []string{"rename", from, to})
		if err != nil {
			return &Error{Op: "rename", Object: from, Class: err, Text: "it waited for others that mount"}
		}
		defer after()
		ctx = context.WithValue(ctx, alone{}, true)
	}
	return h.patiently(ctx, from, "rename", from, to)
}

// destroyUnmounted is Destroy for zfs-fuse, whose zfs(8) unmounts as well, but
// without a hold. What cannot be destroyed is mounted again.
func (h *Host) destroyUnmounted(ctx context.Context, name string) error {
	unmounted := h.unmountSettled(ctx, name)
	if unmounted != nil && !errors.Is(unmounted, ErrNotMounted) {
		return unmounted
	}
	err := h.patiently(ctx, name, "destroy", name)
	if err != nil && unmounted == nil && !errors.Is(err, ErrNotExist) {
		err = errors.Join(err, h.Mount(ctx, name))
	}
	return err
}

// mountedHere tells without a process whether this process sees a filesystem mounted;
// true when that cannot be told.
func mountedHere(name string) bool {
	mounts, err := os.ReadFile("/proc/self/mounts")
	return err != nil || bytes.HasPrefix(mounts, []byte(name+" ")) || bytes.Contains(mounts, []byte("\n"+name+" "))
}
