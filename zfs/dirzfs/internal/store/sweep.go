package store

import (
	"encoding/binary"
	"errors"

	bolt "go.etcd.io/bbolt"

	"tarn/zfs/dirzfs/internal/tree"
)

// sweepStep bounds one transaction of Sweep.
const sweepStep = 10_000

// Sweep deletes what has no references: records first, then bytes. A crash in
// between costs the bytes of a hole until its pack goes.
func (s *Store) Sweep() error {
	for from := []byte(nil); ; {
		sw := sweeper{s: s, touched: map[uint32]int64{}}
		next, err := sw.step(from)
		if err != nil || next == nil {
			return err
		}
		from = next
	}
}

// sweeper is one step.
type sweeper struct {
	s       *Store
	holes   []loc
	touched map[uint32]int64 // bytes that died per pack
	empty   []uint32
}

func (w *sweeper) step(from []byte) (next []byte, err error) {
	w.s.gate.Lock()
	defer w.s.gate.Unlock()
	if idle, err := w.idle(from); idle || err != nil {
		return nil, err
	}
	err = w.s.db.Update(func(tx *bolt.Tx) error {
		if next, err = w.collect(tx, from); err != nil {
			return err
		}
		return w.settlePacks(tx)
	})
	if err != nil {
		return nil, err
	}
	return next, w.free()
}

// idle spares the transaction, and its sync, when there is nothing to do.
func (w *sweeper) idle(from []byte) (none bool, err error) {
	err = w.s.db.View(func(tx *bolt.Tx) error {
		k, _ := tx.Bucket(bucketDead).Cursor().Seek(from)
		none = k == nil
		return nil
	})
	return none, err
}

func (w *sweeper) collect(tx *bolt.Tx, from []byte) (next []byte, err error) {
	var keys [][]byte
	c := tx.Bucket(bucketDead).Cursor()
	for k, _ := c.Seek(from); k != nil; k, _ = c.Next() {
		if len(keys) == sweepStep {
			next = append([]byte(nil), k...)
			break
		}
		keys = append(keys, append([]byte(nil), k...))
	}
	for _, k := range keys {
		if err := w.bury(tx, k); err != nil {
			return nil, err
		}
	}
	return next, nil
}

func (w *sweeper) bury(tx *bolt.Tx, key []byte) error {
	var h tree.Hash
	copy(h[:], key[1:])
	if key[0] == 'o' {
		if err := buryObject(tx, h); err != nil {
			return err
		}
	} else if w.s.pinned(h) {
		return nil // stays marked: the batch may give up
	} else if err := w.buryChunk(tx, h); err != nil {
		return err
	}
	return tx.Bucket(bucketDead).Delete(key)
}

func buryObject(tx *bolt.Tx, h tree.Hash) error {
	if counts, ok := refCounts(tx, h); !ok || counts != [2]uint32{} {
		return nil
	}
	return errors.Join(tx.Bucket(bucketObject).Delete(h[:]), tx.Bucket(bucketRef).Delete(h[:]))
}

func (w *sweeper) buryChunk(tx *bolt.Tx, h tree.Hash) error {
	v := tx.Bucket(bucketChunk).Get(h[:])
	if v == nil {
		return nil
	}
	refs, at := decodeChunk(v)
	if refs > 0 {
		return nil
	}
	w.holes = append(w.holes, at)
	w.touched[at.pack] += int64(at.len)
	return tx.Bucket(bucketChunk).Delete(h[:])
}

func (w *sweeper) settlePacks(tx *bolt.Tx) error {
	for id, died := range w.touched {
		key := binary.BigEndian.AppendUint32(nil, id)
		size, live := decodePair(tx.Bucket(bucketPack).Get(key))
		put := func() error { return tx.Bucket(bucketPack).Put(key, encodePair(size, live-died)) }
		if live == died && w.s.packs.retire(id) {
			w.empty = append(w.empty, id)
			put = func() error { return tx.Bucket(bucketPack).Delete(key) }
		}
		if err := put(); err != nil {
			return err
		}
	}
	return nil
}

func (w *sweeper) free() error {
	for _, at := range w.holes {
		w.s.used.Add(-int64(at.len))
	}
	w.s.packs.punch(w.holes)
	var errs []error
	for _, id := range w.empty {
		errs = append(errs, w.s.packs.remove(id))
	}
	return errors.Join(errs...)
}
