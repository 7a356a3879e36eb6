//go:build linux

package zfs

import (
	"os"
	"strings"
	"syscall"
	"unsafe"
)

const (
	setPipeSize = 1031 // F_SETPIPE_SZ
	pipeSize    = 1 << 20

	spliceMove     = 1
	spliceNonblock = 2

	unmountNoFollow = 8   // UMOUNT_NOFOLLOW
	noSymFollow     = 256 // MS_NOSYMFOLLOW
)

// growPipe makes a pipe hold 1 MiB, the most that an ordinary user may ask for:
// with the default of 64 KiB sender and receiver wait for each other.
func growPipe(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, pipeSize) })
}

// bytesIn is how many bytes are in a pipe.
func bytesIn(raw syscall.RawConn) (n int64, err error) {
	var count int32
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ /* FIONREAD */, uintptr(unsafe.Pointer(&count)))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return int64(count), err
}

// awaitReadable waits until a pipe has bytes (true) or its writers are gone.
func awaitReadable(f *os.File) (bytes bool) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Read(func(fd uintptr) bool {
		now := poll(fd, pollIn)
		bytes = now&pollIn != 0
		return now != 0
	})
	return bytes
}

// atEnd tells whether a pipe is empty and without writers, without waiting.
func atEnd(f *os.File) (end bool) {
	raw, err := f.SyscallConn()
	if err != nil {
		return true // closed by the reader
	}
	_ = raw.Control(func(fd uintptr) {
		now := poll(fd, pollIn)
		end = now&pollHup != 0 && now&pollIn == 0
	})
	return end
}

const (
	pollIn  = 1
	pollOut = 4
	pollHup = 16
)

// poll tells the state of a descriptor without waiting. The runtime tells changes of
// state only: whoever waits for one has to look at the state first, or waits for ever.
func poll(fd uintptr, events int16) int16 {
	fds := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: events}
	var now syscall.Timespec
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
		switch errno {
		case 0:
			return fds.revents
		case syscall.EINTR:
		default:
			return pollHup
		}
	}
}

// spliceAll moves everything from one pipe into another inside the kernel, and tells moved
// of each piece. done is false when nothing was moved because the files are not both pipes.
func spliceAll(dst, src *os.File, moved func(n int)) (done bool, err error) {
	from, err := src.SyscallConn()
	if err != nil {
		return true, err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return true, err
	}
	for begun := false; ; begun = true {
		n, full, err := spliceSome(to, from)
		moved(int(max(n, 0)))
		switch {
		case err == syscall.EINVAL && !begun:
			return false, nil
		case err != nil:
			return true, os.NewSyscallError("splice", err)
		case full:
			if err := awaitWritable(to); err != nil {
				return true, err
			}
		case n == 0:
			return true, nil
		}
	}
}

// spliceSome waits for bytes in from and moves what fits; full says that nothing did.
func spliceSome(to, from syscall.RawConn) (n int64, full bool, err error) {
	waitErr := from.Read(func(src uintptr) bool {
		// Only for the moment of the call, so that a Close of the pipe need not wait.
		var moved error
		if err = to.Control(func(dst uintptr) { n, full, moved = spliceNow(dst, src) }); err == nil {
			err = moved
		}
		return full || err != syscall.EAGAIN
	})
	if err == nil || err == syscall.EAGAIN {
		err = waitErr
	}
	return n, full, err
}

// spliceNow moves without waiting. EAGAIN: from is empty.
func spliceNow(dst, src uintptr) (n int64, full bool, err error) {
	for {
		n, err = syscall.Splice(int(src), nil, int(dst), nil, pipeSize, spliceMove|spliceNonblock)
		if err != syscall.EINTR {
			break
		}
	}
	if err == syscall.EAGAIN && poll(dst, pollOut) == 0 {
		return 0, true, nil
	}
	return n, false, err
}

func awaitWritable(to syscall.RawConn) error {
	return to.Write(func(fd uintptr) bool { return poll(fd, pollOut) != 0 })
}

// remount makes a mount read-only or writable. As every remount does, it lets the kernel
// forget the unused names and files of the filesystem. EBUSY while somebody has files
// open for writing that shall become read-only. A remount takes away what it does not name:
// a mount that gives nobody rights gives none afterwards.
func remount(m mount, readOnly bool) error {
	flags := uintptr(syscall.MS_REMOUNT)
	kept := map[string]uintptr{"nosuid": syscall.MS_NOSUID, "nodev": syscall.MS_NODEV, "noexec": syscall.MS_NOEXEC, "nosymfollow": noSymFollow}
	for o := range strings.SplitSeq(m.options, ",") {
		flags |= kept[o]
	}
	if readOnly {
		flags |= syscall.MS_RDONLY
	}
	return os.NewSyscallError("remount", syscall.Mount("zfs", m.dir, "", flags, ""))
}

// detachMount takes a mount out of the tree of files, whoever uses it. busy says that
// somebody does.
func detachMount(m mount) (busy bool, err error) {
	h := holdMount(m)
	err = syscall.Unmount(m.dir, unmountNoFollow)
	if err == syscall.EBUSY {
		busy = true
		err = syscall.Unmount(m.dir, syscall.MNT_DETACH|unmountNoFollow)
	}
	if busy && h.file != nil {
		go h.untilUnused()
	} else {
		h.letGo()
	}
	if err != nil && err != syscall.EINVAL {
		return busy, os.NewSyscallError("umount2", err)
	}
	return busy, nil // EINVAL: it is no longer a mount
}

// unmount takes a mount out of the tree of files if nobody uses it, with the bare
// syscall.Errno.
func unmount(m mount) error {
	h := holdMount(m)
	defer h.letGo()
	return syscall.Unmount(m.dir, unmountNoFollow)
}

// cloneMount opens a second mount of a filesystem, in nobody's tree of files
// (open_tree(2), Linux 5.2, CAP_SYS_ADMIN).
func cloneMount(dir string) (*os.File, error) {
	path, err := syscall.BytePtrFromString(dir)
	if err != nil {
		return nil, err
	}
	const (
		openTree = 428                                                 // on every architecture
		flags    = 1 /* OPEN_TREE_CLONE */ | syscall.O_CLOEXEC | 0x100 /* AT_SYMLINK_NOFOLLOW */
	)
	here := -100 // AT_FDCWD
	fd, _, errno := syscall.Syscall(openTree, uintptr(here), uintptr(unsafe.Pointer(path)), flags)
	if errno != 0 {
		return nil, os.NewSyscallError("open_tree", errno)
	}
	return os.NewFile(fd, dir), nil
}
