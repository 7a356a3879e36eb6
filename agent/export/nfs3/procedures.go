package nfs3

import (
	"golang.org/x/sys/unix"
)

// nfsProcedures is the table of RFC 1813, in the order of its numbers.
func nfsProcedures() []procedure {
	return []procedure{
		{"NULL", 0, nothing},
		{"GETATTR", 0, getAttr},
		{"SETATTR", 2, setAttr},
		{"LOOKUP", 1, lookup},
		{"ACCESS", 1, accessOf},
		{"READLINK", 1, readLink},
		{"READ", 1, read},
		{"WRITE", 2, write},
		{"CREATE", 2, create},
		{"MKDIR", 2, makeDir},
		{"SYMLINK", 2, makeLink},
		{"MKNOD", 2, makeNode},
		{"REMOVE", 2, remove},
		{"RMDIR", 2, removeDir},
		{"RENAME", 4, rename},
		{"LINK", 3, hardLink},
		{"READDIR", 1, readDir},
		{"READDIRPLUS", 1, readDirPlus},
		{"FSSTAT", 1, fsStat},
		{"FSINFO", 1, fsInfo},
		{"PATHCONF", 1, pathConf},
		{"COMMIT", 2, commit},
	}
}

func nothing(*call) func() error { return nil }

func getAttr(c *call) func() error {
	handle := c.in.handle()
	return func() error {
		return c.on(handle, reads, func(f *file) error {
			c.attributes(f.place, &f.st)
			return nil
		})
	}
}

func lookup(c *call) func() error {
	handle, name := c.in.handle(), c.in.name()
	return func() error {
		return c.on(handle, reads, func(dir *file) error {
			if err := dir.directory(); err != nil {
				return err
			}
			found, st, err := c.resolve(dir, name)
			if err != nil {
				return err
			}
			c.out.bytes(found)
			c.afterStat(dir.place, st)
			c.after(dir.place, dir.name)
			return nil
		})
	}
}

// resolve is entry with the two names that every directory has. Above the root
// there is nothing but the root.
func (c *call) resolve(dir *file, name string) ([]byte, *unix.Statx_t, error) {
	switch name {
	case ".":
		return c.seal.handle(dir.export().FSID, dir.node), &dir.st, nil
	case "..":
		st, err := dir.stat(parentOf(dir.name))
		if err != nil {
			return nil, nil, err
		}
		return c.seal.handle(dir.export().FSID, nodeOf(&st)), &st, nil
	}
	return c.entry(dir, name)
}

// Bits of ACCESS.
const (
	accessRead    = 0x1
	accessLookup  = 0x2
	accessModify  = 0x4
	accessExtend  = 0x8
	accessDelete  = 0x10
	accessExecute = 0x20
)

func accessOf(c *call) func() error {
	handle, asked := c.in.handle(), c.in.u32()
	return func() error {
		return c.on(handle, reads, func(f *file) error {
			bits, may := uint32(0), f.who.may(&f.st)
			if may&4 != 0 {
				bits |= accessRead
			}
			if may&2 != 0 && !f.readOnly {
				bits |= accessModify | accessExtend
				if f.directory() == nil {
					bits |= accessDelete
				}
			}
			if may&1 != 0 {
				bits |= accessExecute
				if f.directory() == nil {
					bits |= accessLookup
				}
			}
			c.afterStat(f.place, &f.st)
			c.out.u32(bits & asked)
			return nil
		})
	}
}

func readLink(c *call) func() error {
	handle := c.in.handle()
	return func() error {
		return c.on(handle, reads, func(f *file) error {
			if f.st.Mode&unix.S_IFMT != unix.S_IFLNK {
				return statusInval
			}
			target, err := f.dir.Readlink(f.name)
			if err != nil {
				return err
			}
			c.afterStat(f.place, &f.st)
			c.out.text(target) // a text for the client: nothing here follows it
			return nil
		})
	}
}

func fsStat(c *call) func() error {
	handle := c.in.handle()
	return func() error {
		return c.on(handle, reads, func(f *file) error {
			var st unix.Statfs_t
			if err := unix.Statfs(f.path, &st); err != nil {
				return err
			}
			block := uint64(st.Bsize)
			c.afterStat(f.place, &f.st)
			for _, v := range []uint64{st.Blocks * block, st.Bfree * block, st.Bavail * block, st.Files, st.Ffree, st.Ffree} {
				c.out.u64(v)
			}
			c.out.u32(0) // it may change at any time
			return nil
		})
	}
}

func fsInfo(c *call) func() error {
	handle := c.in.handle()
	return func() error {
		return c.on(handle, reads, func(f *file) error {
			c.afterStat(f.place, &f.st)
			const multiple, links, symlinks, homogeneous, setTime = 4096, 0x1, 0x2, 0x8, 0x10
			for _, v := range []uint32{maxData, maxData, multiple, maxData, maxData, multiple, 64 << 10} {
				c.out.u32(v)
			}
			c.out.u64(maxFile)
			c.out.time(instant{nsec: 1})
			c.out.u32(links | symlinks | homogeneous | setTime)
			return nil
		})
	}
}

func pathConf(c *call) func() error {
	handle := c.in.handle()
	return func() error {
		return c.on(handle, reads, func(f *file) error {
			c.afterStat(f.place, &f.st)
			c.out.u32(32000)
			c.out.u32(maxName)
			for _, v := range []bool{true, true, false, true} { // no truncation, chown restricted, case counts and is kept
				c.out.flag(v)
			}
			return nil
		})
	}
}
