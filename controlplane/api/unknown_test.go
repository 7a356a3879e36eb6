package api_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// TestUnknownReplicasAreDecidedAbout: an operator sees what a host has and the restored
// state does not know, and makes it a replica or lets the share go on without it.
func TestUnknownReplicasAreDecidedAbout(t *testing.T) {
	const x, y, old = "7f2c8a4e-0f0c-4f5e-9d3a-0000000000a1", "7f2c8a4e-0f0c-4f5e-9d3a-0000000000a2", "7f2c8a4e-0f0c-4f5e-9d3a-0000000000a3"
	s := newServer(t)
	op := s.operator()
	share, _ := s.promotable(op)
	host := s.host("three", "az3")
	var saved, state bytes.Buffer
	if _, err := s.fsm.View().WriteTo(&saved); err != nil {
		t.Fatal(err)
	}
	if err := raftfsm.RestoredState(&state, &saved); err != nil {
		t.Fatal(err)
	}
	if err := s.fsm.Restore(io.NopCloser(&state)); err != nil {
		t.Fatal(err)
	}
	s.log.set(func() { s.log.index = s.fsm.View().Index() })
	unknown := func(id string, epoch uint64) *tarnv1.UnknownReplica {
		return &tarnv1.UnknownReplica{ReplicaId: id, ShareId: share.GetId(), HostId: host, Pool: "tank", Dataset: "tank/tarn/" + id, Epoch: epoch}
	}
	news := &raftv1.Transitions{Shares: []*raftv1.ShareTransition{{
		Id: share.GetId(), Found: &raftv1.FoundEpochs{ExpectedEpoch: 1, Unknown: []*tarnv1.UnknownReplica{unknown(x, 2), unknown(y, 3)}},
	}}}
	if res, err := s.log.Propose(t.Context(), &raftv1.Command{Verb: &raftv1.Command_Transitions{Transitions: news}}); err != nil || res.Dropped != 0 {
		t.Fatal(res, err)
	}
	s.soft.Report(&tarnv1.ReportRequest{
		HostId: host, SessionId: "first", Sequence: 1, OrphansKnown: true,
		UnknownReplicas: []*tarnv1.UnknownReplica{unknown(x, 2), unknown(y, 3), unknown(old, 1)},
	}, time.Now())

	found, err := op.Replicas.ListUnknownReplicas(t.Context(), &tarnv1.ListUnknownReplicasRequest{ShareId: share.GetId()})
	if err != nil || len(found.GetUnknownReplicas()) != 3 {
		t.Fatalf("listed %v, %v", found, err)
	}
	for _, u := range found.GetUnknownReplicas() {
		if !strings.HasPrefix(u.GetHost(), "three@") || (u.GetFoundAt() == nil) != (u.GetReplicaId() == old) {
			t.Errorf("listed %v", u)
		}
	}
	status, err := op.Operator.GetStatus(t.Context(), &tarnv1.GetStatusRequest{})
	if err != nil || !strings.Contains(strings.Join(status.GetProblems(), " "), "newer data of it in 2 replicas") {
		t.Errorf("status %v, %v", status.GetProblems(), err)
	}
	shown, err := op.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})
	if err != nil || !strings.Contains(shown.GetFencing().GetRight().GetWaitingFor(), "tarn replica unknown adopt "+y) {
		t.Errorf("shown %v, %v", shown.GetFencing().GetRight(), err)
	}

	seen, err := s.member("default").Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})
	if err != nil || len(seen.GetFencing().GetUnknownReplicas()) != 2 {
		t.Fatalf("a user sees %v, %v", seen.GetFencing(), err)
	}
	for _, u := range seen.GetFencing().GetUnknownReplicas() {
		if u.GetHostId() != "" || u.GetHost() != "" || u.GetPool() != "" || u.GetDataset() != "" || u.GetReplicaId() == "" {
			t.Errorf("a user sees %v", u)
		}
	}
	// They are of all projects: no policy opens them to one.
	s.follow(generous())
	_, err = s.member("red").Replicas.DismissUnknownReplica(t.Context(), &tarnv1.UnknownReplicaRequest{ReplicaId: x})
	wantCode(t, err, connect.CodePermissionDenied)
	_, err = s.member("red").Replicas.ListUnknownReplicas(t.Context(), &tarnv1.ListUnknownReplicasRequest{})
	wantCode(t, err, connect.CodePermissionDenied)
	_, err = op.Replicas.AdoptUnknownReplica(t.Context(), &tarnv1.UnknownReplicaRequest{ReplicaId: old})
	wantCode(t, err, connect.CodeFailedPrecondition)
	r, err := op.Replicas.AdoptUnknownReplica(t.Context(), &tarnv1.UnknownReplicaRequest{ReplicaId: y})
	if err != nil || r.GetId() != y || r.GetHostId() != host || r.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
		t.Fatalf("adopted %v, %v", r, err)
	}
	left, err := op.Replicas.DismissUnknownReplica(t.Context(), &tarnv1.UnknownReplicaRequest{ReplicaId: x})
	if err != nil || len(left.GetFencing().GetUnknownReplicas()) != 1 || left.GetFencing().GetUnknownReplicas()[0].GetDismissedBy() == "" {
		t.Errorf("dismissed %v, %v", left.GetFencing(), err)
	}
	if head := s.fsm.View().AuditHead(); head.GetAction() != "dismiss_unknown_replica" {
		t.Errorf("in the audit log: %v", head)
	}
}
