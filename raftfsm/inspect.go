package raftfsm

import (
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// SnapshotInfo is what a snapshot says of itself.
type SnapshotInfo struct {
	Index             uint64    `json:"index"`
	Hash              string    `json:"hash"` // of the log up to Index, hex
	MinCommandVersion uint32    `json:"command_version"`
	ClusterID         string    `json:"cluster"`
	Time              time.Time `json:"time"` // the state's clock
	// Records by kind, named as in SnapshotRecord.
	Records map[string]int `json:"records"`
}

// InspectSnapshot reads a snapshot to its end, checks all that Restore would, and
// keeps nothing. What a newer version of tarn wrote gives an error that says so;
// damage gives ErrCorrupt.
func InspectSnapshot(r io.Reader) (SnapshotInfo, error) {
	in := newFrameReader(r)
	h, err := readHeader(in)
	if err != nil {
		return SnapshotInfo{}, err
	}
	info := infoOf(h)
	load := newLoader(h)
	for {
		b, err := in.frame()
		if err != nil {
			return SnapshotInfo{}, err
		}
		if b == nil {
			_, err = load.finish()
			return info, err
		}
		if err := load.record(b); err != nil {
			return SnapshotInfo{}, err
		}
		if err := count(info.Records, b); err != nil {
			return SnapshotInfo{}, err
		}
	}
}

func infoOf(h *raftv1.SnapshotHeader) SnapshotInfo {
	info := SnapshotInfo{
		Index: h.GetIndex(), Hash: fmt.Sprintf("%x", h.GetHash()), MinCommandVersion: h.GetMinCommandVersion(),
		ClusterID: h.GetClusterId(), Records: map[string]int{},
	}
	if h.GetLastTime() != nil {
		info.Time = h.GetLastTime().AsTime()
	}
	return info
}

func count(kinds map[string]int, record []byte) error {
	rec := &raftv1.SnapshotRecord{}
	if err := proto.Unmarshal(record, rec); err != nil {
		return fmt.Errorf("%w: decode record: %w", ErrCorrupt, err)
	}
	m := rec.ProtoReflect()
	kinds[string(m.WhichOneof(m.Descriptor().Oneofs().ByName("record")).Name())]++
	return nil
}

// RestoredGap is how far a restored log's index is above its backup's. Revisions are
// indexes: hosts that went on without a control plane ignore what is older than what they
// have, and must not take the restored state for that.
const RestoredGap = 1 << 32

// RestoredState turns the snapshot in r into the one that a restored cluster starts
// from, and writes it to w: join tokens are gone, as those that were used since the
// backup would count as unused again; every replica has to say under which epoch its data
// are; and the index is higher by RestoredGap, which the log has to begin after.
func RestoredState(w io.Writer, r io.Reader) error {
	s, err := readState(r)
	if err != nil {
		return err
	}
	s.tokens = newState().tokens
	s.unsettle()
	s.index += RestoredGap
	return s.write(w)
}
