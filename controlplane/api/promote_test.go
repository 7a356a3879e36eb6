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

// promotable is a share whose second replica is to be promoted.
func (s *server) promotable(op *client.Client) (*tarnv1.Share, *tarnv1.Replica) {
	s.t.Helper()
	s.host("one", "az1")
	s.host("two", "az2")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	r, err := op.Replicas.CreateReplica(s.t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.available(share.GetId())
	return share, r
}

// TestForcedPromotionHasAReason, in the request or in the header, which is kept with the
// promotion and in the audit log.
func TestForcedPromotionHasAReason(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	share, r := s.promotable(op)
	_, err := op.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{Id: r.GetId(), Force: true})
	wantCode(t, err, connect.CodeInvalidArgument)
	if v := client.Violations(err); len(v) != 1 || v[0].GetField() != "consent.reason" {
		t.Errorf("violations %v", v)
	}
	if f := s.fencing(share); f.GetTargetReplicaId() != "" {
		t.Errorf("it began without a reason: %v", f)
	}
	why, err := client.New(client.Config{Addresses: []string{s.addr}, TLS: s.tls(operatorSubject()), Reason: "the rack is dark"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(why.Close)
	if _, err := why.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{Id: r.GetId(), Force: true}); err != nil {
		t.Fatal(err)
	}
	if got := s.fencing(share).GetConsent().GetReason(); got != "the rack is dark" {
		t.Errorf("kept with the promotion: %q", got)
	}
	if head := s.fsm.View().AuditHead(); head.GetReason() != "the rack is dark" || head.GetAction() != "promote_replica" {
		t.Errorf("in the audit log: %v", head)
	}
}

func (s *server) fencing(share *tarnv1.Share) *tarnv1.Fencing {
	stored, _ := s.fsm.View().Share(share.GetId())
	return stored.GetFencing()
}

// TestPromotionIsAnsweredAlike when it is repeated by its number, also when it has ended
// meanwhile; another number is none of the promotion that made the replica active.
func TestPromotionIsAnsweredAlike(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	share, r := s.promotable(op)
	req := func(id string) *tarnv1.PromoteReplicaRequest {
		return &tarnv1.PromoteReplicaRequest{Id: r.GetId(), AtOnce: true, OpId: id}
	}
	const number = "7f2c8a4e-0f0c-4f5e-9d3a-000000000008"
	if first, err := op.Replicas.PromoteReplica(t.Context(), req(number)); err != nil || !first.GetStarted() || first.GetOpId() != number {
		t.Fatal(first, err)
	}
	for _, cmd := range []*raftv1.Command{
		{Verb: &raftv1.Command_CommitDemotion{CommitDemotion: &raftv1.CommitDemotion{ShareId: share.GetId(), OpId: number, Epoch: 1, FinalGuid: 7}}},
		{Verb: &raftv1.Command_Activate{Activate: &raftv1.Activate{ShareId: share.GetId(), OpId: number, Epoch: 1, HeadGuid: 7}}},
	} {
		if res, err := s.log.Propose(t.Context(), cmd); err != nil || res.Err != nil {
			t.Fatal(res, err)
		}
	}
	for id, want := range map[string]string{number: number, "7f2c8a4e-0f0c-4f5e-9d3a-000000000009": ""} {
		again, err := op.Replicas.PromoteReplica(t.Context(), req(id))
		if err != nil || again.GetOpId() != want || again.GetStarted() != (want != "") || again.GetReplica().GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
			t.Errorf("%s: %v, %v", id, again, err)
		}
	}
}

// TestTimeOfAPlannedPromotionIsKept in the state, where a later leader finds it.
func TestTimeOfAPlannedPromotionIsKept(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	share, r := s.promotable(op)
	req := &tarnv1.PromoteReplicaRequest{Id: r.GetId(), QuiesceWaitTime: durationpb.New(90 * time.Second)}
	if _, err := op.Replicas.PromoteReplica(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	p := s.fencing(share).GetPreparing()
	if got := p.GetUntil().AsTime().Sub(p.GetSince().AsTime()); got != 90*time.Second {
		t.Errorf("it ends after %s", got)
	}
	shown, err := op.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})
	if want := "ends by itself at " + p.GetUntil().AsTime().Format(time.TimeOnly); err != nil || !strings.Contains(shown.GetFencing().GetRight().GetWaitingFor(), want) {
		t.Errorf("shown: %v, %v; want %q", shown.GetFencing().GetRight(), err, want)
	}
}

