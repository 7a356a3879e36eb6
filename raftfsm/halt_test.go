package raftfsm

import (
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
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
		"other term":    marshal(&raftv1.Command{ProposerTerm: 2, Verb: ok}),
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
