package raftfsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/types/known/durationpb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestGoldenLog2: a log that the release of command version 2 wrote is applied for ever,
// with the same outcomes: their hash stands at the file's end.
func TestGoldenLog2(t *testing.T) {
	goldenLog(t, 2, 1, func() []*raft.Log {
		world := busyWorld(t)
		world.promoteAll()
		world.try(&raftv1.DeleteShare{Id: "nope"})
		return world.log
	})
}

// TestGoldenLog3 has keys, and a forced promotion that is given back.
func TestGoldenLog3(t *testing.T) {
	f := goldenLog(t, 3, 1, func() []*raft.Log {
		world := busyWorld(t)
		for range 2 {
			world.keyed("alice", "k1", describe("rep", "hers"))
			world.keyed("alice", "k2", &raftv1.DeleteShare{Id: "nope"})
			world.keyed("bob", "k1", &raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p1", Limits: map[string]int64{"shares": 9}}})
		}
		world.do(&raftv1.PromoteReplica{Id: "rep-r2", OpId: "back", Mode: forced, ExpectedEpoch: 1})
		world.do(&raftv1.CommitSeal{ShareId: "rep", OpId: "back", Epoch: 1, HeadGuid: 0xb0})
		world.do(&raftv1.CommitDemotion{ShareId: "rep", OpId: "back", Epoch: 1, FinalGuid: 0xb1})
		world.try(&raftv1.CancelPromotion{ShareId: "rep", OpId: "back"})
		return world.log
	})
	const path = "testdata/version3.snap"
	if *update {
		if err := os.WriteFile(path, dump(t, f.View()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := dump(t, f.View()); !bytes.Equal(got, want) || !bytes.Equal(dump(t, restored(t, want).View()), want) {
		t.Error("the log of version 3 ends in another snapshot than when it was made")
	}
	if v := f.View(); v.s.outcomes.len() != 3 || fencing(shareOf(t, v, "rep")) || shareOf(t, v, "rep").GetFencing().GetEpoch() != 2 {
		t.Errorf("%d outcomes, %v", v.s.outcomes.len(), shareOf(t, v, "rep").GetFencing())
	}
}

// TestGoldenLog4 is of a restored cluster; it has planned promotions with a time, and a
// decision about an unknown replica.
func TestGoldenLog4(t *testing.T) {
	f := goldenLog(t, 4, RestoredGap, func() []*raft.Log {
		world := busyWorld(t)
		world.gap += RestoredGap
		given := func(c *raftv1.PromoteReplica) *raftv1.PromoteReplica {
			c.Wait = durationpb.New(time.Minute)
			return c
		}
		world.do(given(prepareOf("rep-r2", "op")))
		world.do(given(began(prepareOf("rep-r2", "op"))))
		world.do(&raftv1.CancelPromotion{ShareId: "rep", OpId: "op"})
		world.move(found("rep", &raftv1.FoundEpochs{ExpectedEpoch: 2, Unknown: []*tarnv1.UnknownReplica{strange("x", 7)}}))
		world.do(&raftv1.DismissUnknownReplica{ShareId: "rep", ReplicaId: "x"})
		c := prepareOf("rep-r2", "last")
		c.ExpectedEpoch = 8
		world.try(given(c))
		return world.log
	})
	if rep := shareOf(t, f.View(), "rep"); rep.GetFencing().GetEpoch() != 8 || preparing(rep).GetUntil() == nil {
		t.Errorf("it ends in %v", rep.GetFencing())
	}
}

// TestGoldenLog5 has waits for leases that get longer and shorter.
func TestGoldenLog5(t *testing.T) {
	f := goldenLog(t, 5, 1, func() []*raft.Log {
		world := busyWorld(t)
		world.do(leaseWait(time.Minute, 0))
		world.try(leaseWait(time.Second, 0))
		world.do(leaseWait(20*time.Second, 1))
		return world.log
	})
	if got := f.View().LeaseWait(); got != 20*time.Second {
		t.Errorf("it ends with a wait of %s", got)
	}
}

// TestGoldenLog6 has promotions that the leader takes back: one that is planned, and one that
// somebody has forced meanwhile, which stays.
func TestGoldenLog6(t *testing.T) {
	f := goldenLog(t, 6, 1, func() []*raft.Log {
		world := busyWorld(t)
		world.do(&raftv1.PromoteReplica{Id: "rep-r2", OpId: "calm", Mode: planned, ExpectedEpoch: 1})
		world.do(&raftv1.CancelPromotion{ShareId: "rep", OpId: "calm", UnlessForced: true})
		world.do(&raftv1.PromoteReplica{Id: "rep-r2", OpId: "urgent", Mode: planned, ExpectedEpoch: 2})
		world.do(&raftv1.PromoteReplica{Id: "rep-r2", OpId: "urgent", Mode: forced, ExpectedEpoch: 2})
		world.try(&raftv1.CancelPromotion{ShareId: "rep", OpId: "urgent", UnlessForced: true})
		return world.log
	})
	if rep := shareOf(t, f.View(), "rep"); !fencing(rep) || rep.GetFencing().GetMode() != forced {
		t.Errorf("it ends in %v", rep.GetFencing())
	}
}

func shareOf(t *testing.T, v *View, id string) *tarnv1.Share {
	t.Helper()
	s, ok := v.Share(id)
	if !ok {
		t.Fatalf("no share %s", id)
	}
	return s
}

// goldenLog replays the log of a command version, of which first is the index of the first
// entry; with -update it is made anew.
func goldenLog(t *testing.T, version uint32, first uint64, build func() []*raft.Log) *FSM {
	t.Helper()
	path := fmt.Sprintf("testdata/version%d.log", version)
	if *update {
		n := newNode(t)
		n.do(&raftv1.InitCluster{ClusterId: "c"})
		n.do(&raftv1.SetCommandVersion{Version: version})
		writeLog(t, path, first, append(n.log, build()...))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, want := replay(t, first, data)
	if f.Halted() != nil || f.View().CommandVersion() != version || fmt.Sprintf("%x", f.View().Hash()) != want {
		t.Errorf("halted %v, version %d, hash %x, want %s", f.Halted(), f.View().CommandVersion(), f.View().Hash(), want)
	}
	if again := restored(t, dump(t, f.View())); !bytes.Equal(dump(t, again.View()), dump(t, f.View())) {
		t.Error("its state does not survive a round trip")
	}
	return f
}

// writeLog writes each command after its length, a zero, and the hash in hex.
func writeLog(t *testing.T, path string, first uint64, log []*raft.Log) {
	t.Helper()
	var b bytes.Buffer
	f := New(Config{})
	for i, l := range log {
		b.Write(binary.AppendUvarint(nil, uint64(len(l.Data))))
		b.Write(l.Data)
		f.Apply(&raft.Log{Index: first + uint64(i), Term: 1, Data: l.Data})
	}
	fmt.Fprintf(&b, "\x00%x", f.View().Hash())
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func replay(t *testing.T, first uint64, data []byte) (f *FSM, hash string) {
	t.Helper()
	f = New(Config{})
	in := bufio.NewReader(bytes.NewReader(data))
	for i := first; ; i++ {
		size, err := binary.ReadUvarint(in)
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			rest, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			return f, string(rest)
		}
		cmd := make([]byte, size)
		if _, err := io.ReadFull(in, cmd); err != nil {
			t.Fatal(errors.Join(err, f.Halted()))
		}
		f.Apply(&raft.Log{Index: i, Term: 1, Data: cmd})
	}
}
