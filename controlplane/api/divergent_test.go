package api_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/client"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// forked is a share with one divergent copy of GUID 7 on its host, which also has one of
// GUID 8 of a replica that is gone.
func forked(t *testing.T) (s *server, share *tarnv1.Share, r *tarnv1.Replica) {
	s = newServer(t)
	op := s.operator()
	id, agent := s.storage("one", "az1")
	share = s.share(s.member("blue"), s.shareType(op, "gold"), "docs")
	r = s.fsm.View().ReplicasOfShare(share.GetId())[0]
	mine := &tarnv1.DivergentCopy{Guid: 7, Dataset: "tank/.divergent/secret", Epoch: 3, UsedBytes: 10, ShareId: share.GetId(), ReplicaId: r.GetId()}
	if _, err := s.log.Propose(t.Context(), &raftv1.Command{Verb: &raftv1.Command_Transitions{Transitions: &raftv1.Transitions{
		Replicas: []*raftv1.ReplicaTransition{{Id: r.GetId(), SetDivergentCopies: true, DivergentCopies: []*tarnv1.DivergentCopy{mine}}},
	}}}); err != nil {
		t.Fatal(err)
	}
	list, err := op.Replicas.ListDivergentCopies(t.Context(), &tarnv1.ListDivergentCopiesRequest{AllProjects: true})
	if err != nil || len(list.GetDivergentCopies()) != 1 || len(list.GetSilentHosts()) != 1 {
		t.Fatalf("before the host has told: %v, %v", list, err)
	}
	bigger := &tarnv1.DivergentCopy{Guid: 7, Dataset: "tank/.divergent/secret", Epoch: 3, UsedBytes: 99}
	if _, err := agent.Report(t.Context(), &tarnv1.ReportRequest{
		HostId: id, SessionId: "first", Sequence: 1, OrphansKnown: true,
		Replicas:       []*tarnv1.ReplicaReport{{ReplicaId: r.GetId(), DivergentCopies: []*tarnv1.DivergentCopy{bigger}}},
		OrphanedCopies: []*tarnv1.DivergentCopy{{Guid: 8, Dataset: "tank/.divergent/other", ShareId: "s", ReplicaId: "r"}},
	}); err != nil {
		t.Fatal(err)
	}
	return s, share, r
}

func TestDivergentCopiesAreListed(t *testing.T) {
	s, share, r := forked(t)
	op := s.operator()
	all, err := op.Replicas.ListDivergentCopies(t.Context(), &tarnv1.ListDivergentCopiesRequest{AllProjects: true})
	if err != nil || len(all.GetDivergentCopies()) != 2 || len(all.GetSilentHosts()) != 0 {
		t.Fatal(all, err)
	}
	for _, c := range all.GetDivergentCopies() {
		if c.GetHost() != "one@dir#tank" || c.GetOrphaned() != (c.GetGuid() == 8) || c.GetGuid() == 7 && c.GetUsedBytes() != 99 {
			t.Errorf("copy %v", c)
		}
	}
	for _, who := range []struct {
		name string
		api  *client.Client
		req  *tarnv1.ListDivergentCopiesRequest
		want int
	}{
		{"operator of a share", op, &tarnv1.ListDivergentCopiesRequest{ShareId: share.GetId()}, 1},
		{"operator of a replica", op, &tarnv1.ListDivergentCopiesRequest{ReplicaId: r.GetId()}, 1},
		{"operator of a replica that is gone", op, &tarnv1.ListDivergentCopiesRequest{ReplicaId: "7f2c8a4e-0f0c-4f5e-9d3a-000000000001"}, 0},
		{"its project", s.member("blue"), &tarnv1.ListDivergentCopiesRequest{}, 1},
		{"another project", s.member("green"), &tarnv1.ListDivergentCopiesRequest{}, 0},
	} {
		got, err := who.api.Replicas.ListDivergentCopies(t.Context(), who.req)
		if err != nil || len(got.GetDivergentCopies()) != who.want {
			t.Errorf("%s: %v, %v", who.name, got, err)
		}
		if text := got.String(); who.api != op && (strings.Contains(text, "secret") || strings.Contains(text, "one@")) {
			t.Errorf("%s sees %s", who.name, text)
		}
	}
	wantCode(t, second(s.member("green").Replicas.ListDivergentCopies(t.Context(), &tarnv1.ListDivergentCopiesRequest{ShareId: share.GetId()})), connect.CodeNotFound)
	wantCode(t, second(s.member("green").Replicas.ListDivergentCopies(t.Context(), &tarnv1.ListDivergentCopiesRequest{ReplicaId: r.GetId()})), connect.CodeNotFound)
}

