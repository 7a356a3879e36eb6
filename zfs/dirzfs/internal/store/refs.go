package store

import (
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"tarn/zfs/dirzfs/internal/tree"
)

// Class is what a reference keeps alive. An object passes a class on to its
// children while it has at least one reference of that class.
type Class int

// Full keeps objects and chunks: snapshots and heads. Meta keeps objects only:
// bookmarks, which know what was there but no longer have it.
const (
	Full Class = iota
	Meta
)

// Ref adds one reference to an object. Missing objects or chunks below it are
// ErrMissing. Zero is nothing and needs no reference.
func Ref(tx *bolt.Tx, h tree.Hash, class Class) error {
	if h.IsZero() {
		return nil
	}
	counts, ok := refCounts(tx, h)
	if !ok {
		return fmt.Errorf("object %s: %w", h, ErrMissing)
	}
	counts[class]++
	if err := putCounts(tx, h, counts); err != nil || counts[class] > 1 {
		return err
	}
	return eachChild(tx, h, class, Ref, refChunk)
}

// Unref takes one reference away. What has none left is swept later.
func Unref(tx *bolt.Tx, h tree.Hash, class Class) error {
	if h.IsZero() {
		return nil
	}
	counts, ok := refCounts(tx, h)
	if !ok || counts[class] == 0 {
		return fmt.Errorf("object %s: %w: reference count below zero", h, ErrMissing)
	}
	counts[class]--
	if err := putCounts(tx, h, counts); err != nil || counts[class] > 0 {
		return err
	}
	if counts == [2]uint32{} {
		if err := markDead(tx, 'o', h); err != nil {
			return err
		}
	}
	return eachChild(tx, h, class, Unref, unrefChunk)
}

func eachChild(tx *bolt.Tx, h tree.Hash, class Class, object func(*bolt.Tx, tree.Hash, Class) error, chunk func(*bolt.Tx, tree.Hash) error) error {
	payload, err := ObjectIn(tx, h)
	if err != nil {
		return err
	}
	objects, chunks, err := tree.Children(payload)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := object(tx, o, class); err != nil {
			return err
		}
	}
	for _, c := range chunks {
		if class == Meta {
			break
		}
		if err := chunk(tx, c); err != nil {
			return err
		}
	}
	return nil
}

func refCounts(tx *bolt.Tx, h tree.Hash) (counts [2]uint32, ok bool) {
	v := tx.Bucket(bucketRef).Get(h[:])
	if v == nil {
		return counts, false
	}
	return [2]uint32{binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:])}, true
}

func putCounts(tx *bolt.Tx, h tree.Hash, c [2]uint32) error {
	v := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, c[0]), c[1])
	return tx.Bucket(bucketRef).Put(h[:], v)
}

func refChunk(tx *bolt.Tx, h tree.Hash) error {
	v := tx.Bucket(bucketChunk).Get(h[:])
	if v == nil {
		return fmt.Errorf("chunk %s: %w", h, ErrMissing)
	}
	refs, at := decodeChunk(v)
	return tx.Bucket(bucketChunk).Put(h[:], encodeChunk(refs+1, at))
}

func unrefChunk(tx *bolt.Tx, h tree.Hash) error {
	v := tx.Bucket(bucketChunk).Get(h[:])
	if v == nil {
		return fmt.Errorf("chunk %s: %w", h, ErrMissing)
	}
	refs, at := decodeChunk(v)
	if refs == 0 {
		return fmt.Errorf("chunk %s: %w: reference count below zero", h, ErrMissing)
	}
	if refs == 1 {
		if err := markDead(tx, 'c', h); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketChunk).Put(h[:], encodeChunk(refs-1, at))
}

func markDead(tx *bolt.Tx, kind byte, h tree.Hash) error {
	return tx.Bucket(bucketDead).Put(append([]byte{kind}, h[:]...), []byte{})
}

// DropStage releases every reference that the named owner's batches hold.
func DropStage(tx *bolt.Tx, owner uint64) error {
	prefix := binary.BigEndian.AppendUint64(nil, owner)
	c := tx.Bucket(bucketStage).Cursor()
	var keys [][]byte
	for k, _ := c.Seek(prefix); len(k) == 41 && binary.BigEndian.Uint64(k) == owner; k, _ = c.Next() {
		keys = append(keys, append([]byte(nil), k...))
	}
	for _, k := range keys {
		if err := dropStaged(tx, k); err != nil {
			return err
		}
	}
	return nil
}

func dropStaged(tx *bolt.Tx, k []byte) error {
	var h tree.Hash
	copy(h[:], k[9:])
	unref := func() error { return Unref(tx, h, Full) }
	if k[8] == 'c' {
		unref = func() error { return unrefChunk(tx, h) }
	}
	if err := unref(); err != nil {
		return err
	}
	return tx.Bucket(bucketStage).Delete(k)
}

// StageOwners lists who has staged references.
func StageOwners(tx *bolt.Tx) []uint64 {
	var owners []uint64
	c := tx.Bucket(bucketStage).Cursor()
	for k, _ := c.First(); k != nil; {
		o := binary.BigEndian.Uint64(k)
		owners = append(owners, o)
		if o++; o == 0 {
			break
		}
		k, _ = c.Seek(binary.BigEndian.AppendUint64(nil, o))
	}
	return owners
}

// Unused is the bytes of the chunks that nothing refers to, which the next sweep frees.
func Unused(tx *bolt.Tx) (total int64) {
	c := tx.Bucket(bucketDead).Cursor()
	for k, _ := c.Seek([]byte{'c'}); len(k) > 0 && k[0] == 'c'; k, _ = c.Next() {
		v := tx.Bucket(bucketChunk).Get(k[1:])
		if v == nil {
			continue
		}
		if refs, at := decodeChunk(v); refs == 0 {
			total += int64(at.len)
		}
	}
	return total
}
