package stream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"tarn/zfs"
)

// spliceChunk is the most that one call moves: a full pipe.
const spliceChunk = 1 << 20

// rawFiler is a pipe or socket of which the kernel can move bytes.
type rawFiler interface {
	SyscallConn() (syscall.RawConn, error)
}

// splicer moves bytes between a pipe and a socket inside the kernel: no copy
// through this process, one system call for up to a full pipe. io.Copy does it
// in one direction only, and there through a pipe of its own.
type splicer struct {
	dst, src syscall.RawConn
	gave     func(n int) // told of what is in dst
}

// newSplicer returns nil where the kernel cannot splice the two: one has to be a pipe.
func newSplicer(dst, src any) *splicer {
	gave := func(int) {}
	if in, ok := dst.(zfs.Inlet); ok {
		dst, gave = in.File(), in.Gave
	}
	if !isPipe(dst) && !isPipe(src) {
		return nil
	}
	d, ok := rawConn(dst)
	if !ok {
		return nil
	}
	s, ok := rawConn(src)
	if !ok {
		return nil
	}
	return &splicer{dst: d, src: s, gave: gave}
}

func rawConn(v any) (syscall.RawConn, bool) {
	f, ok := v.(rawFiler)
	if !ok {
		return nil, false
	}
	c, err := f.SyscallConn()
	return c, err == nil
}

func isPipe(v any) bool {
	f, ok := v.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// move waits until something can be moved and moves at most limit bytes. It
// returns io.EOF at the end of src. arm is called before each wait for bytes and
// may set src's read deadline; the wait for room in dst ends by its write
// deadline, or when it is closed.
func (s *splicer) move(limit int, arm func()) (n int, err error) {
	limit = min(limit, spliceChunk)
	for {
		full := false
		arm()
		rerr := s.src.Read(func(from uintptr) bool {
			cerr := s.dst.Control(func(to uintptr) { n, full, err = spliceNow(int(to), int(from), limit) })
			if cerr != nil {
				err = cerr
			}
			return full || !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case rerr != nil:
			return 0, rerr
		case err == nil && n == 0:
			return 0, io.EOF
		case err == nil:
			s.gave(n)
			return n, nil
		case !full:
			return 0, fmt.Errorf("splice: %w", err)
		}
		if werr := s.dst.Write(func(to uintptr) bool { return writable(int(to)) }); werr != nil {
			return 0, werr
		}
	}
}

// spliceNow tries once. EAGAIN does not say which side it is about: full does.
func spliceNow(to, from, limit int) (n int, full bool, err error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, limit, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return int(moved), errors.Is(err, unix.EAGAIN) && !writable(to), err
	}
}

// writable is also true where a write would fail at once.
func writable(fd int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0
	}
}
