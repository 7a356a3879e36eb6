package nfs3

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// entryOf is one name of a directory with its cookie. A cookie is a hash of the
// name, so that a listing goes on at the right place whatever was made or removed
// meanwhile. 1 and 2 are "." and "..".
type entryOf struct {
	cookie uint64
	name   string
}

func entriesOf(names []string) []entryOf {
	all := []entryOf{{1, "."}, {2, ".."}}
	for _, name := range names {
		h := fnv.New64a()
		_, _ = h.Write([]byte(name))
		// Some clients take cookies for signed numbers.
		all = append(all, entryOf{max(h.Sum64()&(1<<63-1), 3), name})
	}
	slices.SortFunc(all, func(a, b entryOf) int { return cmp.Or(cmp.Compare(a.cookie, b.cookie), cmp.Compare(a.name, b.name)) })
	return all
}

// Sizes on the wire, from above.
const (
	listingBytes  = 4 + 84 + 8 + 8 // attributes of the directory, verifier, the two ends
	entryBytes    = 4 + 8 + 8      // follows, file id, cookie
	entryMoreMore = 4 + 84 + 4     // attributes, whether a handle follows
)

func readDir(c *call) func() error {
	handle, cookie, _, count := c.in.handle(), c.in.u64(), c.in.u64(), c.in.u32()
	return func() error { return c.listing(handle, cookie, count, count, false) }
}

func readDirPlus(c *call) func() error {
	handle, cookie, _, dirCount, maxCount := c.in.handle(), c.in.u64(), c.in.u64(), c.in.u32(), c.in.u32()
	return func() error { return c.listing(handle, cookie, dirCount, maxCount, true) }
}

// listing writes as many entries after cookie as fit: dirCount bounds the bytes of
// names and numbers, maxCount all of them.
func (c *call) listing(handle []byte, cookie uint64, dirCount, maxCount uint32, plus bool) error {
	return c.on(handle, reads, func(dir *file) error {
		if err := dir.directory(); err != nil {
			return err
		}
		names, err := dir.names(dir.name)
		if err != nil {
			return err
		}
		c.after(dir.place, dir.name)
		c.out.u64(0) // no verifier: cookies stay good
		entries := entriesOf(names)
		at, _ := slices.BinarySearchFunc(entries, cookie, func(e entryOf, after uint64) int {
			if e.cookie <= after {
				return -1
			}
			return 1
		})
		named, total, wrote := 0, listingBytes, 0
		for _, e := range entries[at:] {
			size := entryBytes + padded(len(e.name))
			named += size
			total += size
			if plus {
				total += entryMoreMore + padded(handleBytes)
			}
			if total > int(min(maxCount, maxData)) || plus && named > int(min(dirCount, maxData)) {
				if wrote == 0 {
					return statusTooSmall
				}
				c.out.flag(false)
				c.out.flag(false) // not the end
				return nil
			}
			listed, err := c.listed(dir, e, plus)
			if err != nil {
				return err // a client would take what is not listed for removed
			}
			if listed {
				wrote++
			}
		}
		c.out.flag(false)
		c.out.flag(true)
		return nil
	})
}

// listed writes one entry, unless it has gone.
func (c *call) listed(dir *file, e entryOf, plus bool) (bool, error) {
	handle, st, err := c.resolve(dir, e.name)
	if went(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c.out.flag(true)
	c.out.u64(st.Ino)
	c.out.text(e.name)
	c.out.u64(e.cookie)
	if plus {
		c.afterStat(dir.place, st)
		c.out.flag(true)
		c.out.bytes(handle)
	}
	return true, nil
}
