package api_test

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// TestTokenOutlastsAClockThatWasAhead: a token ends by the state's clock, which stays where
// a leader whose own was ahead has left it.
func TestTokenOutlastsAClockThatWasAhead(t *testing.T) {
	s := newServer(t)
	cmd := &raftv1.Command{
		ProposedAt: timestamppb.New(time.Now().Add(20 * 365 * 24 * time.Hour)),
		Verb:       &raftv1.Command_CheckHash{CheckHash: &raftv1.CheckHash{}},
	}
	data, err := proto.Marshal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	s.log.set(func() {
		s.log.index++
		s.fsm.Apply(&raft.Log{Index: s.log.index, Term: 1, Type: raft.LogCommand, Data: data})
	})
	made, err := s.operator().Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{Role: "agent"})
	if err != nil {
		t.Fatal(err)
	}
	if left := made.GetExpiresAt().AsTime().Sub(s.fsm.View().Time()); left < 59*time.Minute {
		t.Errorf("it ends in %s by the state's clock", left)
	}
}

// TestHostsSpeakOfTheirReplicasOnly: what a host says of a replica that another one has
// does not take the place of what that one says.
func TestHostsSpeakOfTheirReplicasOnly(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	hosts := map[string]tarnv1connect.AgentServiceClient{}
	for _, name := range []string{"one", "two"} {
		id, agent := s.storage(name, "az-"+name)
		hosts[id] = agent
	}
	share := s.share(op, s.shareType(op, "gold"), "docs")
	r := s.fsm.View().ReplicasOfShare(share.GetId())[0]
	for _, owns := range []bool{true, false} {
		for id, agent := range hosts {
			if (id == r.GetHostId()) != owns {
				continue
			}
			guid := uint64(7)
			if !owns {
				guid = 13
			}
			if _, err := agent.Report(t.Context(), &tarnv1.ReportRequest{
				HostId: id, SessionId: "first", Sequence: 1, Full: true, Replicas: []*tarnv1.ReplicaReport{{ReplicaId: r.GetId(), HeadGuid: guid}},
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if seen := s.soft.Snapshot(time.Now(), nil).Replica(r); seen == nil || seen.Report.GetHeadGuid() != 7 {
		t.Errorf("after another host's word the leader has %v", seen)
	}
}
