package raftfsm

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	raftv1 "tarn/proto/tarn/raft/v1"
)

func readCloser(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// sink is raft's place for a snapshot.
type sink struct {
	bytes.Buffer
	fail             error
	closed, canceled bool
}

func (s *sink) ID() string    { return "test" }
func (s *sink) Close() error  { s.closed = true; return nil }
func (s *sink) Cancel() error { s.canceled = true; return nil }
func (s *sink) Write(p []byte) (int, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	return s.Buffer.Write(p)
}

func persist(t *testing.T, f *FSM, s *sink) error {
	t.Helper()
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	return snap.Persist(s)
}

func TestSnapshotRoundTrip(t *testing.T) {
	n := busyWorld(t)
	s := &sink{}
	if err := persist(t, n.f, s); err != nil || !s.closed || s.canceled {
		t.Fatalf("persist: %v, closed %v, canceled %v", err, s.closed, s.canceled)
	}
	g := restored(t, s.Bytes())
	if !bytes.Equal(dump(t, g.View()), s.Bytes()) {
		t.Errorf("restore and persist again gives other bytes")
	}
	checkInvariants(t, g.View())
	if err := VerifySnapshot(bytes.NewReader(s.Bytes())); err != nil {
		t.Errorf("verify: %v", err)
	}
}

func TestPersistCancelsOnError(t *testing.T) {
	n := busyWorld(t)
	s := &sink{fail: errors.New("disk full")}
	if err := persist(t, n.f, s); !errors.Is(err, s.fail) || !s.canceled || s.closed {
		t.Errorf("persist: %v, canceled %v, closed %v", err, s.canceled, s.closed)
	}
}

// TestRestoreRefusesDamage flips every byte and cuts at every length.
func TestRestoreRefusesDamage(t *testing.T) {
	n := world(t)
	n.share("s", "readable")
	good := dump(t, n.f.View())
	f := New(Config{})
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x41
		if err := f.Restore(readCloser(bad)); err == nil {
			t.Fatalf("restored with byte %d flipped", i)
		}
		if err := f.Restore(readCloser(good[:i])); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	if err := f.Restore(readCloser(append(bytes.Clone(good), 0))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("bytes after the end: %v", err)
	}
	if f.View().Index() != 0 {
		t.Errorf("a refused snapshot changed the state")
	}
}

func TestRestoreRefusesOtherFormats(t *testing.T) {
	for name, h := range map[string]*raftv1.SnapshotHeader{
		"future format":  {Format: snapshotFormat + 1, Hash: make([]byte, 32)},
		"future command": {Format: snapshotFormat, MinCommandVersion: CommandVersion + 1, Hash: make([]byte, 32)},
		"no hash":        {Format: snapshotFormat},
		"negative wait":  {Format: snapshotFormat, Hash: make([]byte, 32), LeaseWait: durationpb.New(-1)},
		"invalid wait":   {Format: snapshotFormat, Hash: make([]byte, 32), LeaseWait: &durationpb.Duration{Seconds: 1, Nanos: -1}},
	} {
		if err := New(Config{}).Restore(readCloser(framed(t, h))); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
}

// framed writes messages as a well-formed snapshot, whatever they are.
func framed(t tb, msgs ...proto.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newFrameWriter(&b)
	for _, m := range msgs {
		if err := w.frame(m); err != nil {
			t.Fatalf("frame: %v", err)
		}
	}
	if err := w.finish(); err != nil {
		t.Fatalf("finish: %v", err)
	}
	return b.Bytes()
}

var update = flag.Bool("update", false, "write golden files")

// TestGoldenFormat1: a snapshot that format 1 wrote is restored for ever.
func TestGoldenFormat1(t *testing.T) {
	const path = "testdata/format1.snap"
	n := busyWorld(t)
	n.do(&raftv1.PutJoinToken{Token: &raftv1.JoinToken{Hash: "h", Role: "agent"}})
	got := dump(t, n.f.View())
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dump(t, restored(t, want).View()), want) {
		t.Errorf("the golden snapshot does not survive a round trip")
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the same log now gives another snapshot than when format 1 was made: Apply changed its meaning")
	}
}

func apply(f *FSM, log []*raft.Log) {
	for _, l := range log {
		f.Apply(l)
	}
}

// TestSameLogSameBytes: every way to run one log ends in the same bytes.
func TestSameLogSameBytes(t *testing.T) {
	n := busyWorld(t)
	n.promoteAll()
	n.try(&raftv1.DeleteShare{Id: "nope"})
	want := dump(t, n.f.View())
	batched := New(Config{})
	batched.ApplyBatch(n.log)
	if !bytes.Equal(dump(t, batched.View()), want) {
		t.Errorf("one batch gives another state than single entries")
	}
	for cut := range n.log {
		f := New(Config{})
		apply(f, n.log[:cut])
		f = restored(t, dump(t, f.View()))
		apply(f, n.log[cut:])
		if !bytes.Equal(dump(t, f.View()), want) {
			t.Fatalf("a restore after %d entries leads to another state", cut)
		}
	}
}
