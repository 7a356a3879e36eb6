package raftfsm

import (
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func TestHalts(t *testing.T) {
	marshal := func(c *raftv1.Command) []byte {
		b, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ok := &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: "c"}}
	unknown := protowire.AppendTag(nil, 4000, protowire.BytesType)
	for name, data := range map[string][]byte{
		"garbage":       {0xff, 0xff, 0xff},
		"empty":         {},
		"unknown verb":  protowire.AppendBytes(unknown, []byte("x")),
		"newer version": marshal(&raftv1.Command{Version: CommandVersion + 1, Verb: ok}),
	} {
		t.Run(name, func(t *testing.T) {
			var told []error
			f := New(Config{OnHalt: func(err error) { told = append(told, err) }})
			n := &node{t: t, f: f, at: epochStart}
			n.do(&raftv1.InitCluster{ClusterId: "c"})
			for i := range uint64(2) {
				res := f.Apply(&raft.Log{Index: 2 + i, Term: 1, Data: data}).(*Result)
				if res.Err == nil || res.Err.Code != Halted {
					t.Fatalf("result %+v", res)
				}
			}
			if f.Halted() == nil || len(told) != 1 {
				t.Errorf("halted %v, told %d times", f.Halted(), len(told))
			}
			if f.View().Index() != 1 {
				t.Errorf("a halted node moved to index %d", f.View().Index())
			}
			if _, err := f.Snapshot(); err == nil {
				t.Errorf("a halted node takes snapshots")
			}
		})
	}
}

// TestOtherTermIsRefusedAlikeEverywhere feeds one log to two machines, one of which
// replays it in a single batch.
func TestOtherTermIsRefusedAlikeEverywhere(t *testing.T) {
	put := &raftv1.Command{ProposerTerm: 2, Verb: &raftv1.Command_PutShareType{PutShareType: &raftv1.PutShareType{
		ShareType: &tarnv1.ShareType{Id: "t", Name: "t"},
	}}}
	hash := &raftv1.Command{ProposerTerm: 2, Verb: &raftv1.Command_CheckHash{CheckHash: &raftv1.CheckHash{Index: 1, Hash: []byte("wrong")}}}
	var entries []*raft.Log
	for i, cmd := range []*raftv1.Command{wrap(t, &raftv1.InitCluster{ClusterId: "c"}), put, hash, put} {
		data, err := proto.Marshal(cmd)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, &raft.Log{Index: uint64(i + 1), Term: 1, Data: data})
	}
	entries[3].Term = 2
	counted := 0
	f, g := New(Config{OnOtherTerm: func() { counted++ }}), New(Config{})
	for i, entry := range entries {
		res := f.Apply(entry).(*Result)
		if refused := i == 1 || i == 2; res.OtherTerm != refused || refused && (res.Err == nil || res.Err.Code != Aborted) {
			t.Errorf("entry %d: %+v", i, res)
		}
		if _, known := f.View().ShareType("t"); known != (i == 3) {
			t.Errorf("after entry %d the type is known: %v", i, known)
		}
	}
	g.ApplyBatch(entries)
	if counted != 2 || f.Halted() != nil || f.View().Index() != 4 {
		t.Errorf("counted %d, halted %v, at index %d", counted, f.Halted(), f.View().Index())
	}
	if string(f.View().Hash()) != string(g.View().Hash()) {
		t.Error("two machines differ after the same log")
	}
}

func TestCheckHash(t *testing.T) {
	n := world(t)
	v := n.f.View()
	n.share("s", "readable")
	n.do(&raftv1.CheckHash{Index: v.Index(), Hash: v.Hash()})
	n.do(&raftv1.CheckHash{Index: 1 << 40, Hash: v.Hash()})
	g := restored(t, dump(t, n.f.View()))
	g.Apply(n.entry(wrap(t, &raftv1.CheckHash{Index: v.Index(), Hash: []byte("older than the restore")})))
	if g.Halted() != nil {
		t.Fatalf("halted over a hash that it cannot know: %v", g.Halted())
	}
	if res := n.try(&raftv1.CheckHash{Index: v.Index(), Hash: make([]byte, 32)}); res.Err == nil || n.f.Halted() == nil {
		t.Errorf("another hash did not halt the node")
	}
}

func TestTimeNeverFalls(t *testing.T) {
	n := newNode(t)
	n.do(&raftv1.InitCluster{ClusterId: "c"})
	high := n.f.View().Time()
	for _, at := range []*timestamppb.Timestamp{nil, timestamppb.New(high.AddDate(-1, 0, 0)), {Nanos: -5}, {Seconds: 1 << 60}} {
		cmd := wrap(t, &raftv1.InitCluster{ClusterId: "c"})
		cmd.ProposedAt = at
		data, err := proto.Marshal(cmd)
		if err != nil {
			t.Fatal(err)
		}
		n.f.Apply(&raft.Log{Index: 9, Term: 1, Data: data})
		if got := n.f.View().Time(); !got.Equal(high) {
			t.Errorf("proposed at %v moved the time to %v", at, got)
		}
	}
}

func TestOtherEntriesAreNoCommands(t *testing.T) {
	f := New(Config{})
	out := f.ApplyBatch([]*raft.Log{{Index: 1, Type: raft.LogConfiguration, Data: []byte("peers")}})
	if len(out) != 1 || out[0] != nil || f.Halted() != nil || f.View().Index() != 0 {
		t.Errorf("configuration entry: %v, halted %v", out, f.Halted())
	}
}
