package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// caller that may call a method, for tests that are about its fields.
func (s *server) callers(t testing.TB) func(protoreflect.MethodDescriptor) *http.Client {
	web := map[string]*http.Client{
		"operator": httpClient(t, s.tls(operatorSubject())),
		"agent":    httpClient(t, s.tls(identity.Subject{Role: identity.RoleAgent})),
		"control":  httpClient(t, s.tls(identity.Subject{Role: identity.RoleControl})),
	}
	return func(m protoreflect.MethodDescriptor) *http.Client {
		for _, role := range allowed(m) {
			if c, ok := web[role]; ok {
				return c
			}
		}
		t.Fatalf("nobody may call %s", m.FullName())
		return nil
	}
}

// TestEveryFieldIsChecked breaks each scalar field of each request in turn and
// wants the refusal to name it, and nothing to have been proposed.
func TestEveryFieldIsChecked(t *testing.T) {
	s := newServer(t)
	callers := s.callers(t)
	before := s.log.proposals()
	checked := 0
	for _, m := range methods(t) {
		for i := range m.Input().Fields().Len() {
			field := m.Input().Fields().Get(i)
			for name, value := range badValues(field) {
				msg := dynamicpb.NewMessage(m.Input())
				msg.Set(field, value)
				got := post(t, callers(m), s.addr, procedure(m), msg)
				if got.code != connect.CodeInvalidArgument.String() || !got.violates(string(field.Name())) {
					t.Errorf("%s.%s %s: %s %s", m.FullName(), field.Name(), name, got.code, got.message)
				}
				checked++
			}
		}
	}
	if s.log.proposals() != before {
		t.Error("a bad request reached the log")
	}
	if checked < 300 {
		t.Errorf("only %d bad fields tried", checked)
	}
}

func badValues(f protoreflect.FieldDescriptor) map[string]protoreflect.Value {
	if f.IsList() || f.IsMap() {
		return nil
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		return map[string]protoreflect.Value{
			"long":    protoreflect.ValueOfString(strings.Repeat("x", 10_000)),
			"control": protoreflect.ValueOfString("a\x00b"),
		}
	case protoreflect.EnumKind:
		return map[string]protoreflect.Value{"unknown": protoreflect.ValueOfEnum(9999)}
	case protoreflect.Int32Kind:
		if f.Name() == "limit" {
			return map[string]protoreflect.Value{"negative": protoreflect.ValueOfInt32(-1), "large": protoreflect.ValueOfInt32(1001)}
		}
	case protoreflect.Int64Kind:
		return map[string]protoreflect.Value{
			"negative": protoreflect.ValueOfInt64(-1), "large": protoreflect.ValueOfInt64(1<<20 + 1),
		}
	}
	return nil
}

func TestIDsAreUUIDs(t *testing.T) {
	s := newServer(t)
	callers := s.callers(t)
	for _, m := range methods(t) {
		service := m.Parent().Name()
		if service == "ShareTypeService" || service == "HostService" || service == "JoinService" {
			continue // names are good there
		}
		for _, name := range []protoreflect.Name{"id", "share_id", "snapshot_id", "op_id", "share_type_id", "resource_id", "host_id"} {
			field := m.Input().Fields().ByName(name)
			if field == nil {
				continue
			}
			for _, bad := range []string{"nonsense", "../../etc", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "00000000-0000-0000-0000-000000000000"} {
				msg := dynamicpb.NewMessage(m.Input())
				msg.Set(field, protoreflect.ValueOfString(bad))
				got := post(t, callers(m), s.addr, procedure(m), msg)
				if got.code != connect.CodeInvalidArgument.String() || !got.violates(string(name)) {
					t.Errorf("%s.%s = %q: %s %s", m.FullName(), name, bad, got.code, got.message)
				}
			}
		}
	}
}

