package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
)

// Buckets of the store inside the pool's database.
var (
	bucketObject = []byte("obj")   // hash -> payload
	bucketRef    = []byte("ref")   // object hash -> full, meta counts
	bucketChunk  = []byte("chunk") // hash -> count and place
	bucketPack   = []byte("pack")  // id -> size, live bytes
	bucketDead   = []byte("dead")  // 'o' or 'c' + hash: to be swept
	bucketStage  = []byte("stage") // owner + hash: references of unfinished work
)

// ErrMissing says that something refers to an object or chunk that is not here.
var ErrMissing = errors.New("object or chunk is missing")

// ErrCorrupt says that stored bytes no longer have their hash.
var ErrCorrupt = errors.New("stored chunk does not match its checksum")

// Store holds the content of one pool. All methods are safe for concurrent use.
type Store struct {
	db    *bolt.DB
	packs *packs
	limit int64 // bytes of chunks, 0 for none

	used    atomic.Int64 // live bytes of chunks
	pending atomic.Int64 // written by batches that are not committed

	// gate keeps Sweep away from between "this chunk exists" and "it is pinned".
	gate sync.RWMutex
	pins struct {
		sync.Mutex
		count map[tree.Hash]int
	}
}

// Open prepares the store of the database, with packs in dir. limit bounds the
// stored bytes, 0 means none.
func Open(db *bolt.DB, dir string, limit int64) (*Store, error) {
	s := &Store{db: db, limit: limit}
	s.pins.count = map[tree.Hash]int{}
	sizes := map[uint32]int64{}
	err := db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketObject, bucketRef, bucketChunk, bucketPack, bucketDead, bucketStage} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketPack).ForEach(func(k, v []byte) error {
			size, live := decodePair(v)
			sizes[binary.BigEndian.Uint32(k)] = size
			s.used.Add(live)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "packs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s.packs, err = openPacks(dir, sizes)
	return s, err
}

// Close releases descriptors.
func (s *Store) Close() error { return s.packs.close() }

// Used is the bytes of live chunks; Limit their bound, 0 for none.
func (s *Store) Used() int64 { return s.used.Load() }

// Limit is the configured bound in bytes, 0 for none.
func (s *Store) Limit() int64 { return s.limit }

// Object reads a payload. It fits tree.Getter.
func (s *Store) Object(h tree.Hash) (payload []byte, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		payload, err = ObjectIn(tx, h)
		return err
	})
	return payload, err
}

// ObjectIn reads a payload inside a transaction.
func ObjectIn(tx *bolt.Tx, h tree.Hash) ([]byte, error) {
	v := tx.Bucket(bucketObject).Get(h[:])
	if v == nil {
		return nil, fmt.Errorf("object %s: %w", h, ErrMissing)
	}
	return append([]byte(nil), v...), nil
}

// Chunk reads a chunk into buf, which must hold tree.ChunkSize bytes, and
// verifies it.
func (s *Store) Chunk(h tree.Hash, buf []byte) ([]byte, error) {
	at, ok, err := s.find(h)
	if err != nil {
		return nil, err
	}
	if !ok || at.len > len(buf) {
		return nil, fmt.Errorf("chunk %s: %w", h, ErrMissing)
	}
	data := buf[:at.len]
	if err := s.packs.readAt(at, data); err != nil {
		return nil, fmt.Errorf("read chunk %s: %w", h, err)
	}
	if tree.Sum(data) != h {
		return nil, fmt.Errorf("chunk %s in %s at %d: %w", h, packName(at.pack), at.off, ErrCorrupt)
	}
	return data, nil
}

func (s *Store) find(h tree.Hash) (at loc, ok bool, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		if v := tx.Bucket(bucketChunk).Get(h[:]); v != nil {
			_, at = decodeChunk(v)
			ok = true
		}
		return nil
	})
	return at, ok, err
}

// ChunkLen gives the stored length of a chunk, 0 when it is not here.
func (s *Store) ChunkLen(h tree.Hash) int {
	at, _, _ := s.find(h)
	return at.len
}

// ChunkLenIn is ChunkLen inside a transaction.
func ChunkLenIn(tx *bolt.Tx, h tree.Hash) int {
	v := tx.Bucket(bucketChunk).Get(h[:])
	if v == nil {
		return 0
	}
	_, at := decodeChunk(v)
	return at.len
}

// reserve accounts n bytes about to be written, or refuses.
func (s *Store) reserve(n int) error {
	if total := s.pending.Add(int64(n)) + s.used.Load(); s.limit > 0 && total > s.limit {
		s.pending.Add(-int64(n))
		return fmt.Errorf("%w: %d of %d bytes are stored", zfs.ErrNoSpace, s.used.Load(), s.limit)
	}
	return nil
}

// pinExisting pins the chunk if it is stored and tells whether it is. A pinned
// chunk is not swept.
func (s *Store) pinExisting(h tree.Hash) (bool, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	_, ok, err := s.find(h)
	if ok {
		s.pins.Lock()
		s.pins.count[h]++
		s.pins.Unlock()
	}
	return ok, err
}

func (s *Store) unpin(list map[tree.Hash]struct{}) {
	s.pins.Lock()
	defer s.pins.Unlock()
	for h := range list {
		if s.pins.count[h]--; s.pins.count[h] <= 0 {
			delete(s.pins.count, h)
		}
	}
}

func (s *Store) pinned(h tree.Hash) bool {
	s.pins.Lock()
	defer s.pins.Unlock()
	return s.pins.count[h] > 0
}

func encodeChunk(refs uint32, at loc) []byte {
	b := binary.BigEndian.AppendUint32(nil, refs)
	b = binary.BigEndian.AppendUint32(b, at.pack)
	b = binary.BigEndian.AppendUint64(b, uint64(at.off))
	return binary.BigEndian.AppendUint32(b, uint32(at.len))
}

func decodeChunk(v []byte) (refs uint32, at loc) {
	at = loc{
		pack: binary.BigEndian.Uint32(v[4:]),
		off:  int64(binary.BigEndian.Uint64(v[8:])),
		len:  int(binary.BigEndian.Uint32(v[16:])),
	}
	return binary.BigEndian.Uint32(v), at
}

func encodePair(a, b int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(a)), uint64(b))
}

func decodePair(v []byte) (a, b int64) {
	return int64(binary.BigEndian.Uint64(v)), int64(binary.BigEndian.Uint64(v[8:]))
}
