package api

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// grant is the set of callers that may use a method.
type grant uint8

const (
	reader   grant = 1 << iota // client that reads its project
	member                     // client that changes its project too
	operator                   // administrator of the cluster
	agent                      // storage host
	control                    // control-plane node
	nobody                     // caller without a certificate
)

const (
	readers       = reader | member | operator
	members       = member | operator
	authenticated = readers | agent | control
)

// grants is the whole table procedure -> who. What is not in it nobody may call.
func grants() map[string]grant {
	table := map[string]grant{
		tarnv1connect.JoinServiceJoinProcedure:  nobody | authenticated,
		tarnv1connect.JoinServiceRenewProcedure: authenticated,

		tarnv1connect.AgentServiceRegisterProcedure:    agent,
		tarnv1connect.AgentServiceAssignmentsProcedure: agent,
		tarnv1connect.AgentServiceReportProcedure:      agent,
		tarnv1connect.AgentServiceRenewLeaseProcedure:  agent,

		tarnv1connect.OperatorServiceGetStatusProcedure:        authenticated,
		tarnv1connect.OperatorServiceListRaftServersProcedure:  operator,
		tarnv1connect.OperatorServiceAddRaftServerProcedure:    operator | control,
		tarnv1connect.OperatorServiceRemoveRaftServerProcedure: operator,
		tarnv1connect.OperatorServiceCreateJoinTokenProcedure:  operator,
		tarnv1connect.OperatorServiceReadBackupProcedure:       operator,
		tarnv1connect.OperatorServiceListAuditRecordsProcedure: operator,
		tarnv1connect.OperatorServiceHelloProcedure:            control,
	}
	grantProjects(table)
	grantAdministration(table)
	return table
}

// grantProjects adds what the users of a project do with its records.
func grantProjects(table map[string]grant) {
	for _, p := range []string{
		tarnv1connect.ShareTypeServiceGetShareTypeProcedure,
		tarnv1connect.ShareTypeServiceListShareTypesProcedure,
		tarnv1connect.ShareServiceGetShareProcedure,
		tarnv1connect.ShareServiceListSharesProcedure,
		tarnv1connect.ShareServiceListShareExportLocationsProcedure,
		tarnv1connect.ShareServiceGetShareRetentionProcedure,
		tarnv1connect.ReplicaServiceGetReplicaProcedure,
		tarnv1connect.ReplicaServiceListReplicasProcedure,
		tarnv1connect.ReplicaServiceListReplicaExportLocationsProcedure,
		tarnv1connect.ReplicaServiceListDivergentCopiesProcedure,
		tarnv1connect.ReplicaServiceGetDivergentCopyProcedure,
		tarnv1connect.SnapshotServiceGetSnapshotProcedure,
		tarnv1connect.SnapshotServiceListSnapshotsProcedure,
		tarnv1connect.SnapshotServiceGetSnapshotInstanceProcedure,
		tarnv1connect.SnapshotServiceListSnapshotInstancesProcedure,
		tarnv1connect.AccessRuleServiceGetAccessRuleProcedure,
		tarnv1connect.AccessRuleServiceListAccessRulesProcedure,
		tarnv1connect.QuotaServiceGetQuotaProcedure,
		tarnv1connect.MessageServiceGetMessageProcedure,
		tarnv1connect.MessageServiceListMessagesProcedure,
		tarnv1connect.HostServiceListAvailabilityZonesProcedure,
	} {
		table[p] = readers
	}
	for _, p := range []string{
		tarnv1connect.ShareServiceCreateShareProcedure,
		tarnv1connect.ShareServiceUpdateShareProcedure,
		tarnv1connect.ShareServiceDeleteShareProcedure,
		tarnv1connect.ShareServiceExtendShareProcedure,
		tarnv1connect.ShareServiceShrinkShareProcedure,
		tarnv1connect.ShareServiceSetShareMetadataProcedure,
		tarnv1connect.ShareServiceUnsetShareMetadataProcedure,
		tarnv1connect.ReplicaServiceCreateReplicaProcedure,
		tarnv1connect.ReplicaServicePromoteReplicaProcedure,
		tarnv1connect.ReplicaServiceCancelPromotionProcedure,
		tarnv1connect.ReplicaServiceDeleteReplicaProcedure,
		tarnv1connect.ReplicaServiceSetReplicaMetadataProcedure,
		tarnv1connect.ReplicaServiceUnsetReplicaMetadataProcedure,
		tarnv1connect.SnapshotServiceCreateSnapshotProcedure,
		tarnv1connect.SnapshotServiceUpdateSnapshotProcedure,
		tarnv1connect.SnapshotServiceDeleteSnapshotProcedure,
		tarnv1connect.AccessRuleServiceAllowAccessProcedure,
		tarnv1connect.AccessRuleServiceUpdateAccessRuleProcedure,
		tarnv1connect.AccessRuleServiceDenyAccessProcedure,
		tarnv1connect.MessageServiceDeleteMessageProcedure,
	} {
		table[p] = members
	}
}

