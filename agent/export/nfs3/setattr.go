package nfs3

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// wanted are the attributes that a request sets; nil is: leave it.
type wanted struct {
	mode, uid, gid *uint32
	size           *uint64
	atime, mtime   *time.Time
}

// attributes reads sattr3.
func (d *decoder) attributes() wanted {
	var w wanted
	for _, into := range []**uint32{&w.mode, &w.uid, &w.gid} {
		if d.flag() {
			v := d.u32()
			*into = &v
		}
	}
	if d.flag() {
		v := d.u64()
		w.size = &v
	}
	for _, into := range []**time.Time{&w.atime, &w.mtime} {
		switch d.u32() {
		case 0:
		case 1:
			now := time.Now()
			*into = &now
		case 2:
			at := d.time()
			v := time.Unix(int64(at.sec), int64(at.nsec))
			*into = &v
		default:
			d.err = errArguments
		}
	}
	return w
}

func setAttr(c *call) func() error {
	handle, w := c.in.handle(), c.in.attributes()
	guarded := c.in.flag()
	var ctime instant
	if guarded {
		ctime = c.in.time()
	}
	return func() error {
		return c.on(handle, writes, func(f *file) error {
			if guarded && ctime != instantOf(f.st.Ctime.Sec, f.st.Ctime.Nsec) {
				return statusNotSync
			}
			if err := f.synced(f.set(w)); err != nil {
				return err
			}
			c.change(f.place, f.name)
			return nil
		})
	}
}

// set changes what w names, which is not on disk then. The owner comes first, since a change
// of it takes the set-user bits away, and the times last.
func (f *file) set(w wanted) error {
	link := f.st.Mode&unix.S_IFMT == unix.S_IFLNK
	if w.uid != nil || w.gid != nil {
		if err := f.dir.Lchown(f.name, orMinus(w.uid), orMinus(w.gid)); err != nil {
			return err
		}
	}
	if w.size != nil {
		if err := f.resize(*w.size); err != nil {
			return err
		}
	}
	if link {
		return nil // a link has no mode of its own, and its times are of no use
	}
	if w.mode != nil {
		if err := f.dir.Chmod(f.name, fileMode(*w.mode)); err != nil {
			return err
		}
	}
	if w.atime == nil && w.mtime == nil {
		return nil
	}
	atime, mtime := time.Unix(f.st.Atime.Sec, int64(f.st.Atime.Nsec)), time.Unix(f.st.Mtime.Sec, int64(f.st.Mtime.Nsec))
	if w.atime != nil {
		atime = *w.atime
	}
	if w.mtime != nil {
		mtime = *w.mtime
	}
	return f.dir.Chtimes(f.name, atime, mtime)
}

func orMinus(v *uint32) int {
	if v == nil {
		return -1
	}
	return int(*v)
}

func (f *file) resize(size uint64) error {
	if size > maxFile {
		return statusFBig
	}
	out, _, err := f.content(os.O_WRONLY)
	if err != nil {
		return err
	}
	return errors.Join(out.Truncate(int64(size)), out.Close())
}

// fileMode turns the bits of a mode into Go's.
func fileMode(bits uint32) os.FileMode {
	mode := os.FileMode(bits & 0o777)
	for bit, flag := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if bits&bit != 0 {
			mode |= flag
		}
	}
	return mode
}
