package privsep

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"tarn/zfs"
)

// receives tells a command that reads a stream.
func receives(args []string) bool { return len(args) > 1 && args[0] == "receive" && args[1] != "-A" }

// screen stands between a caller's stream and zfs receive, which does what a stream says: set
// properties, a mountpoint anywhere among them, or make a clone of any data of the pool.
type screen struct {
	from, to *os.File // the caller's, and the pipe to zfs
	stdin    *os.File // the other end of that pipe
	errs     *os.File // where the caller reads what zfs says, until the stream is let in
	judge    func(zfs.StreamHeader) error
	done     chan struct{}
	refused  error // set before done
}

func newScreen(files []*os.File, judge func(zfs.StreamHeader) error) (*screen, error) {
	from, err := duplicate(files[0], true)
	if err != nil {
		return nil, err
	}
	errs, err := duplicate(files[2], false)
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	s := &screen{from: from, errs: errs, judge: judge, done: make(chan struct{})}
	if s.stdin, s.to, err = os.Pipe(); err != nil {
		return nil, errors.Join(err, from.Close(), errs.Close())
	}
	return s, nil
}

// duplicate gives another descriptor of a file: one that waits can be ended by a Close.
func duplicate(f *os.File, waits bool) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd uintptr
	var errno syscall.Errno
	err = raw.Control(func(old uintptr) {
		fd, _, errno = syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return nil, fmt.Errorf("take over a file: %w", err)
	}
	if waits {
		err = syscall.SetNonblock(int(fd), true)
	}
	return os.NewFile(fd, f.Name()), err
}

// run copies until the stream or its reader ends.
func (s *screen) run() {
	defer close(s.done)
	// zfs says itself that a stream was too short; the rest is said here.
	_ = zfs.Screen(s.to, s.from, s.judge, func(err error) {
		switch {
		case errors.Is(err, zfs.ErrStreamRefused):
			s.refused = fmt.Errorf("%w: %w", ErrRefused, err)
		case errors.Is(err, ErrRefused):
			s.refused = err
		}
		if s.refused != nil {
			_, _ = fmt.Fprintln(s.errs, s.refused) // it may have hung up
		}
		_ = s.errs.Close()
	})
}

// end comes when zfs has ended: what still comes is of no use. Its error is why the stream was
// not let in.
func (s *screen) end() error {
	_ = s.from.Close()
	_ = s.to.Close()
	<-s.done
	return s.refused
}

// receive runs zfs receive on what the screen lets through.
func (s *Server) receiveScreened(ctx context.Context, conn *net.UnixConn, cmd *exec.Cmd, files []*os.File) error {
	target := cmd.Args[len(cmd.Args)-1]
	screen, err := newScreen(files, func(h zfs.StreamHeader) error { return s.checkBase(ctx, target, h.FromGUID) })
	if err != nil {
		return err
	}
	_ = files[0].Close()
	cmd.Stdin = screen.stdin
	go screen.run()
	err = follow(ctx, conn, cmd, []*os.File{screen.stdin, files[1], files[2]})
	_ = screen.stdin.Close() // closed already if zfs was started
	return errors.Join(err, screen.end())
}
