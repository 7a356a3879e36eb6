package nfs3

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// file is what a handle means during one request.
type file struct {
	*place
	node node
	// name is its path below the tree.
	name string
	st   unix.Statx_t
	// who is the caller after squashing.
	who      who
	readOnly bool
}

// rights that a request needs of the client's address.
type rights bool

const (
	reads  rights = false
	writes rights = true
)

// admitted checks what does not depend on files: the rules of the address, and
// that this host may serve.
func (t *tree) admitted(s *Server, peer netip.Addr, want rights) (Export, bool, error) {
	e := t.export()
	readOnly, ok := e.Access(peer)
	switch {
	case !ok:
		return e, false, statusAcces
	case bool(want) && readOnly:
		return e, true, statusROFS
	case !s.config.Serving(e.Path, readOnly):
		return e, readOnly, statusJukebox
	}
	return e, readOnly, nil
}

// on runs work on the file of a handle, as the caller. Whether this host may
// serve is asked again before the answer goes out: what was done after a pause, or
// to a tree that was moved away meanwhile, is not confirmed.
func (c *call) on(handle []byte, want rights, work func(f *file) error) error {
	fsid, n, err := c.seal.open(handle)
	if err != nil {
		return err
	}
	t := c.byFSID(fsid)
	if t == nil {
		return statusStale
	}
	return c.inside(t, want, func(p *place, e Export, readOnly bool) error {
		return c.once(t, func() error {
			name, st, err := p.find(n)
			if err != nil {
				return err
			}
			f := &file{place: p, node: n, name: name, st: st, who: e.Squash.apply(c.who), readOnly: readOnly}
			return f.who.do(func() error { return work(f) })
		})
	})
}

// inside runs work with the tree open, if it may be.
func (c *call) inside(t *tree, want rights, work func(p *place, e Export, readOnly bool) error) (err error) {
	if t.closing.Load() || !t.running.TryAcquire(1) {
		return statusJukebox // it is being taken away
	}
	defer t.running.Release(1)
	e, readOnly, err := t.admitted(c.Server, c.peer, want)
	if err != nil {
		return err
	}
	p, err := t.enter()
	if err != nil {
		return err
	}
	// Whatever happens in work: a tree that is open cannot be unmounted.
	defer func() { err = errors.Join(err, p.dir.Close()) }()
	p.sync = func(f *os.File) error {
		err := c.config.sync(f)
		if err != nil {
			t.doubt() // nobody is told again that what is in this file is not on disk
		}
		return err
	}
	err = work(p, e, readOnly)
	if err == nil {
		err = p.still()
	}
	if err == nil && !c.config.Serving(e.Path, readOnly) {
		err = statusJukebox
	}
	return err
}

// attributes writes fattr3.
func (c *call) attributes(p *place, st *unix.Statx_t) {
	e := p.export()
	c.out.u32(kind(st.Mode))
	c.out.u32(uint32(st.Mode) & 0o7777)
	c.out.u32(st.Nlink)
	c.out.u32(st.Uid)
	c.out.u32(st.Gid)
	c.out.u64(st.Size)
	c.out.u64(st.Blocks * 512)
	c.out.u32(st.Rdev_major)
	c.out.u32(st.Rdev_minor)
	c.out.u64(uint64(e.FSID[0])<<56 | uint64(e.FSID[1])<<48 | uint64(e.FSID[2])<<40 | uint64(e.FSID[3])<<32 |
		uint64(e.FSID[12])<<24 | uint64(e.FSID[13])<<16 | uint64(e.FSID[14])<<8 | uint64(e.FSID[15]))
	c.out.u64(st.Ino)
	c.out.time(instantOf(st.Atime.Sec, st.Atime.Nsec))
	c.out.time(instantOf(st.Mtime.Sec, st.Mtime.Nsec))
	c.out.time(instantOf(st.Ctime.Sec, st.Ctime.Nsec))
}

// kind is ftype3.
func kind(mode uint16) uint32 {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFBLK:
		return 3
	case unix.S_IFCHR:
		return 4
	case unix.S_IFLNK:
		return 5
	case unix.S_IFSOCK:
		return 6
	}
	return 7
}

// after writes post_op_attr: what an entry looks like now, if it can be seen.
func (c *call) after(p *place, name string) {
	st, err := p.stat(name)
	c.out.flag(err == nil)
	if err == nil {
		c.attributes(p, &st)
	}
}

func (c *call) afterStat(p *place, st *unix.Statx_t) {
	c.out.flag(true)
	c.attributes(p, st)
}

// change writes wcc_data, without what was before: another request may have come
// in between.
func (c *call) change(p *place, name string) {
	c.out.flag(false)
	c.after(p, name)
}

// entry finds what a directory has under a name, and its handle.
func (c *call) entry(dir *file, name string) ([]byte, *unix.Statx_t, error) {
	at, err := child(dir.name, name)
	if err != nil {
		return nil, nil, err
	}
	st, err := dir.stat(at)
	if err != nil {
		return nil, nil, err
	}
	n := nodeOf(&st)
	dir.remember(n, dir.node, name)
	return c.seal.handle(dir.export().FSID, n), &st, nil
}

// made answers for a new entry: its handle, its attributes, and the directory's.
func (c *call) made(dir *file, name string, what node) error {
	handle, st, err := c.entry(dir, name)
	if err == nil && nodeOf(st) != what {
		err = statusStale // another one has taken its place: not what was asked for
	}
	if err != nil {
		return err
	}
	c.out.flag(true)
	c.out.bytes(handle)
	c.afterStat(dir.place, st)
	c.change(dir.place, dir.name)
	return nil
}

// directory refuses what is no directory.
func (f *file) directory() error {
	if f.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return statusNotDir
	}
	return nil
}

// content opens the file's own, for those who may and always for its owner, as other servers
// do: whoever opened it before it had this mode writes on, and no message says who has.
func (f *file) content(flags int) (*os.File, unix.Statx_t, error) {
	opened, st, err := f.open(f.name, f.node, flags)
	if errors.Is(err, os.ErrPermission) && f.who.uid == f.st.Uid {
		err = f.who.lifted(func() (err error) {
			opened, st, err = f.open(f.name, f.node, flags)
			return err
		})
	}
	return opened, st, err
}

// synced makes a change of the file's attributes, or of a directory's entries, durable, which
// NFS version 3 promises before it answers. That its users may not read it is no obstacle.
func (f *file) synced(err error) error {
	if err != nil {
		return err
	}
	return f.who.lifted(func() error {
		var entry *os.File
		err := error(os.ErrPermission)
		switch f.st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			entry, err = f.dir.OpenFile(f.name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		case unix.S_IFREG:
			entry, _, err = f.open(f.name, f.node, os.O_RDONLY)
		}
		if errors.Is(err, os.ErrPermission) {
			return f.allSynced()
		}
		if err != nil {
			return err
		}
		return errors.Join(f.sync(entry), entry.Close())
	})
}

// allSynced is for what cannot be opened: a link, or a file that a server who is not root
// took the right to read from itself.
func (f *file) allSynced() error {
	top, err := f.dir.Open(".")
	if errors.Is(err, os.ErrPermission) {
		return nil // nor can anything below it
	}
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(top.Fd()))
	if err != nil {
		f.doubt()
	}
	return errors.Join(err, top.Close())
}
