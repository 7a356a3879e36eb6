package api_test

import (
	"strings"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestUsersDoNotReadAgentsWords: what an agent says of an error may name hosts and datasets.
// Users get the code and a sentence of the control plane's.
func TestUsersDoNotReadAgentsWords(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	id, agent := s.storage("one", "az1")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	replica := s.fsm.View().ReplicasOfShare(share.GetId())[0]
	told := &tarnv1.ReplicaError{
		Code: tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE, Message: "receive tank/secret: no space left", Retrying: true,
	}
	if _, err := agent.Report(t.Context(), &tarnv1.ReportRequest{
		HostId: id, SessionId: "first", Sequence: 1, Full: true,
		Replicas: []*tarnv1.ReplicaReport{{ReplicaId: replica.GetId(), ShareId: share.GetId(), Error: told}},
	}); err != nil {
		t.Fatal(err)
	}
	seen, err := op.Replicas.GetReplica(t.Context(), &tarnv1.GetRequest{Id: replica.GetId()})
	if err != nil || seen.GetObserved().GetError().GetMessage() != told.GetMessage() {
		t.Errorf("operators see %v, %v", seen.GetObserved().GetError(), err)
	}
	user := s.member(share.GetProjectId())
	seen, err = user.Replicas.GetReplica(t.Context(), &tarnv1.GetRequest{Id: replica.GetId()})
	got := seen.GetObserved().GetError()
	if err != nil || got.GetCode() != told.GetCode() || !got.GetRetrying() || got.GetMessage() == "" || strings.Contains(got.GetMessage(), "secret") {
		t.Errorf("users see %v, %v", got, err)
	}
	if again, err := op.Replicas.GetReplica(t.Context(), &tarnv1.GetRequest{Id: replica.GetId()}); err != nil || again.GetObserved().GetError().GetMessage() != told.GetMessage() {
		t.Errorf("what users see has changed what operators see: %v, %v", again.GetObserved().GetError(), err)
	}
}
