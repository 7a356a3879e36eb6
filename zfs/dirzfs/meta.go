package dirzfs

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
)

// Buckets of a pool's records; the store has its own.
var (
	bucketPool    = []byte("pool")    // guid, txg
	bucketDataset = []byte("ds")      // name -> datasetRec
	bucketName    = []byte("dsname")  // dataset GUID -> name
	bucketSnap    = []byte("snap")    // dataset GUID + txg -> snapRec
	bucketSnapID  = []byte("snapid")  // txg of a snapshot -> dataset GUID
	bucketMark    = []byte("mark")    // dataset GUID + name -> markRec
	bucketIndex   = []byte("idx")     // dataset GUID -> bucket of path -> stat
	bucketModes   = []byte("modes")   // dataset GUID -> bucket of path -> true mode
	bucketPartial = []byte("partial") // dataset GUID -> partialRec
)

// datasetRec is a dataset. At, Want and the flags describe its directory:
// the files are those of At as far as the index says so, unless clients changed
// them; Want, when Pending, is what they have to become.
type datasetRec struct {
	Name     string `json:"-"`
	GUID     zfs.GUID
	TXG      uint64
	Creation int64
	Props    map[string]string `json:",omitempty"`
	Origin   uint64            `json:",omitempty"` // createtxg of the snapshot it was cloned from

	At      tree.Hash `json:",omitzero"`
	Want    tree.Hash `json:",omitzero"`
	Pending bool      `json:",omitempty"`
	// Started: files of Want may be there already.
	Started bool `json:",omitempty"`
	// Revert: differences to At are to be undone (rollback, or a crash of the
	// machine before the files were synced).
	Revert bool `json:",omitempty"`
	// Boot is the boot in which the files were written without a sync, "" if synced.
	Boot string `json:",omitempty"`
	// Masked: write bits are cleared, bucketModes has the true modes.
	Masked bool `json:",omitempty"`
	// MaskDone: they are cleared everywhere.
	MaskDone bool `json:",omitempty"`
	// Inconsistent: the first receive has not finished.
	Inconsistent bool `json:",omitempty"`
}

// snapRec is a snapshot.
type snapRec struct {
	Name       string
	GUID       zfs.GUID
	TXG        uint64
	Creation   int64
	Root       tree.Hash
	Referenced int64
	Written    int64            // bytes that its predecessor lacks
	Holds      map[string]int64 `json:",omitempty"` // tag -> unix seconds
	Dataset    zfs.GUID         `json:"-"`
}

// markRec is a bookmark. Root keeps the objects, not the chunks.
type markRec struct {
	Name     string `json:"-"`
	GUID     zfs.GUID
	TXG      uint64
	Creation int64
	Root     tree.Hash
}

// partialRec is a receive that was cut.
type partialRec struct {
	Head  streamHead
	Snap  string // name to give
	Items int64  // complete and durable
	Bytes int64
}

// meta reads and writes the records of one transaction.
type meta struct{ tx *bolt.Tx }

func idKey(ids ...uint64) (k []byte) {
	for _, id := range ids {
		k = binary.BigEndian.AppendUint64(k, id)
	}
	return k
}

func put[T any](b *bolt.Bucket, key []byte, v T) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	return b.Put(key, data)
}

func get[T any](b *bolt.Bucket, key []byte) (v T, ok bool, err error) {
	data := b.Get(key)
	if data == nil {
		return v, false, nil
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, false, fmt.Errorf("decode record %q: %w", key, err)
	}
	return v, true, nil
}

