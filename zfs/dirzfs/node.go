package dirzfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tarn/zfs/dirzfs/internal/tree"
)

// dir is an open directory of a dataset. Everything below it is reached through
// the descriptor and never through a symlink, so neither a client that swaps names
// nor a fence that moves the tree away can redirect the work.
type dir struct {
	f   *os.File
	rel string // path inside the dataset, "" for its top
}

func openTop(path string) (*dir, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &dir{f: f}, nil
}

func (d *dir) fd() int { return int(d.f.Fd()) }

// path is that of an entry inside the dataset; name "" is the directory itself.
func (d *dir) path(name string) string {
	if d.rel == "" || name == "" {
		return d.rel + name
	}
	return d.rel + "/" + name
}

func (d *dir) close() { _ = d.f.Close() } // opened for reading

// open opens a node below without following it. A node whose owner, us, has no
// right to read it is made readable for that moment.
func (d *dir) open(name string, flags int) (*os.File, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := openat(d.fd(), name, flags)
	if errors.Is(err, unix.EACCES) {
		fd, err = d.openAnyway(name, flags)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.path(name), Err: err}
	}
	return os.NewFile(uintptr(fd), d.path(name)), nil
}

func openat(fd int, name string, flags int) (got int, err error) {
	for {
		got, err = unix.Openat(fd, name, flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return got, err
		}
	}
}

func (d *dir) openAnyway(name string, flags int) (int, error) {
	st, err := d.stat(name)
	if err != nil {
		return -1, err
	}
	if int(st.Uid) != os.Geteuid() {
		return -1, unix.EACCES
	}
	mode := st.Mode & 0o7777
	if err := d.chmod(name, mode|0o500); err != nil {
		return -1, err
	}
	fd, err := openat(d.fd(), name, flags)
	return fd, errors.Join(err, d.chmod(name, mode))
}

func (d *dir) openDir(name string) (*dir, error) {
	f, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &dir{f: f, rel: d.path(name)}, nil
}

func (d *dir) stat(name string) (st unix.Stat_t, err error) {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		err = unix.Fstat(d.fd(), &st)
	} else {
		err = unix.Fstatat(d.fd(), name, &st, flags)
	}
	if err != nil {
		return st, &fs.PathError{Op: "stat", Path: d.path(name), Err: err}
	}
	return st, nil
}

// chmod sets permission bits; name "" is the directory itself. Not for symlinks.
func (d *dir) chmod(name string, mode uint32) error {
	if name == "" {
		return unix.Fchmod(d.fd(), mode)
	}
	return unix.Fchmodat(d.fd(), name, mode, 0)
}

func (d *dir) names() ([]string, error) {
	if _, err := d.f.Seek(0, 0); err != nil {
		return nil, err
	}
	list, err := d.f.Readdirnames(-1)
	slices.Sort(list)
	return list, err
}

// proc is a path to a node that works for calls without an at-variant.
func (d *dir) proc(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(d.fd()) + "/" + name
}

// xattr reads one attribute, of an unreadable node of ours too.
func (d *dir) xattr(name, attr string) ([]byte, error) {
	v := make([]byte, 64<<10)
	n, err := unix.Lgetxattr(d.proc(name), attr, v)
	if errors.Is(err, unix.EACCES) {
		st, statErr := d.stat(name)
		if statErr != nil {
			return nil, statErr
		}
		mode := st.Mode & 0o7777
		if err := d.chmod(name, mode|0o400); err != nil {
			return nil, err
		}
		n, err = unix.Lgetxattr(d.proc(name), attr, v)
		err = errors.Join(err, d.chmod(name, mode))
	}
	return v[:max(n, 0)], err
}

func kindOf(st *unix.Stat_t) (tree.Kind, bool) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return tree.File, true
	case unix.S_IFDIR:
		return tree.Dir, true
	case unix.S_IFLNK:
		return tree.Symlink, true
	case unix.S_IFIFO:
		return tree.Fifo, true
	case unix.S_IFCHR:
		return tree.CharDevice, true
	case unix.S_IFBLK:
		return tree.BlockDevice, true
	}
	return 0, false // a socket means nothing without its process
}

// signature is what must be unchanged for a node to be unchanged.
type signature [32]byte

func signatureOf(st *unix.Stat_t) (s signature) {
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0 // says nothing, and differs between file systems
	}
	binary.BigEndian.PutUint64(s[0:], st.Ino)
	binary.BigEndian.PutUint64(s[8:], uint64(size))
	binary.BigEndian.PutUint64(s[16:], uint64(st.Mtim.Nano()))
	binary.BigEndian.PutUint64(s[24:], uint64(st.Ctim.Nano()))
	return s
}

// xattrs reads the user.* attributes of a node that can have some.
func (d *dir) xattrs(name string, kind tree.Kind) ([]tree.Xattr, error) {
	if kind != tree.File && kind != tree.Dir {
		return nil, nil
	}
	p := d.proc(name)
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EACCES) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes of %s: %w", d.path(name), err)
	}
	var list []tree.Xattr
	for _, attr := range strings.Split(string(buf[:n]), "\x00") {
		if !strings.HasPrefix(attr, "user.") {
			continue
		}
		v, err := d.xattr(name, attr)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %s of %s: %w", attr, d.path(name), err)
		}
		list = append(list, tree.Xattr{Name: attr, Value: v})
	}
	slices.SortFunc(list, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}
