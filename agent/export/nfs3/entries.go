package nfs3

import (
	"encoding/binary"
	"errors"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

func parentOf(name string) string { return path.Dir(name) }

// How CREATE treats what is there already.
const (
	unchecked = 0
	guarded   = 1
	exclusive = 2
)

func create(c *call) func() error {
	handle, name, how := c.in.handle(), c.in.name(), c.in.u32()
	var w wanted
	var verifier [8]byte
	switch how {
	case unchecked, guarded:
		w = c.in.attributes()
	case exclusive:
		c.in.read(verifier[:])
	default:
		c.in.err = errArguments
	}
	return func() error {
		return c.on(handle, writes, func(dir *file) error {
			if how == exclusive {
				// As other servers do: the verifier is kept in the times, which the
				// client sets when it knows that the file is its own.
				atime := time.Unix(int64(binary.BigEndian.Uint32(verifier[:4])), 0)
				mtime := time.Unix(int64(binary.BigEndian.Uint32(verifier[4:])), 0)
				w.atime, w.mtime = &atime, &mtime
			}
			n, err := dir.create(name, how, w)
			if err != nil {
				return err
			}
			return c.made(dir, name, n)
		})
	}
}

// create answers what it made or found.
func (f *file) create(name string, how uint32, w wanted) (node, error) {
	at, err := child(f.name, name)
	if err != nil {
		return node{}, err
	}
	var st unix.Statx_t
	flags := os.O_CREATE | os.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	out, err := f.dir.OpenFile(at, flags|os.O_EXCL, 0o600)
	if err == nil {
		// The mode asked for, whatever the mask of this process.
		mode := uint32(0o644)
		if w.mode != nil {
			mode = *w.mode
		}
		w.mode = &mode
		st, err = f.statFile(out)
		err = errors.Join(err, out.Close())
	} else if errors.Is(err, os.ErrExist) && how != guarded {
		if st, err = f.reuse(at, how, w); how == exclusive || err != nil {
			return nodeOf(&st), err
		}
		w = wanted{size: w.size} // of a file that exists only the size is set
	}
	if err != nil {
		return node{}, err
	}
	made := &file{place: f.place, node: nodeOf(&st), name: at, st: st, who: f.who}
	return made.node, f.synced(made.synced(made.set(w)))
}

// reuse decides about a file that is there: exclusive creation is right if it was
// this very request that made it.
func (f *file) reuse(at string, how uint32, w wanted) (unix.Statx_t, error) {
	st, err := f.stat(at)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = statusIsDir
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = statusExist
	case how == exclusive && (st.Atime.Sec != w.atime.Unix() || st.Mtime.Sec != w.mtime.Unix()):
		err = statusExist
	}
	return st, err
}

func makeDir(c *call) func() error {
	handle, name, w := c.in.handle(), c.in.name(), c.in.attributes()
	return func() error {
		return c.on(handle, writes, func(dir *file) error {
			at, err := child(dir.name, name)
			if err != nil {
				return err
			}
			if err := dir.dir.Mkdir(at, 0o700); err != nil {
				return err
			}
			mode := uint32(0o755)
			if w.mode != nil {
				mode = *w.mode
			}
			if err := dir.dir.Chmod(at, fileMode(mode)); err != nil {
				return err
			}
			st, err := dir.stat(at)
			if err != nil {
				return err
			}
			made := &file{place: dir.place, node: nodeOf(&st), name: at, st: st, who: dir.who}
			if err := dir.synced(made.synced(nil)); err != nil {
				return err
			}
			return c.made(dir, name, made.node)
		})
	}
}

func makeLink(c *call) func() error {
	handle, name, _ := c.in.handle(), c.in.name(), c.in.attributes()
	target := string(c.in.bytes(maxPath))
	return func() error {
		return c.on(handle, writes, func(dir *file) error {
			at, err := child(dir.name, name)
			if err != nil {
				return err
			}
			if err := dir.dir.Symlink(target, at); err != nil {
				return err
			}
			st, err := dir.stat(at)
			if err := dir.synced(err); err != nil {
				return err
			}
			return c.made(dir, name, nodeOf(&st))
		})
	}
}

// makeNode refuses: a share holds files, not devices.
func makeNode(c *call) func() error {
	handle := c.in.handle()
	return func() error {
		return c.on(handle, writes, func(*file) error { return statusNotSupp })
	}
}

func remove(c *call) func() error { return c.removal(false) }

func removeDir(c *call) func() error { return c.removal(true) }

func (c *call) removal(directory bool) func() error {
	handle, name := c.in.handle(), c.in.name()
	return func() error {
		return c.on(handle, writes, func(dir *file) error {
			at, err := child(dir.name, name)
			if err != nil {
				return err
			}
			st, err := dir.stat(at)
			switch isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR; {
			case err != nil:
				return err
			case directory && !isDir:
				return statusNotDir
			case !directory && isDir:
				return statusIsDir
			}
			if err := dir.dir.Remove(at); err != nil {
				return err
			}
			dir.forget(&st)
			if err := dir.synced(nil); err != nil {
				return err
			}
			c.change(dir.place, dir.name)
			return nil
		})
	}
}

func rename(c *call) func() error {
	fromDir, fromName, toDir, toName := c.in.handle(), c.in.name(), c.in.handle(), c.in.name()
	return func() error {
		return c.on(fromDir, writes, func(dir *file) error {
			to, err := c.beside(dir, toDir)
			if err != nil {
				return err
			}
			oldName, err := child(dir.name, fromName)
			if err != nil {
				return err
			}
			newName, err := child(to.name, toName)
			if err != nil {
				return err
			}
			if err := to.synced(dir.synced(dir.move(oldName, newName, to.node, toName))); err != nil {
				return err
			}
			c.change(dir.place, dir.name)
			c.change(dir.place, to.name)
			return nil
		})
	}
}

// beside is the file of another handle of the same tree.
func (c *call) beside(f *file, handle []byte) (*file, error) {
	fsid, n, err := c.seal.open(handle)
	switch {
	case err != nil:
		return nil, err
	case fsid != f.export().FSID:
		return nil, statusXDev
	}
	name, st, err := f.find(n)
	if err != nil {
		return nil, err
	}
	return &file{place: f.place, node: n, name: name, st: st, who: f.who}, nil
}

func hardLink(c *call) func() error {
	handle, toDir, toName := c.in.handle(), c.in.handle(), c.in.name()
	return func() error {
		return c.on(handle, writes, func(f *file) error {
			to, err := c.beside(f, toDir)
			if err != nil {
				return err
			}
			at, err := child(to.name, toName)
			if err != nil {
				return err
			}
			if err := to.synced(f.dir.Link(f.name, at)); err != nil {
				return err
			}
			c.after(f.place, f.name)
			c.change(f.place, to.name)
			return nil
		})
	}
}
