package controlplane_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

func readableType(t testing.TB, op *client.Client) *tarnv1.ShareType {
	t.Helper()
	kind, err := op.ShareTypes.CreateShareType(t.Context(), &tarnv1.CreateShareTypeRequest{
		Name: "readable-" + uuid.NewString()[:8],
		ExtraSpecs: map[string]string{
			"driver_handles_share_servers": "false", "replication_type": "readable", "snapshot_support": "true",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return kind
}

// awaitReplica polls until the replica is in the wanted state.
func (h *harness) awaitReplica(cl *client.Client, id string, want tarnv1.ReplicaState) {
	h.t.Helper()
	h.await("replica "+want.String(), func() bool {
		r, err := cl.Replicas.GetReplica(context.Background(), &tarnv1.GetRequest{Id: id})
		return err == nil && r.GetStatus() == tarnv1.Status_STATUS_AVAILABLE && r.GetReplicaState() == want
	})
}

func (h *harness) awaitShare(cl *client.Client, id string) *tarnv1.Share {
	h.t.Helper()
	var s *tarnv1.Share
	h.await("share available", func() (ok bool) {
		var err error
		s, err = cl.Shares.GetShare(context.Background(), &tarnv1.GetRequest{Id: id})
		return err == nil && s.GetStatus() == tarnv1.Status_STATUS_AVAILABLE
	})
	return s
}

func TestShareLivesThroughReplicaPromotionAndLeaderLoss(t *testing.T) {
	h := newHarness(t, 3)
	h.leader()
	op, user := h.operator(), h.member("blue")
	h.agent("one", "az1")
	h.agent("two", "az2")
	kind := readableType(t, op)

	share, err := user.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{
		Name: "docs", SizeGib: 10, ShareType: kind.GetName(), AvailabilityZone: "az1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if share.GetHost() != "" {
		t.Errorf("a member sees host %q", share.GetHost())
	}
	share = h.awaitShare(user, share.GetId())
	if len(share.GetExportLocations()) != 1 {
		t.Errorf("export locations %v, want one", share.GetExportLocations())
	}

	replica, err := user.Replicas.CreateReplica(t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if replica.GetAvailabilityZone() != "az2" {
		t.Errorf("replica went to %q, want the other zone", replica.GetAvailabilityZone())
	}
	h.awaitReplica(user, replica.GetId(), tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC)

	first, second := h.leader(), replica.GetId()
	first.stop(t)
	promoted, err := user.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{Id: second})
	if err != nil {
		t.Fatalf("after the leader went: %v", err)
	}
	if !promoted.GetStarted() {
		t.Error("promotion did not start")
	}
	h.awaitReplica(user, second, tarnv1.ReplicaState_REPLICA_STATE_ACTIVE)
	again, err := user.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{Id: second})
	if err != nil || again.GetStarted() {
		t.Errorf("promotion of the active: started %v, %v", again.GetStarted(), err)
	}
	list, err := user.Replicas.ListReplicas(t.Context(), &tarnv1.ListReplicasRequest{ShareId: share.GetId()})
	if err != nil || list.GetTotal() != 2 {
		t.Fatalf("list: %d replicas, %v", list.GetTotal(), err)
	}
	actives := 0
	for _, r := range list.GetReplicas() {
		if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
			actives++
		}
	}
	if actives != 1 {
		t.Errorf("%d actives, want one", actives)
	}
}

func TestOfTwoPromotionsAtOnceOneWins(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	op := h.operator()
	for _, name := range []string{"one", "two", "three"} {
		h.agent(name, "az-"+name)
	}
	share, err := op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{SizeGib: 1, ShareType: readableType(t, op).GetId()})
	if err != nil {
		t.Fatal(err)
	}
	h.awaitShare(op, share.GetId())
	var ids []string
	for range 2 {
		r, err := op.Replicas.CreateReplica(t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.GetId())
	}
	for _, id := range ids {
		h.awaitReplica(op, id, tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC)
	}
	outcomes := make(chan error, len(ids))
	for _, id := range ids {
		go func() {
			_, err := op.Replicas.PromoteReplica(context.Background(), &tarnv1.PromoteReplicaRequest{Id: id})
			outcomes <- err
		}()
	}
	won := 0
	for range ids {
		switch err := <-outcomes; connect.CodeOf(err) {
		case connect.CodeFailedPrecondition, connect.CodeAborted:
		default:
			if err != nil {
				t.Errorf("loser got %v", err)
			}
			won++
		}
	}
	// The second may come after the first is through: then both are legal, one after the other.
	if won == 0 {
		t.Error("neither promotion was taken")
	}
	h.await("exactly one active and no promotion", func() bool {
		list, err := op.Replicas.ListReplicas(context.Background(), &tarnv1.ListReplicasRequest{ShareId: share.GetId()})
		actives, settled := 0, err == nil
		for _, r := range list.GetReplicas() {
			settled = settled && r.GetStatus() == tarnv1.Status_STATUS_AVAILABLE
			if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
				actives++
			}
		}
		if actives > 1 {
			t.Fatalf("%d actives", actives)
		}
		return settled && actives == 1
	})
}

func TestAdminListener(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	base := "http://" + h.nodes[0].cfg.AdminSocket.Addr().String()
	get := func(path string) (int, string) {
		res, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if code, body := get(path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if _, body := get("/metrics"); !strings.Contains(body, "tarn_raft_") {
		t.Error("no raft metrics")
	}
}

func TestStopsWithOpenPolls(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	h.agent("one", "az1")
	h.nodes[0].stop(t)
}
