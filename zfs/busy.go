package zfs

import (
	"context"
	"errors"
	"strings"
	"time"
)

// settleTime bounds the wait for zfs-fuse to notice an unmount.
const settleTime = 3 * time.Second

// isFuse tells zfs-fuse, the only version without bookmarks that is still about. Its
// datasets stay busy for some milliseconds after they were unmounted: the kernel's FUSE
// has let go of them, the daemon has not heard of it. Whatever needs the dataset alone
// fails until then.
func (h *Host) isFuse() bool { return !h.build.bookmarks }

// patiently runs a command, on zfs-fuse again and again for settleTime while the
// dataset is busy.
func (h *Host) patiently(ctx context.Context, object string, args ...string) error {
	begun, wait := time.Now(), 5*time.Millisecond
	for {
		_, err := h.run(ctx, args[0], object, args...)
		if !h.isFuse() || !early(err) || time.Since(begun) > settleTime {
			return err
		}
		if pause(ctx, wait) != nil {
			return err
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
}

// early tells what is said of a dataset that the daemon has not let go of.
func early(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Class == ErrBusy || strings.Contains(e.Text, "I/O error"))
}

// pause waits, or gives the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// propDetached is the device number, as 0:42, of a mount that Fence detached while it
// was in use. Only on zfs-fuse: with the kernel module the kernel itself can be asked.
const propDetached = "tarn:detached"

// detachedUsers makes sure that nobody has files of a detached mount open any more.
func (h *Host) detachedUsers(ctx context.Context, name string) error {
	got, err := h.Get(ctx, name, propDetached)
	if err != nil || got[propDetached].Source != SourceLocal {
		return err
	}
	device := got[propDetached].Value
	mounted, err := deviceMounted(device)
	if err != nil {
		return unreadable("unmount", name, err)
	}
	if !mounted { // else the number has gone to another filesystem, so the old one has ended
		list, err := h.deviceHolders(ctx, device)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			return &Error{
				Op: "unmount", Object: name, Class: ErrBusy, Text: "it is not mounted, but still in use since it was fenced",
				Next: "end or restart " + strings.Join(list, ", "),
			}
		}
	}
	// Whoever fenced it holds it for letGoTick longer, and the daemon needs a moment to end
	// it; a mount before that would be of a filesystem that ends.
	if err := pause(ctx, settleTime); err != nil {
		return &Error{Op: "unmount", Object: name, Class: err}
	}
	return h.Inherit(ctx, name, propDetached)
}