func TestDivergentCopyIsShownByItsHost(t *testing.T) {
	s, _, r := forked(t)
	op, user := s.operator(), s.member("blue")
	req := &tarnv1.GetDivergentCopyRequest{Guid: 7, MaxWait: durationpb.New(time.Second)}
	wantCode(t, second(op.Replicas.GetDivergentCopy(t.Context(), req)), connect.CodeDeadlineExceeded)
	agents := s.agentOf(r.GetHostId())
	s.reporting(r.GetHostId(), agents, func(i *tarnv1.Inquiry) *tarnv1.InquiryAnswer {
		if i.GetDivergent().GetGuid() != 7 {
			return &tarnv1.InquiryAnswer{Error: "asked for another one"}
		}
		return &tarnv1.InquiryAnswer{Answer: &tarnv1.InquiryAnswer_Divergent{Divergent: &tarnv1.DivergentDetail{
			Copy: &tarnv1.DivergentCopy{Guid: 7, BaseGuid: 5, UsedBytes: 11}, Origin: "tank/secret@x", Total: 1, Reading: []string{"cd tank/secret"},
			Snapshots: []*tarnv1.DivergentSnapshot{{Name: "snap", Guid: 6, Clones: []string{"tank/secret"}, Holds: []string{"tag"}}},
		}}}
	})
	got, err := op.Replicas.GetDivergentCopy(t.Context(), req)
	if err != nil || got.GetCopy().GetBaseGuid() != 5 || got.GetCopy().GetHost() == "" || got.GetOrigin() == "" || len(got.GetReading()) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	got, err = user.Replicas.GetDivergentCopy(t.Context(), req)
	if err != nil || got.GetSnapshots()[0].GetGuid() != 6 || strings.Contains(got.String(), "secret") {
		t.Errorf("to a user: %v, %v", got, err)
	}
	req.Guid = 8
	wantCode(t, second(user.Replicas.GetDivergentCopy(t.Context(), req)), connect.CodeNotFound)
	req.Guid = 9
	wantCode(t, second(op.Replicas.GetDivergentCopy(t.Context(), req)), connect.CodeNotFound)
	req.Guid = 0
	wantCode(t, second(op.Replicas.GetDivergentCopy(t.Context(), req)), connect.CodeInvalidArgument)
}

func TestPurgeReachesTheHost(t *testing.T) {
	s, share, r := forked(t)
	op := s.operator()
	wantCode(t, second(s.member("blue").Replicas.PurgeDivergentCopy(t.Context(), &tarnv1.PurgeDivergentCopyRequest{Guid: 7, Reason: "x"})), connect.CodePermissionDenied)
	wantCode(t, second(op.Replicas.PurgeDivergentCopy(t.Context(), &tarnv1.PurgeDivergentCopyRequest{Guid: 7})), connect.CodeInvalidArgument)
	wantCode(t, second(op.Replicas.PurgeDivergentCopy(t.Context(), &tarnv1.PurgeDivergentCopyRequest{Guid: 9, Reason: "x"})), connect.CodeNotFound)
	for _, guid := range []uint64{7, 8} {
		got, err := op.Replicas.PurgeDivergentCopy(t.Context(), &tarnv1.PurgeDivergentCopyRequest{Guid: guid, Reason: "looked at"})
		if err != nil || !strings.Contains(got.GetPurge().GetRequestedBy(), "operator") || got.GetPurge().GetRequestedAt() == nil {
			t.Fatal(got, err)
		}
	}
	before := s.log.proposals()
	agent := s.agentOf(r.GetHostId())
	res, err := agent.Assignments(t.Context(), &tarnv1.AssignmentsRequest{HostId: r.GetHostId()})
	if err != nil || len(res.GetPurges()) != 2 {
		t.Fatal(res, err)
	}
	o := res.GetPurges()[0]
	if o.GetGuid() != 7 || o.GetShareId() != share.GetId() || o.GetReplicaId() != r.GetId() || o.GetDataset() != "tank/.divergent/secret" || o.GetReason() != "looked at" {
		t.Errorf("order %v", o)
	}
	if _, err := agent.Report(t.Context(), &tarnv1.ReportRequest{
		HostId: r.GetHostId(), SessionId: "first", Sequence: 2, Purges: []*tarnv1.PurgeReport{{Guid: 7, Error: "in use"}},
	}); err != nil {
		t.Fatal(err)
	}
	list, err := op.Replicas.ListDivergentCopies(t.Context(), &tarnv1.ListDivergentCopiesRequest{ShareId: share.GetId()})
	if err != nil || list.GetDivergentCopies()[0].GetPurge().GetError() != "in use" {
		t.Errorf("list %v, %v", list, err)
	}
	if s.log.proposals() != before {
		t.Error("looking wrote to the log")
	}
}
