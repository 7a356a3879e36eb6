package zfs

import (
	"context"
	"errors"
	"os"
	"time"
)

// fenceDeadline bounds the command of Fence: its caller has other datasets to fence.
const fenceDeadline = 5 * time.Second

// Fence makes a dataset unreachable by path, at once and without the help of the process
// that manages it, which may be stopped or dead. It is idempotent.
//
// Each mount of the dataset in this mount namespace is detached by the kernel
// (MNT_DETACH): that works whoever has files open and waits for nobody. Then, with the
// kernel module, readonly=on is set, which refuses writes through files that were open
// before as well: seen on OpenZFS 2.3, write, truncate, fallocate and changes of
// attributes fail with EROFS. A shared writable mapping goes on reaching the disk, so
// that readonly=on is no proof of anything: only Host.Unmount, which says ErrBusy while
// the kernel has the filesystem open anywhere, is. On zfs-fuse readonly=on stops new
// opens only: there local processes with open files go on writing into the detached
// filesystem until they close them; the dataset is marked, and Host.Unmount says
// ErrBusy so long, and this process holds the detached filesystem until then, as its
// daemon needs it (hold). Clients of an NFS server are cut off by that server
// (agent/export.Sever).
//
// A mount made at the same time may come after it.
func Fence(ctx context.Context, dataset string) error {
	if err := ValidateDataset(dataset); err != nil {
		return &Error{Op: "fence", Object: dataset, Class: ErrInvalid, Text: err.Error()}
	}
	inUse, err := detachInTime(ctx, dataset)
	assignment := "readonly=on"
	if _, noModule := os.Stat("/dev/zfs"); noModule != nil {
		if assignment = propDetached + "=" + inUse; inUse == "" {
			return err
		}
	}
	return errors.Join(err, fenceMark(ctx, dataset, assignment))
}

// detachInTime bounds detach: the end of an unmount waits for a suspended pool, when the
// mount is long out of the tree of files.
func detachInTime(ctx context.Context, dataset string) (inUse string, err error) {
	type result struct {
		inUse string
		err   error
	}
	done := make(chan result, 1)
	go func() {
		inUse, err := detach(dataset)
		done <- result{inUse, err}
	}()
	timer := time.NewTimer(fenceDeadline)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.inUse, r.err
	case <-timer.C:
	case <-ctx.Done():
	}
	left, err := mountsOf(dataset)
	if err == nil && len(left) > 0 {
		err = &Error{Op: "fence", Object: dataset, Class: ErrHung, Text: "the kernel does not detach " + left[0].dir}
	}
	return "", err
}

// detach takes all mounts of a dataset away. inUse is the device number of one that
// somebody still uses, "" if nobody does.
func detach(dataset string) (inUse string, err error) {
	list, err := mountsOf(dataset)
	var errs []error
	for i := len(list) - 1; i >= 0; i-- {
		busy, err := detachMount(list[i])
		if busy {
			inUse = list[i].device
		}
		if err != nil {
			class := ErrUnclassified
			if errors.Is(err, os.ErrPermission) {
				class = ErrPermission
			}
			errs = append(errs, &Error{Op: "fence", Object: dataset, Class: class, Text: list[i].dir + ": " + err.Error()})
		}
	}
	return inUse, errors.Join(append(errs, err)...)
}

func fenceMark(ctx context.Context, dataset, assignment string) error {
	path, err := findTool("", "zfs")
	if err != nil {
		return err
	}
	r := runner{zfs: path, deadline: fenceDeadline}
	_, err = r.output(ctx, invocation{op: "set", object: dataset, args: []string{"set", assignment, dataset}})
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}
