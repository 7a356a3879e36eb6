package raftfsm

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"iter"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// snapshotFormat is the layout of a snapshot: a header and records, each after its
// length as a uvarint; a zero length; the SHA-256 of all that.
const snapshotFormat = 1

// Snapshot captures the present state in constant time; Persist writes it while
// later entries are applied.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.Halted(); err != nil {
		return nil, fmt.Errorf("take snapshot: %w", err)
	}
	return &snapshot{s: f.published.Load()}, nil
}

type snapshot struct{ s *state }

// Persist streams the state into sink. Equal states make equal bytes.
func (p *snapshot) Persist(sink raft.SnapshotSink) (err error) {
	defer func() {
		if err != nil {
			_ = sink.Cancel()
		}
	}()
	if err := p.s.write(sink); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("close snapshot: %w", err)
	}
	return nil
}

// Release implements raft.FSMSnapshot; an immutable state needs none.
func (p *snapshot) Release() {}

// WriteTo writes the view in the format of a snapshot, for backups. Concurrent use is safe.
func (v *View) WriteTo(w io.Writer) (int64, error) {
	c := &counter{w: w}
	err := v.s.write(c)
	return c.n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (s *state) header() *raftv1.SnapshotHeader {
	h := &raftv1.SnapshotHeader{
		Format: snapshotFormat, Index: s.index, Hash: s.hash[:],
		MinCommandVersion: s.minVersion, ClusterId: s.clusterID,
	}
	if !s.lastTime.IsZero() {
		h.LastTime = timestamppb.New(s.lastTime)
	}
	if s.leaseWait != 0 {
		h.LeaseWait = durationpb.New(s.leaseWait)
	}
	return h
}

func (s *state) write(w io.Writer) error {
	out := newFrameWriter(w)
	if err := out.frame(s.header()); err != nil {
		return err
	}
	for rec := range s.records() {
		if err := out.frame(rec); err != nil {
			return err
		}
	}
	return out.finish()
}

// records yields everything that is not derived, what is referred to before what refers to it.
func (s *state) records() iter.Seq[*raftv1.SnapshotRecord] {
	return func(yield func(*raftv1.SnapshotRecord) bool) {
		rec := &raftv1.SnapshotRecord{}
		_ = emit(s.types, func(r *tarnv1.ShareType) bool {
			rec.Record = &raftv1.SnapshotRecord_ShareType{ShareType: r}
			return yield(rec)
		}) && emit(s.hosts, func(r *tarnv1.Host) bool {
			rec.Record = &raftv1.SnapshotRecord_Host{Host: r}
			return yield(rec)
		}) && emit(s.shares, func(r *tarnv1.Share) bool {
			rec.Record = &raftv1.SnapshotRecord_Share{Share: r}
			return yield(rec)
		}) && emit(s.replicas, func(r *tarnv1.Replica) bool {
			rec.Record = &raftv1.SnapshotRecord_Replica{Replica: r}
			return yield(rec)
		}) && emit(s.snapshots, func(r *tarnv1.Snapshot) bool {
			rec.Record = &raftv1.SnapshotRecord_Snapshot{Snapshot: r}
			return yield(rec)
		}) && emit(s.instances, func(r *tarnv1.SnapshotInstance) bool {
			rec.Record = &raftv1.SnapshotRecord_SnapshotInstance{SnapshotInstance: r}
			return yield(rec)
		}) && s.smallRecords(rec, yield)
	}
}

func (s *state) smallRecords(rec *raftv1.SnapshotRecord, yield func(*raftv1.SnapshotRecord) bool) bool {
	return emit(s.rules, func(r *tarnv1.AccessRule) bool {
		rec.Record = &raftv1.SnapshotRecord_AccessRule{AccessRule: r}
		return yield(rec)
	}) && emit(s.quotas, func(r *tarnv1.QuotaLimits) bool {
		rec.Record = &raftv1.SnapshotRecord_QuotaLimits{QuotaLimits: r}
		return yield(rec)
	}) && emit(s.messages, func(r *tarnv1.UserMessage) bool {
		rec.Record = &raftv1.SnapshotRecord_UserMessage{UserMessage: r}
		return yield(rec)
	}) && emit(s.tokens, func(r *raftv1.JoinToken) bool {
		rec.Record = &raftv1.SnapshotRecord_JoinToken{JoinToken: r}
		return yield(rec)
	}) && emit(s.audit, func(r *tarnv1.AuditRecord) bool {
		rec.Record = &raftv1.SnapshotRecord_AuditRecord{AuditRecord: r}
		return yield(rec)
	}) && emit(s.users, func(r *raftv1.UserRecord) bool {
		rec.Record = &raftv1.SnapshotRecord_User{User: r}
		return yield(rec)
	}) && emit(s.outcomes, func(r *raftv1.KeptOutcome) bool {
		rec.Record = &raftv1.SnapshotRecord_KeptOutcome{KeptOutcome: r}
		return yield(rec)
	})
}

func emit[T any](t *table[T], yield func(*T) bool) bool {
	for rec := range t.all() {
		if !yield(rec) {
			return false
		}
	}
	return true
}

// frameWriter writes length-prefixed messages and sums what it writes.
type frameWriter struct {
	out *bufio.Writer
	sum hash.Hash
	buf []byte
	opt proto.MarshalOptions
}

// bufferSize of the file I/O of snapshots, in bytes.
const bufferSize = 1 << 20

func newFrameWriter(w io.Writer) *frameWriter {
	sum := sha256.New()
	return &frameWriter{
		out: bufio.NewWriterSize(w, bufferSize), sum: sum,
		opt: proto.MarshalOptions{Deterministic: true},
	}
}

func (f *frameWriter) frame(m proto.Message) error {
	f.buf = binary.AppendUvarint(f.buf[:0], uint64(f.opt.Size(m)))
	cached := f.opt
	cached.UseCachedSize = true
	var err error
	if f.buf, err = cached.MarshalAppend(f.buf, m); err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	return f.write(f.buf)
}

func (f *frameWriter) write(b []byte) error {
	f.sum.Write(b)
	_, err := f.out.Write(b)
	return err
}

func (f *frameWriter) finish() error {
	if err := f.write([]byte{0}); err != nil {
		return err
	}
	if _, err := f.out.Write(f.sum.Sum(nil)); err != nil {
		return err
	}
	return f.out.Flush()
}
