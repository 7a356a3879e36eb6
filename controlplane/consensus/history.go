package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// checkEntries reads the log of a file whose pages are whole.
func checkEntries(path string) (err error) {
	db, err := raftboltdb.New(raftboltdb.Options{
		Path: path, BoltOptions: &bbolt.Options{ReadOnly: true, Timeout: lockWait}, MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read entries: %v", p)
		}
		err = errors.Join(err, db.Close())
	}()
	return checkLog(sealedLog{db})
}

// Layout of the first two pages of a bbolt file: a header, then the meta record, which
// ends in its own FNV-1a sum.
const (
	metaAt       = 16
	metaSize     = 64
	metaSumAt    = 56
	metaMagic    = 0xED0CDAED
	metaPageSize = 8
)

// checkMetas refuses a file one of whose two meta pages is damaged. bbolt would take
// the other one, which may be older by one transaction: an entry that others count on,
// or a vote. No crash leaves one behind, as the record fits into a sector.
func checkMetas(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	first := make([]byte, metaAt+metaSize)
	if _, err := f.ReadAt(first, 0); err != nil {
		return fmt.Errorf("read meta page 0: %w", err)
	}
	if !metaWhole(first) {
		return errors.New("meta page 0 is damaged: the last entries or a vote may be lost")
	}
	page := int64(binary.LittleEndian.Uint32(first[metaAt+metaPageSize:]))
	second := make([]byte, metaAt+metaSize)
	if page <= 0 || page >= size {
		return fmt.Errorf("pages of %d bytes in a file of %d", page, size)
	}
	if _, err := f.ReadAt(second, page); err != nil {
		return fmt.Errorf("read meta page 1: %w", err)
	}
	if !metaWhole(second) {
		return errors.New("meta page 1 is damaged: the last entries or a vote may be lost")
	}
	return nil
}

func metaWhole(page []byte) bool {
	meta := page[metaAt : metaAt+metaSize]
	sum := fnv.New64a()
	sum.Write(meta[:metaSumAt])
	return binary.LittleEndian.Uint32(meta) == metaMagic && binary.LittleEndian.Uint64(meta[metaSumAt:]) == sum.Sum64()
}

// checkHistory refuses a directory from which the state cannot be built up: no usable
// snapshot and no log from the beginning, or a gap between the newest usable snapshot
// and the log. raft would start, and nobody would notice what is missing.
func checkHistory(logs raft.LogStore, snaps raft.SnapshotStore, cfg Config) error {
	upTo, err := usableSnapshot(snaps, cfg)
	if err != nil {
		return err
	}
	first, err := logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("find first entry: %w", err)
	}
	switch {
	case first > upTo+1:
		return fmt.Errorf("%w: the log begins at entry %d and the newest whole snapshot ends at %d", ErrTorn, first, upTo)
	case first == 0 && upTo == 0:
		return checkBegun(snaps)
	}
	return nil
}

// checkBegun refuses a directory without an entry that has snapshots, none of them whole.
func checkBegun(snaps raft.SnapshotStore) error {
	id, err := newest(snaps)
	if err == nil && id != "" {
		err = fmt.Errorf("%w: no snapshot is whole and there is no log", ErrTorn)
	}
	return err
}

// usableSnapshot returns where the newest whole snapshot ends; 0 if there is none. A
// damaged one is passed over, as raft does. One that this program cannot use stops it.
func usableSnapshot(snaps raft.SnapshotStore, cfg Config) (uint64, error) {
	metas, err := snaps.List()
	if err != nil {
		return 0, fmt.Errorf("list snapshots: %w", err)
	}
	for _, meta := range metas {
		err := verifySnapshot(snaps, meta.ID, cfg.VerifySnapshot)
		if err == nil {
			return meta.Index, nil
		}
		if !errors.Is(err, ErrTorn) {
			return 0, err
		}
		cfg.Logger.Error("a snapshot is damaged; an older one and the log are used, if they reach", "snapshot", meta.ID, "err", err)
	}
	return 0, nil
}
