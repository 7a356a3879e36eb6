package api_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// reporting plays a host's agent that answers what it is asked, until the test ends.
func (s *server) reporting(hostID string, agent tarnv1connect.AgentServiceClient, answer func(*tarnv1.Inquiry) *tarnv1.InquiryAnswer) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		req := &tarnv1.ReportRequest{HostId: hostID, SessionId: "first"}
		for ctx.Err() == nil {
			req.Sequence++
			res, err := agent.Report(ctx, req)
			if err != nil && ctx.Err() == nil {
				s.t.Errorf("report: %v", err)
				return
			}
			req.Answers = nil
			for _, i := range res.GetInquiries() {
				a := answer(i)
				a.Id = i.GetId()
				req.Answers = append(req.Answers, a)
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond): // an agent's interval, shortened
			}
		}
	}()
}

func TestShareRetentionAsksEveryHost(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	agents := map[string]tarnv1connect.AgentServiceClient{}
	for _, name := range []string{"one", "two", "three"} {
		id, agent := s.storage(name, "az-"+name)
		agents[id] = agent
	}
	kind := s.shareType(op, "gold")
	_, err := op.ShareTypes.SetExtraSpecs(t.Context(), &tarnv1.SetExtraSpecsRequest{Id: kind.GetId(), ExtraSpecs: map[string]string{"tarn:keep": "1h:all"}})
	if err != nil {
		t.Fatal(err)
	}
	user := s.member("blue")
	share := s.share(user, kind, "docs")
	for range 2 {
		if _, err := user.Replicas.CreateReplica(t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()}); err != nil {
			t.Fatal(err)
		}
		s.available(share.GetId())
	}
	replicas := s.fsm.View().ReplicasOfShare(share.GetId())
	// The first answers, the second cannot, the third is silent.
	asked := make(chan *tarnv1.RetentionQuestion, 100)
	s.reporting(replicas[0].GetHostId(), agents[replicas[0].GetHostId()], func(i *tarnv1.Inquiry) *tarnv1.InquiryAnswer {
		asked <- i.GetRetention()
		return &tarnv1.InquiryAnswer{Answer: &tarnv1.InquiryAnswer_Retention{Retention: &tarnv1.RetentionPreview{Total: 3, Snapshots: []*tarnv1.RetentionVerdict{
			{Name: "tarn.1", Causes: []*tarnv1.RetentionCause{{Reason: tarnv1.RetentionReason_RETENTION_REASON_CLONED, Detail: "tank/secret"}}},
		}}}}
	})
	s.reporting(replicas[1].GetHostId(), agents[replicas[1].GetHostId()], func(*tarnv1.Inquiry) *tarnv1.InquiryAnswer {
		return &tarnv1.InquiryAnswer{Error: "tank/secret is on fire"}
	})
	before := s.log.proposals()
	req := &tarnv1.GetShareRetentionRequest{Id: share.GetId(), MaxWait: durationpb.New(time.Second)}
	got, err := op.Shares.GetShareRetention(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if q := <-asked; q.GetReplicaId() != replicas[0].GetId() || q.GetKeep().GetRules()[0].GetUpTo().AsDuration() != time.Hour {
		t.Errorf("asked %v", q)
	}
	r := got.GetReplicas()
	if got.GetKeep() != "1h:all" || len(r) != 3 || r[0].GetPreview().GetTotal() != 3 || r[0].GetHost() == "" {
		t.Errorf("answer %v", got)
	}
	if r[1].GetPreview() != nil || r[1].GetError() != "tank/secret is on fire" || !strings.Contains(r[2].GetError(), "did not answer within 1s") {
		t.Errorf("hosts without an answer: %v", r[1:])
	}
	try := "24h:1h"
	req.Keep = &try
	got, err = user.Shares.GetShareRetention(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if q := <-asked; q.GetKeep().GetRules()[0].GetEvery().AsDuration() != time.Hour {
		t.Errorf("asked %v", q)
	}
	if text := got.String(); strings.Contains(text, "secret") || strings.Contains(text, "dir#tank") {
		t.Errorf("a user sees %s", text)
	}
	if s.log.proposals() != before {
		t.Error("questions were written to the log")
	}
	s.retentionRefuses(share.GetId(), req)
}

func (s *server) retentionRefuses(shareID string, req *tarnv1.GetShareRetentionRequest) {
	t := s.t
	t.Helper()
	op := s.operator()
	bad := "1h:all,nonsense"
	req.Keep = &bad
	wantCode(t, second(op.Shares.GetShareRetention(t.Context(), req)), connect.CodeInvalidArgument)
	req.Keep, req.MaxWait = nil, durationpb.New(time.Minute)
	wantCode(t, second(op.Shares.GetShareRetention(t.Context(), req)), connect.CodeInvalidArgument)
	req.MaxWait = durationpb.New(time.Second)
	wantCode(t, second(s.member("green").Shares.GetShareRetention(t.Context(), req)), connect.CodeNotFound)
	// Of hosts that are down nobody waits for an answer.
	batch := &raftv1.Transitions{}
	for h := range s.fsm.View().Hosts() {
		batch.Hosts = append(batch.Hosts, &raftv1.HostTransition{Id: h.GetId(), State: tarnv1.HostState_HOST_STATE_DOWN, ExpectedState: h.GetState()})
	}
	if _, err := s.log.Propose(t.Context(), &raftv1.Command{Verb: &raftv1.Command_Transitions{Transitions: batch}}); err != nil {
		t.Fatal(err)
	}
	req.MaxWait = durationpb.New(20 * time.Second)
	got, err := op.Shares.GetShareRetention(t.Context(), req)
	if err != nil || slices.ContainsFunc(got.GetReplicas(), func(r *tarnv1.ReplicaRetention) bool { return !strings.Contains(r.GetError(), "is down") }) {
		t.Errorf("with all hosts down: %v, %v", got, err)
	}
}
