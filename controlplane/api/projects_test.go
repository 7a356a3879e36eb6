package api_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/client"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestAnotherProjectsIDsDoNotExist calls every method that takes the id of a
// project's record with that of another project: the answer must be the one for
// an id that never was, and nothing may reach the log.
func TestAnotherProjectsIDsDoNotExist(t *testing.T) {
	s := newServer(t)
	op, blue, red := s.operator(), s.member("blue"), s.member("red")
	s.host("one", "az1")
	s.host("two", "az2")
	ids := s.projectRecords(op, blue)
	ctx := t.Context()

	before := s.log.proposals()
	const none = "7f2c8a4e-0f0c-4f5e-9d3a-00000000dead"
	for name, call := range idCalls(ctx, red) {
		foreign, absent := call(ids[name.kind]), call(none)
		if connect.CodeOf(foreign) != connect.CodeNotFound || connect.CodeOf(absent) != connect.CodeNotFound {
			t.Errorf("%s: foreign %v, absent %v: want not found", name.method, foreign, absent)
		}
	}
	if s.log.proposals() != before {
		t.Error("a request about another project's record reached the log")
	}
	lists(t, red, ids["share"])
}

// projectRecords makes one record of each kind in a project, and returns their ids.
func (s *server) projectRecords(op, owner *client.Client) map[string]string {
	s.t.Helper()
	ctx := context.Background()
	share := s.share(owner, s.shareType(op, "gold"), "docs")
	replica, err := owner.Replicas.CreateReplica(ctx, &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
	if err != nil {
		s.t.Fatal(err)
	}
	snap, err := owner.Snapshots.CreateSnapshot(ctx, &tarnv1.CreateSnapshotRequest{ShareId: share.GetId(), Name: "s"})
	if err != nil {
		s.t.Fatal(err)
	}
	rule, err := owner.AccessRules.AllowAccess(ctx, &tarnv1.AllowAccessRequest{ShareId: share.GetId(), AccessTo: "192.0.2.0/24"})
	if err != nil {
		s.t.Fatal(err)
	}
	instances, err := owner.Snapshots.ListSnapshotInstances(ctx, &tarnv1.ListSnapshotInstancesRequest{SnapshotId: snap.GetId()})
	if err != nil || len(instances.GetSnapshotInstances()) != 2 {
		s.t.Fatalf("instances %v, %v", instances, err)
	}
	message := uuid.NewString()
	_, err = s.log.Propose(ctx, &raftv1.Command{Verb: &raftv1.Command_Transitions{Transitions: &raftv1.Transitions{
		Messages: []*tarnv1.UserMessage{{Id: message, ProjectId: share.GetProjectId(), ResourceId: share.GetId(), ResourceType: "SHARE",
			ExpiresAt: timestamppb.New(time.Now().Add(time.Hour))}},
	}}})
	if err != nil {
		s.t.Fatal(err)
	}
	return map[string]string{
		"share": share.GetId(), "replica": replica.GetId(), "snapshot": snap.GetId(), "rule": rule.GetId(),
		"instance": instances.GetSnapshotInstances()[0].GetId(), "message": message,
	}
}

type idCall struct{ kind, method string }

func idCalls(ctx context.Context, c *client.Client) map[idCall]func(string) error {
	name := "n"
	set := func(id string) *tarnv1.SetMetadataRequest {
		return &tarnv1.SetMetadataRequest{Id: id, Metadata: map[string]string{"k": "v"}}
	}
	unset := func(id string) *tarnv1.UnsetMetadataRequest {
		return &tarnv1.UnsetMetadataRequest{Id: id, Keys: []string{"k"}}
	}
	get := func(id string) *tarnv1.GetRequest { return &tarnv1.GetRequest{Id: id} }
	size := func(id string) *tarnv1.ResizeShareRequest {
		return &tarnv1.ResizeShareRequest{Id: id, NewSizeGib: 9}
	}
	return map[idCall]func(string) error{
		{"share", "GetShare"}: func(id string) error { return second(c.Shares.GetShare(ctx, get(id))) },
		{"share", "UpdateShare"}: func(id string) error {
			return second(c.Shares.UpdateShare(ctx, &tarnv1.UpdateShareRequest{Id: id, Name: &name}))
		},
		{"share", "DeleteShare"}:              func(id string) error { return second(c.Shares.DeleteShare(ctx, &tarnv1.DeleteShareRequest{Id: id})) },
		{"share", "ExtendShare"}:              func(id string) error { return second(c.Shares.ExtendShare(ctx, size(id))) },
		{"share", "ShrinkShare"}:              func(id string) error { return second(c.Shares.ShrinkShare(ctx, size(id))) },
		{"share", "SetShareMetadata"}:         func(id string) error { return second(c.Shares.SetShareMetadata(ctx, set(id))) },
		{"share", "UnsetShareMetadata"}:       func(id string) error { return second(c.Shares.UnsetShareMetadata(ctx, unset(id))) },
		{"share", "ListShareExportLocations"}: func(id string) error { return second(c.Shares.ListShareExportLocations(ctx, get(id))) },
		{"share", "CreateReplica"}: func(id string) error {
			return second(c.Replicas.CreateReplica(ctx, &tarnv1.CreateReplicaRequest{ShareId: id}))
		},
		{"share", "CancelPromotion"}: func(id string) error {
			return second(c.Replicas.CancelPromotion(ctx, &tarnv1.CancelPromotionRequest{ShareId: id}))
		},
		{"share", "CreateSnapshot"}: func(id string) error {
			return second(c.Snapshots.CreateSnapshot(ctx, &tarnv1.CreateSnapshotRequest{ShareId: id}))
		},
		{"share", "AllowAccess"}: func(id string) error {
			return second(c.AccessRules.AllowAccess(ctx, &tarnv1.AllowAccessRequest{ShareId: id, AccessTo: "192.0.2.1"}))
		},
		{"share", "ListAccessRules"}: func(id string) error {
			return second(c.AccessRules.ListAccessRules(ctx, &tarnv1.ListAccessRulesRequest{ShareId: id}))
		},
		{"replica", "GetReplica"}: func(id string) error { return second(c.Replicas.GetReplica(ctx, get(id))) },
		{"replica", "PromoteReplica"}: func(id string) error {
			return second(c.Replicas.PromoteReplica(ctx, &tarnv1.PromoteReplicaRequest{Id: id}))
		},
		{"replica", "DeleteReplica"}: func(id string) error {
			return second(c.Replicas.DeleteReplica(ctx, &tarnv1.DeleteReplicaRequest{Id: id}))
		},
		{"replica", "SetReplicaMetadata"}:   func(id string) error { return second(c.Replicas.SetReplicaMetadata(ctx, set(id))) },
		{"replica", "UnsetReplicaMetadata"}: func(id string) error { return second(c.Replicas.UnsetReplicaMetadata(ctx, unset(id))) },
		{"replica", "ListReplicaExports"}:   func(id string) error { return second(c.Replicas.ListReplicaExportLocations(ctx, get(id))) },
		{"snapshot", "GetSnapshot"}:         func(id string) error { return second(c.Snapshots.GetSnapshot(ctx, get(id))) },
		{"snapshot", "UpdateSnapshot"}: func(id string) error {
			return second(c.Snapshots.UpdateSnapshot(ctx, &tarnv1.UpdateSnapshotRequest{Id: id, Name: &name}))
		},
		{"snapshot", "DeleteSnapshot"}: func(id string) error {
			return second(c.Snapshots.DeleteSnapshot(ctx, &tarnv1.DeleteSnapshotRequest{Id: id}))
		},
		{"snapshot", "CreateShare"}: func(id string) error {
			return second(c.Shares.CreateShare(ctx, &tarnv1.CreateShareRequest{SizeGib: 2, SnapshotId: id}))
		},
		{"instance", "GetSnapshotInstance"}: func(id string) error { return second(c.Snapshots.GetSnapshotInstance(ctx, get(id))) },
		{"message", "GetMessage"}:           func(id string) error { return second(c.Messages.GetMessage(ctx, get(id))) },
		{"message", "DeleteMessage"}:        func(id string) error { return second(c.Messages.DeleteMessage(ctx, get(id))) },
		{"share", "GetShareRetention"}: func(id string) error {
			return second(c.Shares.GetShareRetention(ctx, &tarnv1.GetShareRetentionRequest{Id: id}))
		},
		{"share", "ListDivergentCopies"}: func(id string) error {
			return second(c.Replicas.ListDivergentCopies(ctx, &tarnv1.ListDivergentCopiesRequest{ShareId: id}))
		},
		{"replica", "ListDivergentCopies"}: func(id string) error {
			return second(c.Replicas.ListDivergentCopies(ctx, &tarnv1.ListDivergentCopiesRequest{ReplicaId: id}))
		},
		{"rule", "GetAccessRule"}: func(id string) error { return second(c.AccessRules.GetAccessRule(ctx, get(id))) },
		{"rule", "DenyAccess"}:    func(id string) error { return second(c.AccessRules.DenyAccess(ctx, get(id))) },
		{"rule", "UpdateAccessRule"}: func(id string) error {
			return second(c.AccessRules.UpdateAccessRule(ctx, &tarnv1.UpdateAccessRuleRequest{Id: id, AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RO}))
		},
	}
}

// operatorCalls are those that only a policy can give to people.
func operatorCalls(ctx context.Context, c *client.Client) map[idCall]func(string) error {
	bad := tarnv1.Status_STATUS_ERROR
	return map[idCall]func(string) error{
		{"share", "ResetShareStatus"}: func(id string) error {
			return second(c.Shares.ResetShareStatus(ctx, &tarnv1.ResetStatusRequest{Id: id, Status: bad}))
		},
		{"share", "DeleteShare by force"}: func(id string) error {
			return second(c.Shares.DeleteShare(ctx, &tarnv1.DeleteShareRequest{Id: id, Force: true}))
		},
		{"replica", "ResyncReplica"}: func(id string) error {
			return second(c.Replicas.ResyncReplica(ctx, &tarnv1.GetRequest{Id: id}))
		},
		{"replica", "ResetReplicaStatus"}: func(id string) error {
			return second(c.Replicas.ResetReplicaStatus(ctx, &tarnv1.ResetStatusRequest{Id: id, Status: bad}))
		},
		{"replica", "ResetReplicaState"}: func(id string) error {
			return second(c.Replicas.ResetReplicaState(ctx, &tarnv1.ResetReplicaStateRequest{Id: id, ReplicaState: tarnv1.ReplicaState_REPLICA_STATE_ERROR}))
		},
		{"replica", "DeleteReplica by force"}: func(id string) error {
			return second(c.Replicas.DeleteReplica(ctx, &tarnv1.DeleteReplicaRequest{Id: id, Force: true}))
		},
		{"replica", "PromoteReplica by force"}: func(id string) error {
			return second(c.Replicas.PromoteReplica(ctx, &tarnv1.PromoteReplicaRequest{Id: id, Force: true, AttestHostIsDown: true,
				Consent: &tarnv1.Consent{Reason: "r"}}))
		},
		{"snapshot", "ResetSnapshotStatus"}: func(id string) error {
			return second(c.Snapshots.ResetSnapshotStatus(ctx, &tarnv1.ResetStatusRequest{Id: id, Status: bad}))
		},
		{"snapshot", "DeleteSnapshot by force"}: func(id string) error {
			return second(c.Snapshots.DeleteSnapshot(ctx, &tarnv1.DeleteSnapshotRequest{Id: id, Force: true}))
		},
	}
}

func second[T any](_ T, err error) error { return err }

// lists wants every list of another project to be empty, however it is filtered.
func lists(t *testing.T, c *client.Client, shareID string) {
	t.Helper()
	ctx := t.Context()
	for _, filter := range []string{"", shareID} {
		replicas, err := c.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: filter})
		if err != nil || replicas.GetTotal() != 0 {
			t.Errorf("replicas: %v, %v", replicas, err)
		}
		snapshots, err := c.Snapshots.ListSnapshots(ctx, &tarnv1.ListSnapshotsRequest{ShareId: filter})
		if err != nil || snapshots.GetTotal() != 0 {
			t.Errorf("snapshots: %v, %v", snapshots, err)
		}
		instances, err := c.Snapshots.ListSnapshotInstances(ctx, &tarnv1.ListSnapshotInstancesRequest{ShareId: filter})
		if err != nil || len(instances.GetSnapshotInstances()) != 0 {
			t.Errorf("instances: %v, %v", instances, err)
		}
	}
	shares, err := c.Shares.ListShares(ctx, &tarnv1.ListSharesRequest{})
	if err != nil || shares.GetTotal() != 0 {
		t.Errorf("shares: %v, %v", shares, err)
	}
	if status, err := c.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{}); err != nil || status.GetShares()+status.GetReplicas()+status.GetHostsUp() != 0 {
		t.Errorf("status: %v, %v", status, err)
	}
	if _, err := c.Quotas.GetQuota(ctx, &tarnv1.GetQuotaRequest{ProjectId: "blue"}); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("quota of another project: %v", err)
	}
}

