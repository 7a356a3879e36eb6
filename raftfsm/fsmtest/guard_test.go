package fsmtest_test

import (
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
	"tarn/raftfsm/fsmtest"
)

// recorder stands in for the test that Guard watches.
type recorder struct {
	testing.TB
	cleanup func()
	failed  bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Cleanup(f func())      { r.cleanup = f }
func (r *recorder) Errorf(string, ...any) { r.failed = true }

func TestGuardSeesMutation(t *testing.T) {
	f := raftfsm.New(raftfsm.Config{})
	data, err := proto.Marshal(&raftv1.Command{Verb: &raftv1.Command_PutShareType{PutShareType: &raftv1.PutShareType{
		ShareType: &tarnv1.ShareType{Id: "t", Name: "t"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	f.Apply(&raft.Log{Index: 1, Term: 1, Data: data})
	for _, mutate := range []bool{false, true} {
		r := &recorder{TB: t}
		fsmtest.Guard(r, f.View())
		if st, _ := f.View().ShareType("t"); mutate {
			st.Name = "other"
		}
		r.cleanup()
		if r.failed != mutate {
			t.Errorf("mutated %v, reported %v", mutate, r.failed)
		}
	}
}
