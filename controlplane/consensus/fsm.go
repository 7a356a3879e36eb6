package consensus

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// trackedFSM knows how far the state machine itself is. raft's AppliedIndex is
// how far it was told to go.
type trackedFSM struct {
	inner   raft.FSM
	applied atomic.Uint64
	changed signal
	// members is the newest committed membership; nil while none is known.
	members atomic.Pointer[membership]
	// self is this server's id, and wasMember that a committed membership had it.
	self      string
	wasMember atomic.Bool
}

// membership is a committed configuration. raft's own GetConfiguration gives the
// newest that this server has heard of, committed or not, and no index (v1.8.0).
type membership struct {
	index   uint64 // of its log entry
	servers []Server
}

func (f *trackedFSM) committed(index uint64, c raft.Configuration) {
	next := &membership{index, fromConfiguration(c)}
	if _, ok := find(next.servers, f.self); ok {
		f.wasMember.Store(true)
	}
	f.members.Store(next)
}

// Apply implements raft.FSM.
func (f *trackedFSM) Apply(l *raft.Log) any {
	defer f.advance(l.Index)
	return f.inner.Apply(l)
}

// ApplyBatch implements raft.BatchingFSM, so that waiters are woken once a batch. It
// is also given the configurations, once they are committed.
func (f *trackedFSM) ApplyBatch(logs []*raft.Log) []any {
	defer f.advance(logs[len(logs)-1].Index)
	for _, l := range logs {
		if l.Type == raft.LogConfiguration {
			f.committed(l.Index, raft.DecodeConfiguration(l.Data))
		}
	}
	if batching, ok := f.inner.(raft.BatchingFSM); ok {
		return batching.ApplyBatch(logs)
	}
	results := make([]any, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			results[i] = f.inner.Apply(l)
		}
	}
	return results
}

// Snapshot implements raft.FSM.
func (f *trackedFSM) Snapshot() (raft.FSMSnapshot, error) { return f.inner.Snapshot() }

// Restore implements raft.FSM. Readers come from indexedSnapshots, inside raft's
// own wrapping.
func (f *trackedFSM) Restore(rc io.ReadCloser) error {
	if err := f.inner.Restore(rc); err != nil {
		return err
	}
	var source any = rc
	if wrapper, ok := rc.(raft.ReadCloserWrapper); ok {
		source = wrapper.WrappedReadCloser()
	}
	if indexed, ok := source.(indexedReader); ok {
		f.committed(indexed.meta.ConfigurationIndex, indexed.meta.Configuration)
		f.advance(indexed.meta.Index)
	}
	return nil
}

func (f *trackedFSM) advance(index uint64) {
	f.applied.Store(index)
	f.changed.fire()
}

// wait blocks until the entry at index is applied.
func (f *trackedFSM) wait(ctx context.Context, index uint64) error {
	for {
		changed := f.changed.wait()
		if f.applied.Load() >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// indexedSnapshots lets a restored state machine know at which index it is.
type indexedSnapshots struct{ raft.SnapshotStore }

// Open implements raft.SnapshotStore.
func (s indexedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, rc, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, indexedReader{rc, meta}, nil
}

type indexedReader struct {
	io.ReadCloser
	meta *raft.SnapshotMeta
}