func TestPublicSharesAreReadableEverywhere(t *testing.T) {
	s := newServer(t)
	op, red := s.operator(), s.member("red")
	s.host("one", "az1")
	kind := s.shareType(op, "gold")
	share := s.share(op, kind, "docs")
	yes := true
	if _, err := op.Shares.UpdateShare(t.Context(), &tarnv1.UpdateShareRequest{Id: share.GetId(), IsPublic: &yes}); err != nil {
		t.Fatal(err)
	}
	if _, err := red.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()}); err != nil {
		t.Errorf("read: %v", err)
	}
	wantCode(t, second(red.Shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: share.GetId()})), connect.CodeNotFound)
}

func TestPrivateTypesAreForTheirProjects(t *testing.T) {
	s := newServer(t)
	op, blue, red := s.operator(), s.member("blue"), s.member("red")
	no := false
	kind, err := op.ShareTypes.CreateShareType(t.Context(), &tarnv1.CreateShareTypeRequest{
		Name: "secret", IsPublic: &no, ExtraSpecs: map[string]string{"driver_handles_share_servers": "false"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"blue", "green"} {
		if _, err := op.ShareTypes.AddProjectAccess(t.Context(), &tarnv1.ProjectAccessRequest{Id: kind.GetId(), ProjectId: p}); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := blue.ShareTypes.GetShareType(t.Context(), &tarnv1.GetRequest{Id: "secret"})
	if err != nil || len(seen.GetProjectAccess()) != 1 || seen.GetProjectAccess()[0] != "blue" {
		t.Errorf("blue sees %v, %v", seen, err)
	}
	wantCode(t, second(red.ShareTypes.GetShareType(t.Context(), &tarnv1.GetRequest{Id: "secret"})), connect.CodeNotFound)
	wantCode(t, second(red.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{SizeGib: 1, ShareType: kind.GetId()})), connect.CodeNotFound)
}

func TestPeopleDoNotSeeMachines(t *testing.T) {
	s := newServer(t)
	op, blue := s.operator(), s.member("blue")
	s.host("one", "az1")
	share := s.share(blue, s.shareType(op, "gold"), "docs")
	seen, err := blue.Replicas.ListReplicas(t.Context(), &tarnv1.ListReplicasRequest{ShareId: share.GetId()})
	if err != nil || len(seen.GetReplicas()) != 1 {
		t.Fatal(seen, err)
	}
	if r := seen.GetReplicas()[0]; r.GetHost()+r.GetHostId()+r.GetPool() != "" {
		t.Errorf("a member sees %q %q %q", r.GetHost(), r.GetHostId(), r.GetPool())
	}
	all, err := op.Replicas.ListReplicas(t.Context(), &tarnv1.ListReplicasRequest{AllProjects: true, Host: "one"})
	if err != nil || len(all.GetReplicas()) != 1 || all.GetReplicas()[0].GetHost() != "one@dir#tank" {
		t.Errorf("an operator sees %v, %v", all, err)
	}
}
