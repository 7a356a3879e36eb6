package raftfsm

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/hashicorp/raft"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// FuzzApply: no bytes make Apply panic, break an invariant, or lead two machines apart.
func FuzzApply(f *testing.F) {
	seed := busyWorld(f)
	seed.promoteAll()
	for _, l := range seed.log {
		f.Add(l.Data, uint64(1))
	}
	f.Add([]byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, term uint64) {
		n := busyWorld(t)
		other := restored(t, dump(t, n.f.View()))
		entry := &raft.Log{Index: n.index() + 1, Term: term, Data: data}
		if n.f.Apply(entry) == nil || other.Apply(entry) == nil {
			t.Fatal("no result")
		}
		if string(dump(t, n.f.View())) != string(dump(t, other.View())) {
			t.Error("two machines came apart")
		}
		checkInvariants(t, n.f.View())
	})
}

// FuzzRestore feeds raw bytes and, so that the checksum does not shield the rest,
// the same bytes as one record of a well-formed snapshot.
func FuzzRestore(f *testing.F) {
	n := busyWorld(f)
	f.Add(dump(f, n.f.View()))
	for rec := range n.f.View().s.records() {
		b, err := newFrameWriter(nil).opt.Marshal(rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = New(Config{}).Restore(readCloser(data))
		head := &raftv1.SnapshotHeader{Format: snapshotFormat, Hash: make([]byte, 32)}
		whole := framedRaw(t, head, data)
		m := New(Config{})
		if err := m.Restore(readCloser(whole)); err != nil {
			return
		}
		again := restored(t, dump(t, m.View()))
		if string(dump(t, again.View())) != string(dump(t, m.View())) {
			t.Error("what was restored does not survive a round trip")
		}
	})
}

// framedRaw writes a header and one record of any bytes with a right checksum.
func framedRaw(t tb, head *raftv1.SnapshotHeader, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newFrameWriter(&b)
	if err := w.frame(head); err != nil {
		t.Fatalf("frame: %v", err)
	}
	if len(raw) > 0 {
		if err := w.write(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...)); err != nil {
			t.Fatalf("write: %v", err)
		}
	}
	if err := w.finish(); err != nil {
		t.Fatalf("finish: %v", err)
	}
	return b.Bytes()
}
