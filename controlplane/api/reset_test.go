package api_test

import (
	"testing"

	"connectrpc.com/connect"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestResetDestroysNothing: hosts destroy what is error_deleting, and a share whose owner
// they destroyed goes away as a whole. That status is a correction of a deletion only.
func TestResetDestroysNothing(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	share, r := s.promotable(op)
	to := tarnv1.Status_STATUS_ERROR_DELETING
	wantCode(t, second(op.Shares.ResetShareStatus(t.Context(), &tarnv1.ResetStatusRequest{Id: share.GetId(), Status: to})), connect.CodeFailedPrecondition)
	for _, replica := range s.fsm.View().ReplicasOfShare(share.GetId()) {
		wantCode(t, second(op.Replicas.ResetReplicaStatus(t.Context(), &tarnv1.ResetStatusRequest{Id: replica.GetId(), Status: to})), connect.CodeFailedPrecondition)
	}
	if _, err := op.Replicas.DeleteReplica(t.Context(), &tarnv1.DeleteReplicaRequest{Id: r.GetId()}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := op.Replicas.ResetReplicaStatus(t.Context(), &tarnv1.ResetStatusRequest{Id: r.GetId(), Status: to}); err != nil {
			t.Errorf("a deletion that hangs: %v", err)
		}
	}
}