// grantAdministration adds what only operators do.
func grantAdministration(table map[string]grant) {
	for _, p := range []string{
		tarnv1connect.ShareTypeServiceCreateShareTypeProcedure,
		tarnv1connect.ShareTypeServiceUpdateShareTypeProcedure,
		tarnv1connect.ShareTypeServiceDeleteShareTypeProcedure,
		tarnv1connect.ShareTypeServiceSetExtraSpecsProcedure,
		tarnv1connect.ShareTypeServiceUnsetExtraSpecsProcedure,
		tarnv1connect.ShareTypeServiceAddProjectAccessProcedure,
		tarnv1connect.ShareTypeServiceRemoveProjectAccessProcedure,
		tarnv1connect.ShareServiceManageShareProcedure,
		tarnv1connect.ShareServiceManageSharePreviewProcedure,
		tarnv1connect.ShareServiceUnmanageShareProcedure,
		tarnv1connect.ShareServiceResetShareStatusProcedure,
		tarnv1connect.ReplicaServiceManageReplicaPreviewProcedure,
		tarnv1connect.ReplicaServiceUnmanageReplicaProcedure,
		tarnv1connect.ReplicaServiceResyncReplicaProcedure,
		tarnv1connect.ReplicaServiceResetReplicaStatusProcedure,
		tarnv1connect.ReplicaServiceResetReplicaStateProcedure,
		tarnv1connect.ReplicaServicePurgeDivergentCopyProcedure,
		tarnv1connect.SnapshotServiceManageSnapshotProcedure,
		tarnv1connect.SnapshotServiceUnmanageSnapshotProcedure,
		tarnv1connect.SnapshotServiceResetSnapshotStatusProcedure,
		tarnv1connect.QuotaServiceUpdateQuotaProcedure,
		tarnv1connect.QuotaServiceResetQuotaProcedure,
		tarnv1connect.HostServiceGetHostProcedure,
		tarnv1connect.HostServiceListHostsProcedure,
		tarnv1connect.HostServiceEnableHostProcedure,
		tarnv1connect.HostServiceDisableHostProcedure,
		tarnv1connect.HostServiceDrainHostProcedure,
		tarnv1connect.HostServiceRemoveHostProcedure,
		tarnv1connect.HostServiceListPoolsProcedure,
	} {
		table[p] = operator
	}
}

// grantOf returns the one bit that a caller has.
func grantOf(id identity.Identity) grant {
	switch id.Role {
	case identity.RoleControl:
		return control
	case identity.RoleAgent:
		return agent
	case identity.RoleOperator:
		return operator
	case identity.RoleClient:
		if id.ProjectRole == identity.ProjectMember {
			return member
		}
		return reader
	}
	return nobody
}

// authorize is the interceptor that asks the table, then the request's fields.
type authorize struct {
	unaryOnly
	table map[string]grant
}

// WrapUnary implements connect.Interceptor.
func (a authorize) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		who, err := callerFrom(ctx).inProject(req.Header())
		if err != nil {
			return nil, err
		}
		procedure := req.Spec().Procedure
		if a.table[procedure]&who.grant == 0 {
			return nil, denied("role %s may not call %s", who.role(), procedure)
		}
		if field := privilegedField(req.Any()); field != "" && who.grant != operator {
			return nil, denied("field %s is for operators", field)
		}
		return next(withCaller(ctx, who), req)
	}
}

// privilegedField returns the first used field of a request that only operators
// may use. Methods for agents and control nodes have none of these.
func privilegedField(msg any) string {
	for _, f := range []struct {
		name string
		used bool
	}{
		{"only_host", used[interface{ GetOnlyHost() string }](msg, func(m interface{ GetOnlyHost() string }) bool { return m.GetOnlyHost() != "" })},
		{"force", used[interface{ GetForce() bool }](msg, func(m interface{ GetForce() bool }) bool { return m.GetForce() })},
		{"all_projects", used[interface{ GetAllProjects() bool }](msg, func(m interface{ GetAllProjects() bool }) bool { return m.GetAllProjects() })},
		{"attest_host_is_down", used[interface{ GetAttestHostIsDown() bool }](msg, func(m interface{ GetAttestHostIsDown() bool }) bool { return m.GetAttestHostIsDown() })},
		{"host", used[interface{ GetHost() string }](msg, func(m interface{ GetHost() string }) bool { return m.GetHost() != "" })},
		{"from_dataset", used[interface{ GetFromDataset() string }](msg, func(m interface{ GetFromDataset() string }) bool { return m.GetFromDataset() != "" })},
		{"is_public", publishes(msg)},
	} {
		if f.used {
			return f.name
		}
	}
	return ""
}

func used[M any](msg any, test func(M) bool) bool {
	m, ok := msg.(M)
	return ok && test(m)
}

// publishes tells whether a share would become readable by all projects, which
// Manila's default policy leaves to administrators.
func publishes(msg any) bool {
	switch m := msg.(type) {
	case *tarnv1.CreateShareRequest:
		return m.GetIsPublic()
	case *tarnv1.UpdateShareRequest:
		return m.GetIsPublic()
	}
	return false
}

// deniedError says which rule forbids a request to this caller.
type deniedError struct{ rule string }

// Error implements error.
func (e *deniedError) Error() string { return e.rule }

func denied(format string, args ...any) error {
	return &deniedError{fmt.Sprintf(format, args...)}
}