// TestForcedPromotionByTwo: the policy wants a second person, and one is not two.
func TestForcedPromotionByTwo(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	share, r := s.promotable(op)
	s.follow("\"share_replica:promote_forced\": {allow: \"role:operator\", second: required}\n")
	req := &tarnv1.PromoteReplicaRequest{Id: r.GetId(), Force: true, OpId: "7f2c8a4e-0f0c-4f5e-9d3a-000000000007", Consent: &tarnv1.Consent{Reason: "the rack is dark"}}
	for _, who := range []*client.Client{op, op} {
		if _, err := who.Replicas.PromoteReplica(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if second := s.fencing(share).GetSecond(); second.GetAskedBy() == "" || second.GetGivenBy() != "" {
			t.Fatalf("one person asks: %v", second)
		}
	}
	if _, err := s.operator().Replicas.PromoteReplica(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	second := s.fencing(share).GetSecond()
	if second.GetGivenBy() == "" || second.GetGivenBy() == second.GetAskedBy() {
		t.Errorf("two people ask: %v", second)
	}
	seen, err := s.member("default").Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})
	if got := seen.GetFencing().GetSecond(); err != nil || got == nil || got.GetAskedBy() != "" || got.GetGivenBy() != "" {
		t.Errorf("people of the project see %v, %v", got, err)
	}
}

// TestPromotionAtOnceEnds: an owner that is to stop at once and cannot has a minute, or what
// was asked for, by the state's own word; a forced promotion has no such time.
func TestPromotionAtOnceEnds(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	share, r := s.promotable(op)
	for name, c := range map[string]struct {
		req  *tarnv1.PromoteReplicaRequest
		want time.Duration
	}{
		"no time given": {&tarnv1.PromoteReplicaRequest{AtOnce: true}, time.Minute},
		"a time given":  {&tarnv1.PromoteReplicaRequest{AtOnce: true, QuiesceWaitTime: durationpb.New(5 * time.Minute)}, 5 * time.Minute},
		"forced":        {&tarnv1.PromoteReplicaRequest{Force: true, Consent: &tarnv1.Consent{Reason: "the rack is dark"}}, 0},
	} {
		c.req.Id = r.GetId()
		if _, err := op.Replicas.PromoteReplica(t.Context(), c.req); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f := s.fencing(share)
		got := time.Duration(0)
		if f.GetQuiesceUntil() != nil {
			got = f.GetQuiesceUntil().AsTime().Sub(f.GetStartedAt().AsTime())
		}
		if f.GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_FENCING || got != c.want {
			t.Errorf("%s: it ends after %s, want %s: %v", name, got, c.want, f)
		}
		if _, err := op.Replicas.CancelPromotion(t.Context(), &tarnv1.CancelPromotionRequest{ShareId: share.GetId()}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// TestCancelledPromotionsAreForgotten: whoever promotes and cancels all day leaves nothing
// in the leader's memory.
func TestCancelledPromotionsAreForgotten(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	share, r := s.promotable(op)
	for range 3 {
		if _, err := op.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{
			Id: r.GetId(), AtOnce: true, QuiesceWaitTime: durationpb.New(time.Minute),
		}); err != nil {
			t.Fatal(err)
		}
		if n := len(s.soft.Snapshot(time.Now(), nil).Quiesce); n != 1 {
			t.Errorf("%d promotions are remembered, one runs", n)
		}
		if _, err := op.Replicas.CancelPromotion(t.Context(), &tarnv1.CancelPromotionRequest{ShareId: share.GetId()}); err != nil {
			t.Fatal(err)
		}
	}
	if left := s.soft.Snapshot(time.Now(), nil).Quiesce; len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
