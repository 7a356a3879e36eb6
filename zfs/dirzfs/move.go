package dirzfs

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// moveIn takes a head to its mountpoint, moveOut the other way. Each is one rename,
// but for an ordinary user and a directory without its write bit, as a read-only
// mount has it: changing its parent is writing to it. Then the way leads through a
// name beside the mountpoint, where the bit is given and taken: at the mountpoint
// itself the directory never has it.
func moveIn(head, mountpoint string) error {
	err := rename(head, mountpoint)
	if errors.Is(err, unix.EACCES) {
		if err = withWriteBit(head, moving(mountpoint)); err == nil {
			err = rename(moving(mountpoint), mountpoint)
		}
	}
	return linkError(head, mountpoint, err)
}

func moveOut(mountpoint, head string) error {
	err := rename(mountpoint, head)
	if errors.Is(err, unix.EACCES) {
		if err = rename(mountpoint, moving(mountpoint)); err == nil {
			err = withWriteBit(moving(mountpoint), head)
		}
	}
	return linkError(mountpoint, head, err)
}

// moving is where a tree is for a moment on its way to or from a mountpoint, and
// where a crash can leave it.
func moving(mountpoint string) string {
	return filepath.Join(filepath.Dir(mountpoint), ".moving-"+filepath.Base(mountpoint))
}

// finishMove takes what a crash left on its way to where it is unmounted. The
// caller holds the head's lock, or is opening the pool.
func (p *pool) finishMove(ds *datasetRec) error {
	from := moving(p.mountDir(ds.Name))
	if !isDir(from) {
		return nil
	}
	return linkError(from, p.headDir(ds.GUID), withWriteBit(from, p.headDir(ds.GUID)))
}

// withWriteBit renames a directory that has its write bit only meanwhile.
func withWriteBit(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	mode := st.Mode & 0o7777
	if err := unix.Chmod(from, mode|0o200); err != nil {
		return err
	}
	if err := rename(from, to); err != nil {
		return errors.Join(err, unix.Chmod(from, mode))
	}
	return unix.Chmod(to, mode)
}

// rename moves a directory onto nothing.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) { // a file system without the flag
		err = unix.Rename(from, to)
	}
	return err
}

func linkError(from, to string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// clearWriteBits closes a masked directory that a crash left open while it moved.
func clearWriteBits(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&0o222 == 0 {
		return err
	}
	return unix.Chmod(path, st.Mode&0o7777&^0o222)
}
