package zfs

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Launcher starts zfs(8) and zpool(8), and does what else of ZFS takes rights, for a Host
// in a process that has none. It is the other side's to check what it is asked for.
type Launcher interface {
	// Launch starts "zfs" or "zpool" with these files as its standard input (nil for
	// none), output and errors, of which it keeps nothing.
	Launch(tool string, args []string, stdin, stdout, stderr *os.File) (Launched, error)
	// Remount makes the mounts of a filesystem read-only or writable.
	Remount(ctx context.Context, dataset string, readOnly bool) error
	// Unmount takes a filesystem of zfs-fuse out of the tree of files.
	Unmount(ctx context.Context, dataset string) error
	// Holders names the processes that use a filesystem of a device number "major:minor".
	Holders(ctx context.Context, device string) ([]string, error)
}

// Launched is a tool that a Launcher started.
type Launched interface {
	// Wait gives nil, or an ExitStatus, or an *Error. It is called once.
	Wait() error
	// Kill ends the tool and the helpers that it started; it does not wait.
	Kill()
}

// ExitStatus is how a launched tool ended when not well, in words: "exit status 1".
type ExitStatus string

func (e ExitStatus) Error() string { return string(e) }

// Command is zfs(8) or zpool(8) as a Host would start it: for a Launcher's other side. It
// refuses what tarn never runs; whatever else the caller allows it has to check itself.
func Command(tool string, args []string) (*exec.Cmd, error) {
	path, err := findTool("", tool)
	if err != nil {
		return nil, err
	}
	r := runner{zfs: path, zpool: path}
	return r.command(invocation{op: tool, object: tool, args: args, pool: tool == "zpool"})
}

// Remount is Launcher.Remount, done here. EBUSY while somebody has files open for writing
// that shall become read-only.
func Remount(dataset string, readOnly bool) error {
	list, err := mountsOf(dataset)
	if err != nil {
		return err
	}
	for _, m := range list {
		if err := remount(m, readOnly); err != nil {
			return err
		}
	}
	return nil
}

// Unmount is Launcher.Unmount, done here: ErrNotMounted, or ErrBusy while somebody uses
// it. zfs(8) of zfs-fuse does the same, without a hold.
func Unmount(dataset string) error {
	list, err := mountsOf(dataset)
	refuse := func(class error, text string) error {
		return &Error{Op: "unmount", Object: dataset, Class: class, Text: text}
	}
	switch {
	case err != nil:
		return refuse(ErrUnclassified, err.Error())
	case len(list) == 0:
		return refuse(ErrNotMounted, "no mount of it is seen")
	}
	for i := len(list) - 1; i >= 0; i-- {
		switch err := unmount(list[i]); {
		case err == nil:
		case errors.Is(err, syscall.EBUSY):
			return refuse(ErrBusy, list[i].dir+" is in use")
		case errors.Is(err, os.ErrPermission):
			return refuse(ErrPermission, list[i].dir+": "+err.Error())
		default:
			return refuse(ErrUnclassified, list[i].dir+": "+err.Error())
		}
	}
	return nil
}

// Holders is Launcher.Holders, done here.
func Holders(device string) []string { return deviceHolders(device) }

// begin starts cmd, here or at the launcher.
func (r *runner) begin(inv invocation, cmd *exec.Cmd) (*process, error) {
	if r.launcher == nil {
		return r.stuck.start(inv, cmd)
	}
	tool := "zfs"
	if inv.pool {
		tool = "zpool"
	}
	stdin, _ := cmd.Stdin.(*os.File)
	out, err := newSink(cmd.Stdout)
	if err != nil {
		return nil, err
	}
	errs, err := newSink(cmd.Stderr)
	if err != nil {
		out.close()
		return nil, err
	}
	launched, err := r.launcher.Launch(tool, inv.args, stdin, out.file, errs.file)
	out.handed()
	errs.handed()
	if err != nil {
		out.close()
		errs.close()
		return nil, err
	}
	wait := func() error {
		err := launched.Wait()
		late := errors.Join(out.drain(killGrace), errs.drain(killGrace))
		if err == nil {
			err = late
		}
		return err
	}
	return r.stuck.watch(inv, wait, launched.Kill), nil
}

// sink is a file for a process elsewhere to write into, and where that goes.
type sink struct {
	file  *os.File
	ours  *os.File // the end that is read, nil when file is the caller's own
	ended chan struct{}
}

func newSink(w io.Writer) (*sink, error) {
	if f, ok := w.(*os.File); ok {
		return &sink{file: f}, nil
	}
	r, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &sink{file: theirs, ours: r, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		_, _ = io.Copy(w, r) // a writer that refuses more says so itself
		_ = r.Close()
	}()
	return s, nil
}

// handed closes the end that the process has now.
func (s *sink) handed() {
	if s.ours != nil {
		_ = s.file.Close()
	}
}

func (s *sink) close() {
	if s.ours != nil {
		_ = s.ours.Close()
	}
}

// drain waits for the rest, which helpers that outlive the tool may keep from ending: then
// nobody knows whether all of it is there, as with exec.Cmd.WaitDelay.
func (s *sink) drain(grace time.Duration) error {
	if s.ours == nil {
		return nil
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-s.ended:
		return nil
	case <-late.C:
		_ = s.ours.Close()
		<-s.ended
		return exec.ErrWaitDelay
	}
}

// remount follows a readonly property where ZFS itself does not.
func (h *Host) remount(ctx context.Context, dataset string, readOnly bool) error {
	if h.launcher != nil {
		return h.launcher.Remount(ctx, dataset, readOnly)
	}
	return Remount(dataset, readOnly)
}

// unmountSettled is for zfs-fuse.
func (h *Host) unmountSettled(ctx context.Context, dataset string) error {
	if h.launcher != nil {
		return h.launcher.Unmount(ctx, dataset)
	}
	return Unmount(dataset)
}

func (h *Host) deviceHolders(ctx context.Context, device string) ([]string, error) {
	if h.launcher != nil {
		return h.launcher.Holders(ctx, device)
	}
	return Holders(device), nil
}
