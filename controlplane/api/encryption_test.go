package api_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// A replica of an encrypted share is promoted only where its key is; what is refused
// has stopped nothing, and says what to do.
func TestPromotionNeedsTheKey(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	agents, names := map[string]tarnv1connect.AgentServiceClient{}, map[string]string{}
	for _, name := range []string{"one", "two"} {
		id, agent := s.storage(name, "az-"+name)
		agents[id], names[id] = agent, name
		host := hostRecord(id, name, "az-"+name)
		host.Pools[0].Capabilities["tarn:encryption"] = "true"
		if _, err := agent.Register(t.Context(), &tarnv1.RegisterRequest{Host: host}); err != nil {
			t.Fatal(err)
		}
	}
	kind, err := op.ShareTypes.CreateShareType(t.Context(), &tarnv1.CreateShareTypeRequest{Name: "safe", ExtraSpecs: map[string]string{
		"driver_handles_share_servers": "false", "replication_type": "readable", "tarn:encryption": "on",
	}})
	if err != nil {
		t.Fatal(err)
	}
	user := s.member("p")
	share := s.share(user, kind, "secrets")
	replica, err := user.Replicas.CreateReplica(t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	s.available(share.GetId())
	target, err := op.Replicas.GetReplica(t.Context(), &tarnv1.GetRequest{Id: replica.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	host, sequence := target.GetHostId(), uint64(0)
	report := func(r *tarnv1.ReplicaReport) {
		t.Helper()
		sequence++
		r.ReplicaId = target.GetId()
		_, err := agents[host].Report(t.Context(), &tarnv1.ReportRequest{
			HostId: host, SessionId: "first", Sequence: sequence, Replicas: []*tarnv1.ReplicaReport{r},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	refusal := func(who tarnv1connect.ReplicaServiceClient, req *tarnv1.PromoteReplicaRequest) string {
		t.Helper()
		req.Id = target.GetId()
		_, err := who.PromoteReplica(t.Context(), req)
		wantCode(t, err, connect.CodeFailedPrecondition)
		now, rerr := op.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})
		if rerr != nil || now.GetFencing().GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_ACTIVE {
			t.Errorf("the refused promotion left %v, %v", now.GetFencing(), rerr)
		}
		return err.Error()
	}
	if got := refusal(op.Replicas, &tarnv1.PromoteReplicaRequest{}); !strings.Contains(got, "has not said yet") {
		t.Errorf("nothing reported: %s", got)
	}
	report(&tarnv1.ReplicaReport{KeyState: tarnv1.KeyState_KEY_STATE_MISSING, KeyFile: "/keys/x.key"})
	for name, req := range map[string]*tarnv1.PromoteReplicaRequest{
		"planned": {}, "forced": {Force: true, Consent: &tarnv1.Consent{Reason: "test"}},
	} {
		got := refusal(op.Replicas, req)
		if !strings.Contains(got, "to /keys/x.key") || !strings.Contains(got, names[host]) {
			t.Errorf("%s: the operator is not told what to do: %s", name, got)
		}
	}
	if got := refusal(user.Replicas, &tarnv1.PromoteReplicaRequest{}); strings.Contains(got, "/keys") || !strings.Contains(got, "operator") {
		t.Errorf("the user is told: %s", got)
	}
	seen, err := user.Replicas.GetReplica(t.Context(), &tarnv1.GetRequest{Id: target.GetId()})
	if err != nil || seen.GetObserved().GetKeyFile() != "" {
		t.Errorf("users see the key's place %q, %v", seen.GetObserved().GetKeyFile(), err)
	}
	damaged := &tarnv1.ReplicaError{Code: tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED, Retrying: true}
	report(&tarnv1.ReplicaReport{KeyState: tarnv1.KeyState_KEY_STATE_AVAILABLE, Error: damaged})
	if got := refusal(op.Replicas, &tarnv1.PromoteReplicaRequest{}); !strings.Contains(got, "cannot read") {
		t.Errorf("a damaged replica: %s", got)
	}
	report(&tarnv1.ReplicaReport{KeyState: tarnv1.KeyState_KEY_STATE_AVAILABLE})
	if _, err := op.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{Id: target.GetId()}); err != nil {
		t.Errorf("with the key: %v", err)
	}
}
