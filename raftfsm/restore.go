package raftfsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

var (
	// ErrCorrupt is wrapped by Restore for a snapshot that is damaged or cut short.
	ErrCorrupt = errors.New("snapshot is corrupt")
	// ErrNewer is wrapped for what a newer version of tarn wrote and this one cannot
	// apply: the way on is to run that version.
	ErrNewer = errors.New("a newer version of tarn wrote it")
)

// Restore builds a new state from a snapshot and swaps it in; on error the old one
// stays. Whoever watches the old state is woken. Host revisions start at the
// snapshot's index, which is at or above what they were.
func (f *FSM) Restore(r io.ReadCloser) (err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	next, err := readState(r)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	f.hashes = hashRing{}
	f.hashes.add(next.index, next.hash)
	var wake []chan struct{}
	for w := range f.published.Load().watch.all() {
		wake = append(wake, w.changed)
	}
	f.publish(next, wake)
	return nil
}

// VerifySnapshot reads a snapshot to its end and checks it, without keeping it.
func VerifySnapshot(r io.Reader) error {
	in := newFrameReader(r)
	if _, err := readHeader(in); err != nil {
		return err
	}
	for {
		b, err := in.frame()
		if err != nil || b == nil {
			return err
		}
	}
}

func readState(r io.Reader) (*state, error) {
	in := newFrameReader(r)
	h, err := readHeader(in)
	if err != nil {
		return nil, err
	}
	load := newLoader(h)
	for {
		b, err := in.frame()
		if err != nil {
			return nil, err
		}
		if b == nil {
			return load.finish()
		}
		if err := load.record(b); err != nil {
			return nil, err
		}
	}
}

func readHeader(in *frameReader) (*raftv1.SnapshotHeader, error) {
	b, err := in.frame()
	if err != nil {
		return nil, err
	}
	h := &raftv1.SnapshotHeader{}
	if err := proto.Unmarshal(b, h); err != nil || b == nil {
		return nil, fmt.Errorf("%w: decode header: %v", ErrCorrupt, err)
	}
	switch {
	case h.GetFormat() == 0:
		return nil, fmt.Errorf("%w: it names no format", ErrCorrupt)
	case h.GetFormat() > snapshotFormat:
		return nil, fmt.Errorf("%w: snapshot format %d is not supported, %d is: upgrade this node", ErrNewer, h.GetFormat(), snapshotFormat)
	case h.GetMinCommandVersion() > CommandVersion:
		return nil, fmt.Errorf("%w: the snapshot needs command version %d, this node has %d: upgrade it", ErrNewer, h.GetMinCommandVersion(), CommandVersion)
	case h.GetLeaseWait() != nil && (!h.GetLeaseWait().IsValid() || h.GetLeaseWait().AsDuration() <= 0):
		return nil, fmt.Errorf("%w: lease wait of %v", ErrCorrupt, h.GetLeaseWait())
	case len(h.GetHash()) != sha256.Size:
		return nil, fmt.Errorf("%w: hash of %d bytes", ErrCorrupt, len(h.GetHash()))
	}
	return h, nil
}

// loader fills a state that nobody sees yet.
type loader struct {
	tx      *txn
	strings map[string]string
	err     error
}

func newLoader(h *raftv1.SnapshotHeader) *loader {
	s := newState()
	s.index, s.hash = h.GetIndex(), [32]byte(h.GetHash())
	s.clusterID, s.minVersion = h.GetClusterId(), max(h.GetMinCommandVersion(), baseVersion)
	if h.GetLastTime() != nil {
		s.lastTime = h.GetLastTime().AsTime()
	}
	s.leaseWait = h.GetLeaseWait().AsDuration()
	tx := begin(s)
	// Nobody watches yet; finish says what is watched.
	tx.touchedShares, tx.touchedHosts = nil, nil
	return &loader{tx: tx, strings: map[string]string{}}
}

func (l *loader) finish() (*state, error) {
	if l.err != nil {
		return nil, l.err
	}
	l.tx.touchedHosts = map[string]struct{}{}
	for h := range l.tx.s.hosts.all() {
		l.tx.touchHost(h.GetId())
	}
	l.tx.settleWatches()
	return l.tx.s, nil
}

func (l *loader) record(b []byte) error {
	rec := &raftv1.SnapshotRecord{}
	if err := proto.Unmarshal(b, rec); err != nil {
		return fmt.Errorf("%w: decode record: %v", ErrCorrupt, err)
	}
	switch r := rec.GetRecord().(type) {
	case *raftv1.SnapshotRecord_ShareType:
		mutable(l.tx.own, &l.tx.s.types).put(r.ShareType)
	case *raftv1.SnapshotRecord_Host:
		mutable(l.tx.own, &l.tx.s.hosts).put(r.Host)
	case *raftv1.SnapshotRecord_Share:
		l.share(r.Share)
	case *raftv1.SnapshotRecord_Replica:
		l.replica(r.Replica)
	case *raftv1.SnapshotRecord_Snapshot:
		l.snapshot(r.Snapshot)
	case *raftv1.SnapshotRecord_SnapshotInstance:
		l.instance(r.SnapshotInstance)
	case *raftv1.SnapshotRecord_AccessRule:
		mutable(l.tx.own, &l.tx.s.rules).put(r.AccessRule)
	case *raftv1.SnapshotRecord_QuotaLimits:
		mutable(l.tx.own, &l.tx.s.quotas).put(r.QuotaLimits)
	case *raftv1.SnapshotRecord_UserMessage:
		mutable(l.tx.own, &l.tx.s.messages).put(r.UserMessage)
	case *raftv1.SnapshotRecord_JoinToken:
		l.tx.putToken(r.JoinToken)
	case *raftv1.SnapshotRecord_AuditRecord:
		l.audit(r.AuditRecord)
	case *raftv1.SnapshotRecord_User:
		mutable(l.tx.own, &l.tx.s.users).put(r.User)
	case *raftv1.SnapshotRecord_KeptOutcome:
		l.tx.putOutcome(r.KeptOutcome)
	default:
		return fmt.Errorf("%w: the snapshot has a record of a kind that this node does not know: upgrade it", ErrNewer)
	}
	return l.err
}

