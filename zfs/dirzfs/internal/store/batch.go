package store

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"

	"tarn/zfs/dirzfs/internal/tree"
)

// Batch collects chunks and objects for one transaction: add them, Sync, Merge
// inside the transaction, refer to them there, Finish in the same one, then Close.
// Adding is safe for concurrent use; the rest belongs to one goroutine.
type Batch struct {
	s *Store

	mu      sync.Mutex
	chunks  map[tree.Hash]loc // written by this batch
	pins    map[tree.Hash]struct{}
	claimed map[tree.Hash]struct{} // being looked at or written
	objects map[tree.Hash][]byte
	order   []tree.Hash
	bytes   int64 // written, not committed
	w       *writer
	size    int64 // of the pack after Sync
	merged  int64 // bytes that Merge made live
}

// NewBatch starts an empty batch.
func (s *Store) NewBatch() *Batch {
	b := &Batch{s: s}
	b.reset()
	return b
}

func (b *Batch) reset() {
	b.chunks = map[tree.Hash]loc{}
	b.pins = map[tree.Hash]struct{}{}
	b.claimed = map[tree.Hash]struct{}{}
	b.objects = map[tree.Hash][]byte{}
	b.order = nil
	b.bytes, b.merged = 0, 0
}

// Pending is the bytes added since the last commit.
func (b *Batch) Pending() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

// Chunk adds a chunk whose hash is h; data are not kept. zfs.ErrNoSpace when the
// store is full.
func (b *Batch) Chunk(h tree.Hash, data []byte) error {
	w, ok := b.claim(h)
	if !ok {
		return nil
	}
	exists, err := b.s.pinExisting(h)
	if err != nil {
		return err
	}
	if exists {
		b.mu.Lock()
		b.pins[h] = struct{}{}
		b.mu.Unlock()
		return nil
	}
	if err := b.s.reserve(len(data)); err != nil {
		return err
	}
	at, err := w.append(data)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes += int64(len(data))
	if err == nil {
		b.chunks[h] = at
	}
	return err
}

func (b *Batch) claim(h tree.Hash) (*writer, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.claimed[h]; ok {
		return nil, false
	}
	b.claimed[h] = struct{}{}
	if b.w == nil {
		b.w = newWriter(b.s.packs)
	}
	return b.w, true
}

// Object adds an object whose hash is h. It fits tree.Putter.
func (b *Batch) Object(h tree.Hash, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.objects[h]; !ok {
		b.objects[h] = payload
		b.order = append(b.order, h)
	}
	return nil
}

// Get reads an object of the batch or of the store. It fits tree.Getter.
func (b *Batch) Get(h tree.Hash) ([]byte, error) {
	b.mu.Lock()
	payload, ok := b.objects[h]
	b.mu.Unlock()
	if ok {
		return payload, nil
	}
	return b.s.Object(h)
}

// Has tells whether the batch or the store has an object.
func (b *Batch) Has(h tree.Hash) bool {
	_, err := b.Get(h)
	return err == nil
}

// Sync makes the chunks durable. Call it before the transaction.
func (b *Batch) Sync() (err error) {
	if b.w != nil {
		b.size, err = b.w.sync()
	}
	return err
}

// Merge writes the records, without references.
func (b *Batch) Merge(tx *bolt.Tx) error {
	if err := b.mergeChunks(tx); err != nil {
		return err
	}
	for _, h := range b.order {
		if _, ok := refCounts(tx, h); ok {
			continue
		}
		if err := tx.Bucket(bucketObject).Put(h[:], b.objects[h]); err != nil {
			return err
		}
		if err := putCounts(tx, h, [2]uint32{}); err != nil {
			return err
		}
	}
	return nil
}

func (b *Batch) mergeChunks(tx *bolt.Tx) error {
	if len(b.chunks) == 0 {
		return nil
	}
	bucket, live := tx.Bucket(bucketChunk), int64(0)
	for _, h := range sortedHashes(b.chunks) {
		if bucket.Get(h[:]) != nil {
			continue // another batch was faster: our copy is dead space
		}
		at := b.chunks[h]
		if err := bucket.Put(h[:], encodeChunk(0, at)); err != nil {
			return err
		}
		live += int64(at.len)
	}
	b.merged = live
	key := binary.BigEndian.AppendUint32(nil, b.w.id)
	if v := tx.Bucket(bucketPack).Get(key); v != nil {
		_, old := decodePair(v)
		live += old
	}
	return tx.Bucket(bucketPack).Put(key, encodePair(b.size, live))
}

func sortedHashes(m map[tree.Hash]loc) []tree.Hash {
	list := make([]tree.Hash, 0, len(m))
	for h := range m {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b tree.Hash) int { return slices.Compare(a[:], b[:]) })
	return list
}

// Stage gives the owner a reference to everything in the batch, so that it
// survives until DropStage.
func (b *Batch) Stage(tx *bolt.Tx, owner uint64) error {
	prefix := binary.BigEndian.AppendUint64(nil, owner)
	for h := range b.claimed {
		if err := stageOne(tx, prefix, 'c', h, func() error { return refChunk(tx, h) }); err != nil {
			return err
		}
	}
	for _, h := range b.order {
		if err := stageOne(tx, prefix, 'o', h, func() error { return Ref(tx, h, Full) }); err != nil {
			return err
		}
	}
	return nil
}

func stageOne(tx *bolt.Tx, prefix []byte, kind byte, h tree.Hash, ref func() error) error {
	key := append(append(slices.Clone(prefix), kind), h[:]...)
	if tx.Bucket(bucketStage).Get(key) != nil {
		return nil
	}
	if err := ref(); err != nil {
		return err
	}
	return tx.Bucket(bucketStage).Put(key, []byte{})
}

// Finish marks what nobody refers to at the end of the transaction for Sweep.
func (b *Batch) Finish(tx *bolt.Tx) error {
	for h := range b.chunks {
		if refs, _ := decodeChunk(tx.Bucket(bucketChunk).Get(h[:])); refs == 0 {
			if err := markDead(tx, 'c', h); err != nil {
				return err
			}
		}
	}
	for _, h := range b.order {
		if counts, _ := refCounts(tx, h); counts == [2]uint32{} {
			if err := markDead(tx, 'o', h); err != nil {
				return err
			}
		}
	}
	return nil
}

// Committed tells the batch that its transaction is durable. It is empty then and
// can be filled again.
func (b *Batch) Committed() error {
	b.s.unpin(b.pins)
	b.s.pending.Add(-b.bytes)
	b.s.used.Add(b.merged)
	var err error
	if b.w != nil {
		err = b.w.close(b.size)
		b.w = nil
	}
	b.reset()
	return err
}

// Close drops what was not committed.
func (b *Batch) Close() error {
	b.s.unpin(b.pins)
	b.s.pending.Add(-b.bytes)
	var err error
	if b.w != nil {
		err = b.w.close(b.w.committed)
		b.w = nil
	}
	b.reset()
	return err
}

// Commit is the usual way to end a batch: sync, one transaction of Merge, fn and
// Finish, Committed. On an error nothing has changed and the batch is closed.
func (b *Batch) Commit(fn func(tx *bolt.Tx) error) error {
	err := b.Sync()
	if err == nil {
		err = b.s.db.Update(func(tx *bolt.Tx) error {
			if err := b.Merge(tx); err != nil {
				return err
			}
			if err := runIf(fn, tx); err != nil {
				return err
			}
			return b.Finish(tx)
		})
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	return b.Committed()
}

func runIf(fn func(tx *bolt.Tx) error, tx *bolt.Tx) error {
	if fn == nil {
		return nil
	}
	return fn(tx)
}
