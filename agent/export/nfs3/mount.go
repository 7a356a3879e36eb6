package nfs3

import (
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// mountProcedures is the table of the MOUNT protocol, version 3.
func mountProcedures() []procedure {
	return []procedure{
		{"MOUNT NULL", 0, nothing},
		{"MOUNT MNT", 0, mountTree},
		{"MOUNT DUMP", 0, nobodyMounts},
		{"MOUNT UMNT", 0, unmount},
		{"MOUNT UMNTALL", 0, nothing},
		{"MOUNT EXPORT", 0, listTrees},
	}
}

// authSys is the flavour of credentials that is taken.
const authSys = 1

// mountTree answers with the handle of a tree, or of a directory in one.
func mountTree(c *call) func() error {
	dir := string(c.in.bytes(1024))
	return func() error {
		t, rest := c.byPath(filepath.Clean(dir))
		if t == nil {
			// Whoever may reach nothing learns nothing about what there is.
			return statusAcces
		}
		return c.inside(t, reads, func(p *place, e Export, _ bool) error {
			st, err := p.stat(path.Join(".", rest))
			if err != nil {
				return err
			}
			f := &file{place: p, name: path.Join(".", rest), st: st}
			if err := f.directory(); err != nil {
				return err
			}
			c.out.bytes(c.seal.handle(e.FSID, nodeOf(&st)))
			c.out.u32(1)
			c.out.u32(authSys)
			return nil
		})
	}
}

// nobodyMounts: a server without state does not know who has mounted what.
func nobodyMounts(c *call) func() error {
	return func() error {
		c.out.b = c.out.b[:0]
		c.out.flag(false)
		return nil
	}
}

func unmount(c *call) func() error {
	_ = c.in.bytes(1024)
	return nil
}

// listTrees tells a client what it may reach.
func listTrees(c *call) func() error {
	return func() error {
		c.out.b = c.out.b[:0]
		for _, path := range c.visible() {
			c.out.flag(true)
			c.out.text(path)
			c.out.flag(false) // who else may is not its business
		}
		c.out.flag(false)
		return nil
	}
}

func (c *call) visible() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var paths []string
	for path, t := range c.trees {
		if _, ok := t.export().Access(c.peer); ok {
			paths = append(paths, path)
		}
	}
	slices.SortFunc(paths, strings.Compare)
	return paths
}
