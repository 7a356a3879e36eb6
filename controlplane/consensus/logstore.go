package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// failOnce makes the first failed write the last one: after a failed fsync nobody
// knows what is on the disk, and a later one that succeeds proves nothing.
type failOnce struct {
	limit  time.Duration
	report func(error)

	mu  sync.Mutex
	err error
}

// do runs one write. One that hangs is reported too: raft's leader would go on sending
// heartbeats, and nobody would be elected in its place (raft#503).
func (f *failOnce) do(write func() error) error {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return err
	}
	timer := time.AfterFunc(f.limit, func() { f.report(ErrStoreStuck) })
	defer timer.Stop()
	if err := write(); err != nil {
		return f.fail(err)
	}
	return nil
}

func (f *failOnce) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrStoreFailed, err)
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
	f.report(err)
	return err
}

// guardedLog ends the node when a write to the log fails or hangs: raft's own follower
// would go on without a log, and its leader step down and come back.
type guardedLog struct {
	raft.LogStore
	once *failOnce
}

// StoreLog implements raft.LogStore.
func (g guardedLog) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (g guardedLog) StoreLogs(logs []*raft.Log) error {
	return g.once.do(func() error { return g.LogStore.StoreLogs(logs) })
}

// DeleteRange implements raft.LogStore.
func (g guardedLog) DeleteRange(first, last uint64) error {
	return g.once.do(func() error { return g.LogStore.DeleteRange(first, last) })
}

// guardedStable does the same for term and vote. raft panics when it cannot save its
// term, which would end the process before anybody said why: while raft runs, its
// goroutine ends there instead.
type guardedStable struct {
	raft.StableStore
	once *failOnce
	// runs is set once raft has goroutines of its own.
	runs *atomic.Bool
}

// Set implements raft.StableStore.
func (g guardedStable) Set(key, val []byte) error {
	return g.once.do(func() error { return g.StableStore.Set(key, val) })
}

// SetUint64 implements raft.StableStore.
func (g guardedStable) SetUint64(key []byte, val uint64) error {
	err := g.once.do(func() error { return g.StableStore.SetUint64(key, val) })
	if err != nil && string(key) == stableTerm && g.runs.Load() {
		runtime.Goexit()
	}
	return err
}

// sealedLog adds a checksum to each entry on disk. The pages of the database have none,
// and the inner ones of a long entry not even a header: zeroed, they would be a command.
type sealedLog struct{ raft.LogStore }

// sealMark begins a checksum in Log.Extensions, which nobody else uses here.
const sealMark = 0x7a

const sealSize = 1 + crc32.Size

// StoreLog implements raft.LogStore.
func (s sealedLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. The entries are raft's and stay as they are.
func (s sealedLog) StoreLogs(logs []*raft.Log) error {
	sealed := make([]raft.Log, len(logs))
	pointers := make([]*raft.Log, len(logs))
	for i, l := range logs {
		sealed[i] = *l
		sealed[i].Extensions = seal(l)
		pointers[i] = &sealed[i]
	}
	return s.LogStore.StoreLogs(pointers)
}

// GetLog implements raft.LogStore. Entries of before there were checksums have none.
func (s sealedLog) GetLog(index uint64, l *raft.Log) error {
	if err := s.LogStore.GetLog(index, l); err != nil {
		return err
	}
	if l.Index != index {
		return fmt.Errorf("%w: entry %d is in the place of entry %d", ErrTorn, l.Index, index)
	}
	if len(l.Extensions) == 0 {
		return nil
	}
	if string(l.Extensions) != string(seal(l)) {
		return fmt.Errorf("%w: entry %d has the wrong checksum", ErrTorn, index)
	}
	l.Extensions = nil
	return nil
}

// IsMonotonic implements raft.MonotonicLogStore.
func (s sealedLog) IsMonotonic() bool {
	m, ok := s.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func seal(l *raft.Log) []byte {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:8], l.Index)
	binary.BigEndian.PutUint64(head[8:16], l.Term)
	head[16] = byte(l.Type)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Checksum(head[:], table), table, l.Data)
	out := make([]byte, sealSize)
	out[0] = sealMark
	binary.BigEndian.PutUint32(out[1:], sum)
	return out
}

// checkLog reads every entry; each has to be there and whole.
func checkLog(logs raft.LogStore) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("find first entry: %w", err)
	}
	last, err := logs.LastIndex()
	if err != nil {
		return fmt.Errorf("find last entry: %w", err)
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := logs.GetLog(i, &l); errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Errorf("entry %d of %d to %d is missing", i, first, last)
		} else if err != nil {
			return fmt.Errorf("read entry %d: %w", i, err)
		}
	}
	return nil
}