// same returns one copy of equal strings, so that a million replicas do not hold a
// million copies of their host's name.
func (l *loader) same(s string) string {
	if have, ok := l.strings[s]; ok {
		return have
	}
	l.strings[s] = s
	return s
}

func (l *loader) share(s *tarnv1.Share) {
	t, ok := l.tx.s.shareType(s.GetShareTypeId())
	if ok {
		s.ShareTypeId, s.ShareTypeName = t.GetId(), l.same(s.GetShareTypeName())
	}
	if ok && maps.Equal(s.GetExtraSpecs(), t.GetExtraSpecs()) {
		s.ExtraSpecs = t.GetExtraSpecs()
	}
	s.ProjectId, s.UserId, s.ShareProto = l.same(s.GetProjectId()), l.same(s.GetUserId()), l.same(s.GetShareProto())
	l.tx.storeShare(s)
}

func (l *loader) replica(r *tarnv1.Replica) {
	s, ok := l.tx.s.share(r.GetShareId())
	if !ok {
		l.err = fmt.Errorf("%w: replica %q of no share", ErrCorrupt, r.GetId())
		return
	}
	r.ShareId, r.ProjectId = s.GetId(), s.GetProjectId()
	if f := s.GetFencing(); f.GetOwnerReplicaId() == r.GetId() {
		r.Id = f.GetOwnerReplicaId()
	}
	r.AvailabilityZone, r.Host = l.same(r.GetAvailabilityZone()), l.same(r.GetHost())
	r.HostId, r.Pool = l.same(r.GetHostId()), l.same(r.GetPool())
	for _, e := range r.GetExportLocations() {
		e.ShareId, e.ReplicaId = r.ShareId, r.Id
	}
	l.tx.storeReplica(r)
}

func (l *loader) snapshot(s *tarnv1.Snapshot) {
	if _, ok := l.tx.s.share(s.GetShareId()); !ok {
		l.err = fmt.Errorf("%w: snapshot %q of no share", ErrCorrupt, s.GetId())
		return
	}
	l.tx.storeSnapshot(s)
}

func (l *loader) instance(i *tarnv1.SnapshotInstance) {
	_, a := l.tx.s.snapshot(i.GetSnapshotId())
	_, b := l.tx.s.replica(i.GetReplicaId())
	if !a || !b {
		l.err = fmt.Errorf("%w: snapshot instance %q of no snapshot or replica", ErrCorrupt, i.GetId())
		return
	}
	l.tx.putInstance(i)
}

// audit takes a record in if it follows from the one before it: a snapshot whose audit
// log somebody touched is no snapshot of this cluster.
func (l *loader) audit(r *tarnv1.AuditRecord) {
	last, ok := l.tx.s.lastAudit()
	if !ok {
		last = nil
	}
	if err := FollowsAudit(last, r); err != nil {
		l.err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		return
	}
	mutable(l.tx.own, &l.tx.s.audit).put(r)
}

// maxFrame bounds a record, in bytes: a damaged length must not exhaust memory.
const maxFrame = 64 << 20

// frameReader reads what frameWriter wrote and checks the sum at the end.
type frameReader struct {
	in  *bufio.Reader
	sum hash.Hash
	buf []byte
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{in: bufio.NewReaderSize(r, bufferSize), sum: sha256.New()}
}

// frame returns the next record, valid until the next call, or nil after the last
// one if the sum is right and nothing follows.
func (f *frameReader) frame() ([]byte, error) {
	size, err := binary.ReadUvarint(f.in)
	if err != nil {
		return nil, fmt.Errorf("%w: read length: %w", ErrCorrupt, err)
	}
	f.buf = binary.AppendUvarint(f.buf[:0], size)
	f.sum.Write(f.buf)
	if size == 0 {
		return nil, f.finish()
	}
	if size > maxFrame {
		return nil, fmt.Errorf("%w: record of %d bytes", ErrCorrupt, size)
	}
	if uint64(cap(f.buf)) < size {
		f.buf = make([]byte, size)
	}
	f.buf = f.buf[:size]
	if _, err := io.ReadFull(f.in, f.buf); err != nil {
		return nil, fmt.Errorf("%w: read record: %w", ErrCorrupt, err)
	}
	f.sum.Write(f.buf)
	return f.buf, nil
}

func (f *frameReader) finish() error {
	var trailer [sha256.Size]byte
	if _, err := io.ReadFull(f.in, trailer[:]); err != nil {
		return fmt.Errorf("%w: read checksum: %w", ErrCorrupt, err)
	}
	if !bytes.Equal(trailer[:], f.sum.Sum(nil)) {
		return fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	if _, err := f.in.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes follow the checksum", ErrCorrupt)
	}
	return nil
}
