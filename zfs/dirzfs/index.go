package dirzfs

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	bolt "go.etcd.io/bbolt"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
)

// The index of a dataset remembers, per path, the signature that a live node had
// when it was equal to the node of that path in the tree At.

// granularity bounds how coarse a file system's clock may be: a change within this
// time after a read could leave the ctime as it was, so such a read is not trusted.
const granularity = 20e6 // ns

// indexKey sorts a directory's entries together: parent, NUL, name.
func indexKey(dir, name string) []byte {
	k := make([]byte, 0, len(dir)+1+len(name))
	k = append(append(k, dir...), 0)
	return append(k, name...)
}

func subBucket(tx *bolt.Tx, parent []byte, ds zfs.GUID) *bolt.Bucket {
	return tx.Bucket(parent).Bucket(idKey(uint64(ds)))
}

func ensureSubBucket(tx *bolt.Tx, parent []byte, ds zfs.GUID) (*bolt.Bucket, error) {
	return tx.Bucket(parent).CreateBucketIfNotExists(idKey(uint64(ds)))
}

func dropSubBucket(tx *bolt.Tx, parent []byte, ds zfs.GUID) error {
	if subBucket(tx, parent, ds) == nil {
		return nil
	}
	return tx.Bucket(parent).DeleteBucket(idKey(uint64(ds)))
}

// loadIndex reads what is known of one directory's entries.
func (p *pool) loadIndex(ds zfs.GUID, dir string) (map[string]signature, error) {
	list := map[string]signature{}
	err := p.db.View(func(tx *bolt.Tx) error {
		b := subBucket(tx, bucketIndex, ds)
		if b == nil {
			return nil
		}
		prefix := indexKey(dir, "")
		c := b.Cursor()
		for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			list[string(k[len(prefix):])] = signature(v)
		}
		return nil
	})
	return list, err
}

// indexChange is what a walk or an apply learnt. The zero value is empty.
type indexChange struct {
	put  map[string]signature
	drop [][]byte
	gone []string // directories with all below
}

func (c *indexChange) set(dir, name string, s signature) {
	if c.put == nil {
		c.put = map[string]signature{}
	}
	c.put[string(indexKey(dir, name))] = s
}

func (c *indexChange) forget(dir, name string) {
	c.drop = append(c.drop, indexKey(dir, name))
}

func (c *indexChange) empty() bool { return len(c.put)+len(c.drop)+len(c.gone) == 0 }

func (c *indexChange) write(tx *bolt.Tx, ds zfs.GUID) error {
	if c.empty() {
		return nil
	}
	b, err := ensureSubBucket(tx, bucketIndex, ds)
	if err != nil {
		return err
	}
	for _, dir := range c.gone {
		if err := dropDir(b, dir); err != nil {
			return err
		}
	}
	for _, k := range c.drop {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	for k, s := range c.put {
		if len(k) > bolt.MaxKeySize {
			continue // what is not in the index is read
		}
		if err := b.Put([]byte(k), s[:]); err != nil {
			return err
		}
	}
	return nil
}

func dropDir(b *bolt.Bucket, dir string) error {
	for _, prefix := range [][]byte{indexKey(dir, ""), []byte(dir + "/")} {
		var keys [][]byte
		c := b.Cursor()
		for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			keys = append(keys, bytes.Clone(k))
		}
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
	}
	return nil
}

// bootKey has the boot in which the pool was used last.
var bootKey = []byte("boot")

// distrustIndexes forgets all signatures after a boot: a loss of power can leave a file's
// new content with its old times, or the other way round.
func (p *pool) distrustIndexes(m meta) error {
	b := m.tx.Bucket(bucketPool)
	if string(b.Get(bootKey)) == p.boot {
		return nil
	}
	if err := m.tx.DeleteBucket(bucketIndex); err != nil {
		return err
	}
	if _, err := m.tx.CreateBucket(bucketIndex); err != nil {
		return err
	}
	return b.Put(bootKey, []byte(p.boot))
}

// settled tells whether a node changed long enough ago for its signature to catch
// every later change.
func settled(st *unix.Stat_t, now int64) bool {
	return st.Ctim.Nano()+granularity < now
}

// modeKey is a path, or the hash of one that is too long for a key.
func modeKey(path string) []byte {
	if len(path) >= bolt.MaxKeySize {
		return []byte("//" + tree.Sum([]byte(path)).String())
	}
	return []byte("/" + path)
}

// loadMode reads the true mode that readonly=on hid, if one is on record.
func (p *pool) loadMode(ds zfs.GUID, path string) (mode uint32, ok bool, err error) {
	err = p.db.View(func(tx *bolt.Tx) error {
		b := subBucket(tx, bucketModes, ds)
		if b == nil {
			return nil
		}
		if v := b.Get(modeKey(path)); v != nil {
			mode, ok = binary.BigEndian.Uint32(v), true
		}
		return nil
	})
	return mode, ok, err
}
