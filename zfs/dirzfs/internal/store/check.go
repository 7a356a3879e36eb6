package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"tarn/zfs/dirzfs/internal/tree"
)

// Roots are the references that the caller's records hold, with repetitions.
type Roots map[Class][]tree.Hash

// Check compares the reference counts with what the roots, and staged work, reach:
// a count too low would lose data, one too high leak space. It also checks that
// nothing unreferenced escapes Sweep and that the packs' sums are right. It reads
// no chunk.
func Check(tx *bolt.Tx, roots Roots) error {
	c := checker{tx: tx, objects: map[tree.Hash][2]uint32{}, chunks: map[tree.Hash]uint32{}}
	for class, list := range roots {
		for _, h := range list {
			if err := c.ref(h, class); err != nil {
				return err
			}
		}
	}
	err := tx.Bucket(bucketStage).ForEach(func(k, _ []byte) error {
		var h tree.Hash
		copy(h[:], k[9:])
		if k[8] == 'c' {
			c.chunks[h]++
			return nil
		}
		return c.ref(h, Full)
	})
	return errors.Join(err, c.compareObjects(), c.compareChunks())
}

type checker struct {
	tx      *bolt.Tx
	objects map[tree.Hash][2]uint32
	chunks  map[tree.Hash]uint32
}

func (c *checker) ref(h tree.Hash, class Class) error {
	if h.IsZero() {
		return nil
	}
	n := c.objects[h]
	n[class]++
	c.objects[h] = n
	if n[class] > 1 {
		return nil
	}
	return eachChild(c.tx, h, class,
		func(_ *bolt.Tx, h tree.Hash, class Class) error { return c.ref(h, class) },
		func(_ *bolt.Tx, h tree.Hash) error { c.chunks[h]++; return nil })
}

func (c *checker) compareObjects() error {
	return c.tx.Bucket(bucketRef).ForEach(func(k, _ []byte) error {
		h := tree.Hash(k)
		have, _ := refCounts(c.tx, h)
		if want := c.objects[h]; have != want {
			return fmt.Errorf("object %s: counted %v, reached %v", h, have, want)
		}
		if have == [2]uint32{} {
			return c.isDead('o', h)
		}
		return nil
	})
}

func (c *checker) isDead(kind byte, h tree.Hash) error {
	if c.tx.Bucket(bucketDead).Get(append([]byte{kind}, h[:]...)) == nil {
		return fmt.Errorf("%c %s has no references and would never be swept", kind, h)
	}
	return nil
}

func (c *checker) compareChunks() error {
	live := map[uint32]int64{}
	err := c.tx.Bucket(bucketChunk).ForEach(func(k, v []byte) error {
		h := tree.Hash(k)
		refs, at := decodeChunk(v)
		if refs != c.chunks[h] {
			return fmt.Errorf("chunk %s: counted %d, reached %d", h, refs, c.chunks[h])
		}
		delete(c.chunks, h)
		live[at.pack] += int64(at.len)
		if refs == 0 {
			return c.isDead('c', h)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for h := range c.chunks {
		return fmt.Errorf("chunk %s: %w", h, ErrMissing)
	}
	return c.tx.Bucket(bucketPack).ForEach(func(k, v []byte) error {
		id := binary.BigEndian.Uint32(k)
		if _, sum := decodePair(v); sum != live[id] {
			return fmt.Errorf("%s: %d live bytes on record, %d counted", packName(id), sum, live[id])
		}
		return nil
	})
}

// ReadAll reads and verifies every chunk.
func (s *Store) ReadAll() error {
	var list []tree.Hash
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketChunk).ForEach(func(k, _ []byte) error {
			list = append(list, tree.Hash(k))
			return nil
		})
	})
	buf := make([]byte, tree.ChunkSize)
	for _, h := range list {
		if _, err := s.Chunk(h, buf); err != nil && s.ChunkLen(h) > 0 { // swept meanwhile is fine
			return err
		}
	}
	return err
}