// TestRules has one case for each rule that is not the same for all fields.
func TestRules(t *testing.T) {
	const id = "7f2c8a4e-0f0c-4f5e-9d3a-000000000001"
	empty, name := "", "n"
	many := map[string]string{}
	for i := range 129 {
		many[fmt.Sprint(i)] = "v"
	}
	host := func(f func(*tarnv1.Host)) *tarnv1.RegisterRequest {
		h := hostRecord(id, "one", "az1")
		f(h)
		return &tarnv1.RegisterRequest{Host: h}
	}
	for _, c := range []struct {
		method, field string
		msg           proto.Message
	}{
		{"ShareService/CreateShare", "size_gib", &tarnv1.CreateShareRequest{}},
		{"ShareService/CreateShare", "name", &tarnv1.CreateShareRequest{Name: " n", SizeGib: 1}},
		{"ShareService/CreateShare", "share_proto", &tarnv1.CreateShareRequest{ShareProto: "CIFS", SizeGib: 1}},
		{"ShareService/CreateShare", "metadata", &tarnv1.CreateShareRequest{SizeGib: 1, Metadata: many}},
		{"ShareService/CreateShare", "metadata", &tarnv1.CreateShareRequest{SizeGib: 1, Metadata: map[string]string{"": "v"}}},
		{"ShareService/CreateShare", "metadata", &tarnv1.CreateShareRequest{SizeGib: 1, Metadata: map[string]string{"k": ""}}},
		{"ShareService/CreateShare", "metadata", &tarnv1.CreateShareRequest{SizeGib: 1, Metadata: map[string]string{"k": strings.Repeat("v", 1024)}}},
		{"ShareService/CreateShare", "share_type", &tarnv1.CreateShareRequest{SizeGib: 1}},
		{"ShareService/ListShares", "sort", &tarnv1.ListSharesRequest{Sort: "colour"}},
		{"ShareService/ListShares", "page_token", &tarnv1.ListSharesRequest{PageToken: "!"}},
		{"ShareService/UpdateShare", "name", &tarnv1.UpdateShareRequest{Id: id}},
		{"ShareService/SetShareMetadata", "metadata", &tarnv1.SetMetadataRequest{Id: id}},
		{"ShareService/UnsetShareMetadata", "keys", &tarnv1.UnsetMetadataRequest{Id: id}},
		{"ShareService/ResetShareStatus", "status", &tarnv1.ResetStatusRequest{Id: id, Status: tarnv1.Status_STATUS_REPLICATION_CHANGE}},
		{"ReplicaService/ResetReplicaState", "replica_state", &tarnv1.ResetReplicaStateRequest{Id: id, ReplicaState: tarnv1.ReplicaState_REPLICA_STATE_ACTIVE}},
		{"ReplicaService/PromoteReplica", "quiesce_wait_time", &tarnv1.PromoteReplicaRequest{Id: id, QuiesceWaitTime: &durationpb.Duration{Seconds: -1}}},
		{"ReplicaService/PromoteReplica", "quiesce_wait_time", &tarnv1.PromoteReplicaRequest{Id: id, QuiesceWaitTime: &durationpb.Duration{Seconds: 3601}}},
		{"ReplicaService/PromoteReplica", "quiesce_wait_time", &tarnv1.PromoteReplicaRequest{Id: id, QuiesceWaitTime: &durationpb.Duration{Nanos: -5, Seconds: 9}}},
		{"ReplicaService/PromoteReplica", "consent", &tarnv1.PromoteReplicaRequest{Id: id, Consent: &tarnv1.Consent{}}},
		{"ReplicaService/PromoteReplica", "consent.reason", &tarnv1.PromoteReplicaRequest{Id: id, Force: true, AttestHostIsDown: true}},
		{"AccessRuleService/AllowAccess", "access_to", &tarnv1.AllowAccessRequest{ShareId: id, AccessTo: "host.example"}},
		{"AccessRuleService/AllowAccess", "access_to", &tarnv1.AllowAccessRequest{ShareId: id, AccessTo: "192.0.2.1/24"}},
		{"AccessRuleService/AllowAccess", "access_type", &tarnv1.AllowAccessRequest{ShareId: id, AccessType: "user", AccessTo: "192.0.2.1"}},
		{"AccessRuleService/UpdateAccessRule", "access_level", &tarnv1.UpdateAccessRuleRequest{Id: id}},
		{"QuotaService/UpdateQuota", "limits", &tarnv1.QuotaLimits{ProjectId: "p", Limits: map[string]int64{"cats": 1}}},
		{"QuotaService/UpdateQuota", "limits", &tarnv1.QuotaLimits{ProjectId: "p", Limits: map[string]int64{"shares": -2}}},
		{"QuotaService/UpdateQuota", "user_id", &tarnv1.QuotaLimits{ProjectId: "p", UserId: "u", ShareTypeId: id, Limits: map[string]int64{"shares": 1}}},
		{"ShareTypeService/CreateShareType", "extra_specs.driver_handles_share_servers", &tarnv1.CreateShareTypeRequest{Name: "t"}},
		{"ShareTypeService/CreateShareType", "extra_specs.tarn:unheard", &tarnv1.CreateShareTypeRequest{Name: "t", ExtraSpecs: map[string]string{"driver_handles_share_servers": "false", "tarn:unheard": "of"}}},
		{"ShareTypeService/UpdateShareType", "name", &tarnv1.UpdateShareTypeRequest{Id: id, Name: &empty}},
		{"ShareTypeService/SetExtraSpecs", "extra_specs", &tarnv1.SetExtraSpecsRequest{Id: id}},
		{"ShareTypeService/AddProjectAccess", "project_id", &tarnv1.ProjectAccessRequest{Id: id}},
		{"SnapshotService/UpdateSnapshot", "id", &tarnv1.UpdateSnapshotRequest{Name: &name}},
		{"HostService/DrainHost", "reason", &tarnv1.DisableHostRequest{Id: "one"}},
		{"OperatorService/CreateJoinToken", "role", &tarnv1.CreateJoinTokenRequest{Role: "operator"}},
		{"OperatorService/CreateJoinToken", "ttl", &tarnv1.CreateJoinTokenRequest{Role: "agent", Ttl: &durationpb.Duration{Seconds: 1}}},
		{"OperatorService/CreateJoinToken", "project_role", &tarnv1.CreateJoinTokenRequest{Role: "client", ProjectId: "p"}},
		{"OperatorService/AddRaftServer", "address", &tarnv1.AddRaftServerRequest{Id: id, Address: "here"}},
		{"AgentService/Register", "host.id", &tarnv1.RegisterRequest{}},
		{"AgentService/Register", "host.name", host(func(h *tarnv1.Host) { h.Name = "a@b#c" })},
		{"AgentService/Register", "host.address", host(func(h *tarnv1.Host) { h.Address = "nowhere" })},
		{"AgentService/Register", "host.pools", host(func(h *tarnv1.Host) { h.Pools = nil })},
		{"AgentService/Register", "host.pools.name", host(func(h *tarnv1.Host) { h.Pools = append(h.Pools, h.Pools[0]) })},
		{"AgentService/Register", "host.pools.reserved_percentage", host(func(h *tarnv1.Host) { h.Pools[0].ReservedPercentage = 101 })},
		{"AgentService/Assignments", "max_wait", &tarnv1.AssignmentsRequest{HostId: id, MaxWait: &durationpb.Duration{Seconds: 61}}},
		{"AgentService/Report", "session_id", &tarnv1.ReportRequest{HostId: id}},
		{"AgentService/RenewLease", "shares.share_id", &tarnv1.RenewLeaseRequest{HostId: id, SessionId: "s", Shares: []*tarnv1.LeaseShare{{}}}},
	} {
		t.Run(c.method+"/"+c.field, func(t *testing.T) {
			s := newServer(t)
			conf := s.tls(operatorSubject())
			if strings.HasPrefix(c.method, "Agent") {
				conf = s.tls(identity.Subject{Role: identity.RoleAgent, ID: id})
			}
			before := s.log.proposals()
			got := post(t, httpClient(t, conf), s.addr, "/tarn.v1."+c.method, c.msg)
			if got.code != connect.CodeInvalidArgument.String() || !got.violates(c.field) {
				t.Errorf("%s %s %v", got.code, got.message, got.violations)
			}
			if s.log.proposals() != before {
				t.Error("a bad request reached the log")
			}
		})
	}
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	s := newServer(t)
	// An unset list of quotas, as a newer client might send it: field 99.
	msg := &tarnv1.ListSharesRequest{}
	msg.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01})
	got := post(t, httpClient(t, s.tls(operatorSubject())), s.addr, "/tarn.v1.ShareService/ListShares", msg)
	if got.code != connect.CodeInvalidArgument.String() {
		t.Errorf("%s %s", got.code, got.message)
	}
}