func (m meta) create() error {
	for _, b := range [][]byte{bucketPool, bucketDataset, bucketName, bucketSnap, bucketSnapID, bucketMark, bucketIndex, bucketModes, bucketPartial} {
		if _, err := m.tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	return nil
}

func (m meta) number(key string) uint64 {
	v := m.tx.Bucket(bucketPool).Get([]byte(key))
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func (m meta) setNumber(key string, n uint64) error {
	return m.tx.Bucket(bucketPool).Put([]byte(key), idKey(n))
}

// nextTXG advances the pool's counter.
func (m meta) nextTXG() (uint64, error) {
	n := m.number("txg") + 1
	return n, m.setNumber("txg", n)
}

// dataset finds one by name.
func (m meta) dataset(name string) (*datasetRec, error) {
	d, ok, err := get[datasetRec](m.tx.Bucket(bucketDataset), []byte(name))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s", zfs.ErrNotExist, name)
	}
	d.Name = name
	return &d, nil
}

func (m meta) byGUID(id zfs.GUID) (*datasetRec, error) {
	name := m.tx.Bucket(bucketName).Get(idKey(uint64(id)))
	if name == nil {
		return nil, fmt.Errorf("%w: dataset %v", zfs.ErrNotExist, id)
	}
	return m.dataset(string(name))
}

func (m meta) putDataset(d *datasetRec) error {
	return errors.Join(put(m.tx.Bucket(bucketDataset), []byte(d.Name), d),
		m.tx.Bucket(bucketName).Put(idKey(uint64(d.GUID)), []byte(d.Name)))
}

// below gives root, if it exists, and everything below it in name order.
func (m meta) below(root string) ([]*datasetRec, error) {
	var list []*datasetRec
	c := m.tx.Bucket(bucketDataset).Cursor()
	for k, v := c.Seek([]byte(root)); k != nil && strings.HasPrefix(string(k), root); k, v = c.Next() {
		name := string(k)
		if name != root && name[len(root)] != '/' {
			continue // pool/ab when asked for pool/a
		}
		d := &datasetRec{Name: name}
		if err := json.Unmarshal(v, d); err != nil {
			return nil, fmt.Errorf("decode record %q: %w", k, err)
		}
		list = append(list, d)
	}
	return list, nil
}

// poolName is the shortest dataset name, which sorts first.
func (m meta) poolName() string {
	k, _ := m.tx.Bucket(bucketDataset).Cursor().First()
	return string(k)
}

// snapshots gives those of a dataset in createtxg order.
func (m meta) snapshots(ds zfs.GUID) ([]*snapRec, error) {
	var list []*snapRec
	prefix := idKey(uint64(ds))
	c := m.tx.Bucket(bucketSnap).Cursor()
	for k, v := c.Seek(prefix); k != nil && binary.BigEndian.Uint64(k) == uint64(ds); k, v = c.Next() {
		s := &snapRec{Dataset: ds}
		if err := json.Unmarshal(v, s); err != nil {
			return nil, fmt.Errorf("decode record %q: %w", k, err)
		}
		list = append(list, s)
	}
	return list, nil
}

func (m meta) newest(ds zfs.GUID) (*snapRec, error) {
	list, err := m.snapshots(ds)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[len(list)-1], nil
}

func (m meta) snapshot(ds *datasetRec, name string) (*snapRec, error) {
	list, err := m.snapshots(ds.GUID)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if s.Name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: %s@%s", zfs.ErrNotExist, ds.Name, name)
}

// namedSnapshot finds "dataset@name".
func (m meta) namedSnapshot(full string) (*datasetRec, *snapRec, error) {
	name, snap, err := zfs.ValidateSnapshot(full)
	if err != nil {
		return nil, nil, err
	}
	d, err := m.dataset(name)
	if err != nil {
		return nil, nil, err
	}
	s, err := m.snapshot(d, snap)
	return d, s, err
}

// origin finds a snapshot by its createtxg, which no other snapshot of the pool has.
func (m meta) origin(txg uint64) (*snapRec, error) {
	ds := m.tx.Bucket(bucketSnapID).Get(idKey(txg))
	if ds == nil {
		return nil, fmt.Errorf("%w: snapshot of txg %d", zfs.ErrNotExist, txg)
	}
	s, ok, err := get[snapRec](m.tx.Bucket(bucketSnap), append(append([]byte(nil), ds...), idKey(txg)...))
	if err != nil || !ok {
		return nil, errors.Join(err, zfs.ErrNotExist)
	}
	s.Dataset = zfs.GUID(binary.BigEndian.Uint64(ds))
	return &s, nil
}

func (m meta) putSnapshot(s *snapRec) error {
	return errors.Join(put(m.tx.Bucket(bucketSnap), idKey(uint64(s.Dataset), s.TXG), s),
		m.tx.Bucket(bucketSnapID).Put(idKey(s.TXG), idKey(uint64(s.Dataset))))
}

func (m meta) deleteSnapshot(s *snapRec) error {
	return errors.Join(m.tx.Bucket(bucketSnap).Delete(idKey(uint64(s.Dataset), s.TXG)),
		m.tx.Bucket(bucketSnapID).Delete(idKey(s.TXG)))
}

// bookmarks gives those of a dataset in name order.
func (m meta) bookmarks(ds zfs.GUID) ([]*markRec, error) {
	var list []*markRec
	c := m.tx.Bucket(bucketMark).Cursor()
	for k, v := c.Seek(idKey(uint64(ds))); k != nil && binary.BigEndian.Uint64(k) == uint64(ds); k, v = c.Next() {
		b := &markRec{Name: string(k[8:])}
		if err := json.Unmarshal(v, b); err != nil {
			return nil, fmt.Errorf("decode record %q: %w", k, err)
		}
		list = append(list, b)
	}
	return list, nil
}

func markKey(ds zfs.GUID, name string) []byte { return append(idKey(uint64(ds)), name...) }

func (m meta) bookmark(ds *datasetRec, name string) (*markRec, error) {
	b, ok, err := get[markRec](m.tx.Bucket(bucketMark), markKey(ds.GUID, name))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s#%s", zfs.ErrNotExist, ds.Name, name)
	}
	b.Name = name
	return &b, nil
}

func (m meta) partial(ds zfs.GUID) (*partialRec, error) {
	p, ok, err := get[partialRec](m.tx.Bucket(bucketPartial), idKey(uint64(ds)))
	if err != nil || !ok {
		return nil, err
	}
	return &p, nil
}

// baseRoot is what the head started from: the newest snapshot, or the origin.
func (m meta) baseRoot(d *datasetRec) (root tree.Hash, ok bool, err error) {
	s, err := m.newest(d.GUID)
	if err == nil && s == nil && d.Origin != 0 {
		s, err = m.origin(d.Origin)
	}
	if err != nil || s == nil {
		return tree.Hash{}, false, err
	}
	return s.Root, true, nil
}

func unixTime(sec int64) time.Time { return time.Unix(sec, 0).UTC() }
