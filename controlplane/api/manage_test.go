package api_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	tarnv1 "tarn/proto/tarn/v1"
)

func TestManageShareIsPlacedWhereItsDataAre(t *testing.T) {
	s := newServer(t)
	op, ctx := s.operator(), t.Context()
	id := s.host("one", "az1")
	s.host("two", "az2")
	s.shareType(op, "gold")
	for _, host := range []string{"one", id, "one@dir", "one@dir#tank"} {
		share, err := op.Shares.ManageShare(ctx, &tarnv1.ManageShareRequest{Dataset: "tank/" + uuid.NewString(), Host: host, ShareType: "gold"})
		if err != nil {
			t.Errorf("host as %s: %v", host, err)
			continue
		}
		if share.GetStatus() != tarnv1.Status_STATUS_MANAGE_STARTING || share.GetHost() != "one@dir#tank" || share.GetSizeGib() != 0 {
			t.Errorf("host as %s: %v", host, share)
		}
	}
	for host, want := range map[string]string{"one#dozer": "names pool", "one@zfs": "names backend", "three": "does not exist"} {
		_, err := op.Shares.ManageShare(ctx, &tarnv1.ManageShareRequest{Dataset: "tank/data", Host: host, ShareType: "gold"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("host as %s: %v", host, err)
		}
	}
	_, err := op.Shares.ManageShare(ctx, &tarnv1.ManageShareRequest{Dataset: "dozer/data", Host: "one", ShareType: "gold"})
	wantCode(t, err, connect.CodeFailedPrecondition)
	if err != nil && !strings.Contains(err.Error(), "tank") {
		t.Errorf("does not name the pools that there are: %v", err)
	}
}

// What the share's type asks of a pool is asked of the one that has the data; room is not.
func TestManageShareAsksTheTypesFilters(t *testing.T) {
	s := newServer(t)
	op, ctx := s.operator(), t.Context()
	s.host("one", "az1")
	kind, err := op.ShareTypes.CreateShareType(ctx, &tarnv1.CreateShareTypeRequest{Name: "dr", ExtraSpecs: map[string]string{
		"driver_handles_share_servers": "false", "replication_type": "dr",
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = op.Shares.ManageShare(ctx, &tarnv1.ManageShareRequest{Dataset: "tank/data", Host: "one", ShareType: kind.GetId()})
	wantCode(t, err, connect.CodeFailedPrecondition)
	if err != nil && !strings.Contains(err.Error(), "replication_type") && !strings.Contains(err.Error(), "no pool") {
		t.Errorf("refused with %v", err)
	}
	s.shareType(op, "gold")
	if _, err = op.Quotas.UpdateQuota(ctx, &tarnv1.QuotaLimits{ProjectId: "default", Limits: map[string]int64{"gigabytes": -1, "replica_gigabytes": -1, "per_share_gigabytes": -1}}); err != nil {
		t.Fatal(err)
	}
	if _, err = op.Shares.ManageShare(ctx, &tarnv1.ManageShareRequest{Dataset: "tank/data", Host: "one", ShareType: "gold", SizeGib: 900_000}); err != nil {
		t.Errorf("data that are there need no room: %v", err)
	}
}

func TestManageIsIdempotentByID(t *testing.T) {
	s := newServer(t)
	op, ctx := s.operator(), t.Context()
	s.host("one", "az1")
	s.host("two", "az2")
	s.shareType(op, "gold")
	req := &tarnv1.ManageShareRequest{Id: uuid.NewString(), Dataset: "tank/data", Host: "one", ShareType: "gold", Name: "docs"}
	first, err := op.Shares.ManageShare(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := op.Shares.ManageShare(ctx, req)
	if err != nil || again.GetRevision() != first.GetRevision() {
		t.Errorf("repeated: %v, %v", again, err)
	}
	req.Dataset = "tank/other"
	wantCode(t, second(op.Shares.ManageShare(ctx, req)), connect.CodeAlreadyExists)
	req.Id, req.Dataset = "", "tank/data"
	wantCode(t, second(op.Shares.ManageShare(ctx, req)), connect.CodeAlreadyExists)
	wantCode(t, second(op.Replicas.CreateReplica(ctx, &tarnv1.CreateReplicaRequest{ShareId: first.GetId(), FromDataset: "tank/copy"})), connect.CodeInvalidArgument)
	wantCode(t, second(op.Shares.DeleteShare(ctx, &tarnv1.DeleteShareRequest{Id: first.GetId()})), connect.CodeFailedPrecondition)
}

func TestManagedReplicaIsForOperatorsAndHidesItsName(t *testing.T) {
	s := newServer(t)
	op, ctx := s.operator(), t.Context()
	s.host("one", "az1")
	s.host("two", "az2")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	req := &tarnv1.CreateReplicaRequest{ShareId: share.GetId(), OnlyHost: "two", FromDataset: "tank/copy"}
	member := s.member("default")
	wantCode(t, second(member.Replicas.CreateReplica(ctx, req)), connect.CodePermissionDenied)
	r, err := op.Replicas.CreateReplica(ctx, req)
	if err != nil || r.GetManagedFrom() != "tank/copy" || r.GetStatus() != tarnv1.Status_STATUS_MANAGE_STARTING {
		t.Fatalf("%v, %v", r, err)
	}
	seen, err := member.Replicas.GetReplica(ctx, &tarnv1.GetRequest{Id: r.GetId()})
	if err != nil || seen.GetManagedFrom() != "" {
		t.Errorf("a member sees %v, %v", seen, err)
	}
	wantCode(t, second(op.Shares.UnmanageShare(ctx, &tarnv1.UnmanageShareRequest{Id: share.GetId()})), connect.CodeFailedPrecondition)
	r, err = op.Replicas.UnmanageReplica(ctx, &tarnv1.UnmanageReplicaRequest{Id: r.GetId()})
	if err != nil || r.GetStatus() != tarnv1.Status_STATUS_UNMANAGE_STARTING {
		t.Errorf("%v, %v", r, err)
	}
}

func TestDatasetNamesAreChecked(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	for _, name := range []string{"", "tank", "/tank/a", "tank/", "tank//a", "tank/..", "tank/-a", "tank/a b", "tank/a@b", "tank/ä"} {
		_, err := op.Shares.ManageShare(t.Context(), &tarnv1.ManageShareRequest{Dataset: name, Host: "one"})
		wantCode(t, err, connect.CodeInvalidArgument)
		if err != nil && !strings.Contains(err.Error(), "dataset") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
