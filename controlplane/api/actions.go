package api

import (
	"tarn/controlplane/policy"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// method says who may call a procedure: machines by their role, people by what the
// policy says of the action.
type method struct {
	procedure string
	machines  grant
	action    string
}

// The rules that hold without a policy.yaml.
const (
	byAll      = "role:reader or role:member or role:operator"
	byMembers  = "role:member or role:operator"
	byOperator = "role:operator"
)

// act is an action that anybody in a project could be given.
func act(name, allow string) policy.Action {
	return policy.Action{Name: name, Allow: allow, Ceiling: []string{policy.RoleReader, policy.RoleMember, policy.RoleOperator}}
}

// clusterwide is an action on the whole cluster or across projects: operators only.
func clusterwide(name string) policy.Action {
	return policy.Action{Name: name, Allow: byOperator, Ceiling: []string{policy.RoleOperator}}
}

// Names of actions that are not methods but ways to use them.
const (
	actChooseHost    = "share:choose_host"
	actTakeDataset   = "share_replica:create_from_dataset"
	actPublish       = "share:publish"
	actAllProjects   = "cluster:list_all_projects"
	actFilterHost    = "cluster:filter_by_host"
	actForceShare    = "share:force_delete"
	actForceReplica  = "share_replica:force_delete"
	actForceSnapshot = "share_snapshot:force_delete"
	actForcePromote  = "share_replica:promote_forced"
	actAttest        = "share_replica:attest_host_is_down"
)

// Actions are all that a policy.yaml can decide on.
func Actions() []policy.Action {
	seen := map[string]bool{}
	var out []policy.Action
	for _, row := range catalogue() {
		if row.Name != "" && !seen[row.Name] {
			seen[row.Name] = true
			out = append(out, row.Action)
		}
	}
	force, attest := act(actForcePromote, byOperator), act(actAttest, byOperator)
	force.Reason, force.Second, attest.Reason = true, true, true
	return append(out,
		clusterwide(actChooseHost), clusterwide(actTakeDataset), clusterwide(actAllProjects), clusterwide(actFilterHost),
		act(actPublish, byOperator), act(actForceShare, byOperator), act(actForceReplica, byOperator), act(actForceSnapshot, byOperator),
		force, attest)
}

// row is one line of the catalogue. Rows without an action are for machines, or for
// everybody who has a certificate.
type row struct {
	policy.Action
	procedure string
	machines  grant
}

func catalogue() []row {
	rows := []row{
		{procedure: tarnv1connect.JoinServiceJoinProcedure, machines: nobody | authenticated},
		{procedure: tarnv1connect.JoinServiceRenewProcedure, machines: authenticated},
		{procedure: tarnv1connect.AgentServiceRegisterProcedure, machines: agent},
		{procedure: tarnv1connect.AgentServiceAssignmentsProcedure, machines: agent},
		{procedure: tarnv1connect.AgentServiceReportProcedure, machines: agent},
		{procedure: tarnv1connect.AgentServiceRenewLeaseProcedure, machines: agent},
		{procedure: tarnv1connect.OperatorServiceHelloProcedure, machines: control},
		{procedure: tarnv1connect.OperatorServiceExchangeGossipProcedure, machines: control},
		{clusterwide("gossip:show"), tarnv1connect.OperatorServiceGetGossipKeysProcedure, 0},
		{clusterwide("gossip:rotate"), tarnv1connect.OperatorServiceRotateGossipKeyProcedure, 0},
		{act("cluster:status", byAll), tarnv1connect.OperatorServiceGetStatusProcedure, agent | control},
		{clusterwide("raft:list"), tarnv1connect.OperatorServiceListRaftServersProcedure, 0},
		{clusterwide("raft:add"), tarnv1connect.OperatorServiceAddRaftServerProcedure, control},
		{clusterwide("raft:remove"), tarnv1connect.OperatorServiceRemoveRaftServerProcedure, 0},
		{clusterwide("cluster:backup"), tarnv1connect.OperatorServiceReadBackupProcedure, 0},
		{clusterwide("audit:list"), tarnv1connect.OperatorServiceListAuditRecordsProcedure, 0},
		{clusterwide("user:create"), tarnv1connect.OperatorServiceCreateUserProcedure, 0},
		{clusterwide("user:list"), tarnv1connect.OperatorServiceListUsersProcedure, 0},
		{clusterwide("user:revoke"), tarnv1connect.OperatorServiceRevokeUserProcedure, 0},
		{clusterwide("join_token:create"), tarnv1connect.OperatorServiceCreateJoinTokenProcedure, 0},
	}
	rows = append(rows, clusterRows()...)
	rows = append(rows, shareRows()...)
	return append(rows, recordRows()...)
}

// clusterRows are for whoever runs the machines.
func clusterRows() []row {
	return []row{
		{clusterwide("share_type:create"), tarnv1connect.ShareTypeServiceCreateShareTypeProcedure, 0},
		{clusterwide("share_type:update"), tarnv1connect.ShareTypeServiceUpdateShareTypeProcedure, 0},
		{clusterwide("share_type:delete"), tarnv1connect.ShareTypeServiceDeleteShareTypeProcedure, 0},
		{clusterwide("share_type:set_extra_specs"), tarnv1connect.ShareTypeServiceSetExtraSpecsProcedure, 0},
		{clusterwide("share_type:unset_extra_specs"), tarnv1connect.ShareTypeServiceUnsetExtraSpecsProcedure, 0},
		{clusterwide("share_type:add_project_access"), tarnv1connect.ShareTypeServiceAddProjectAccessProcedure, 0},
		{clusterwide("share_type:remove_project_access"), tarnv1connect.ShareTypeServiceRemoveProjectAccessProcedure, 0},
		{clusterwide("quota:update"), tarnv1connect.QuotaServiceUpdateQuotaProcedure, 0},
		{clusterwide("quota:reset"), tarnv1connect.QuotaServiceResetQuotaProcedure, 0},
		{clusterwide("host:show"), tarnv1connect.HostServiceGetHostProcedure, 0},
		{clusterwide("host:list"), tarnv1connect.HostServiceListHostsProcedure, 0},
		{clusterwide("host:enable"), tarnv1connect.HostServiceEnableHostProcedure, 0},
		{clusterwide("host:disable"), tarnv1connect.HostServiceDisableHostProcedure, 0},
		{clusterwide("host:drain"), tarnv1connect.HostServiceDrainHostProcedure, 0},
		{clusterwide("host:remove"), tarnv1connect.HostServiceRemoveHostProcedure, 0},
		{clusterwide("pool:list"), tarnv1connect.HostServiceListPoolsProcedure, 0},
		{act("availability_zone:list", byAll), tarnv1connect.HostServiceListAvailabilityZonesProcedure, 0},
		{clusterwide("share:manage"), tarnv1connect.ShareServiceManageShareProcedure, 0},
		{clusterwide("share:manage"), tarnv1connect.ShareServiceManageSharePreviewProcedure, 0},
		{clusterwide("share:unmanage"), tarnv1connect.ShareServiceUnmanageShareProcedure, 0},
		{clusterwide("share_replica:manage"), tarnv1connect.ReplicaServiceManageReplicaPreviewProcedure, 0},
		{clusterwide("share_replica:unmanage"), tarnv1connect.ReplicaServiceUnmanageReplicaProcedure, 0},
		{clusterwide("share_snapshot:manage"), tarnv1connect.SnapshotServiceManageSnapshotProcedure, 0},
		{clusterwide("share_snapshot:unmanage"), tarnv1connect.SnapshotServiceUnmanageSnapshotProcedure, 0},
	}
}

// shareRows are what the users of a project do with shares and replicas.
func shareRows() []row {
	return []row{
		{act("share:show", byAll), tarnv1connect.ShareServiceGetShareProcedure, 0},
		{act("share:list", byAll), tarnv1connect.ShareServiceListSharesProcedure, 0},
		{act("share:list_export_locations", byAll), tarnv1connect.ShareServiceListShareExportLocationsProcedure, 0},
		{act("share:show_retention", byAll), tarnv1connect.ShareServiceGetShareRetentionProcedure, 0},
		{act("share:create", byMembers), tarnv1connect.ShareServiceCreateShareProcedure, 0},
		{act("share:update", byMembers), tarnv1connect.ShareServiceUpdateShareProcedure, 0},
		{act("share:delete", byMembers), tarnv1connect.ShareServiceDeleteShareProcedure, 0},
		{act("share:extend", byMembers), tarnv1connect.ShareServiceExtendShareProcedure, 0},
		{act("share:shrink", byMembers), tarnv1connect.ShareServiceShrinkShareProcedure, 0},
		{act("share:set_metadata", byMembers), tarnv1connect.ShareServiceSetShareMetadataProcedure, 0},
		{act("share:unset_metadata", byMembers), tarnv1connect.ShareServiceUnsetShareMetadataProcedure, 0},
		{act("share:reset_status", byOperator), tarnv1connect.ShareServiceResetShareStatusProcedure, 0},
		{act("share_replica:show", byAll), tarnv1connect.ReplicaServiceGetReplicaProcedure, 0},
		{act("share_replica:list", byAll), tarnv1connect.ReplicaServiceListReplicasProcedure, 0},
		{act("share_replica:list_export_locations", byAll), tarnv1connect.ReplicaServiceListReplicaExportLocationsProcedure, 0},
		{act("share_replica:create", byMembers), tarnv1connect.ReplicaServiceCreateReplicaProcedure, 0},
		{act("share_replica:delete", byMembers), tarnv1connect.ReplicaServiceDeleteReplicaProcedure, 0},
		{act("share_replica:promote", byMembers), tarnv1connect.ReplicaServicePromoteReplicaProcedure, 0},
		{act("share_replica:cancel_promotion", byMembers), tarnv1connect.ReplicaServiceCancelPromotionProcedure, 0},
		{act("share_replica:set_metadata", byMembers), tarnv1connect.ReplicaServiceSetReplicaMetadataProcedure, 0},
		{act("share_replica:unset_metadata", byMembers), tarnv1connect.ReplicaServiceUnsetReplicaMetadataProcedure, 0},
		{act("share_replica:resync", byOperator), tarnv1connect.ReplicaServiceResyncReplicaProcedure, 0},
		{act("share_replica:reset_status", byOperator), tarnv1connect.ReplicaServiceResetReplicaStatusProcedure, 0},
		{act("share_replica:reset_replica_state", byOperator), tarnv1connect.ReplicaServiceResetReplicaStateProcedure, 0},
		{act("divergent_copy:list", byAll), tarnv1connect.ReplicaServiceListDivergentCopiesProcedure, 0},
		{act("divergent_copy:show", byAll), tarnv1connect.ReplicaServiceGetDivergentCopyProcedure, 0},
		{act("divergent_copy:purge", byOperator), tarnv1connect.ReplicaServicePurgeDivergentCopyProcedure, 0},
		{clusterwide("unknown_replica:list"), tarnv1connect.ReplicaServiceListUnknownReplicasProcedure, 0},
		{clusterwide("unknown_replica:adopt"), tarnv1connect.ReplicaServiceAdoptUnknownReplicaProcedure, 0},
		{clusterwide("unknown_replica:dismiss"), tarnv1connect.ReplicaServiceDismissUnknownReplicaProcedure, 0},
	}
}

// recordRows are the other records of a project.
func recordRows() []row {
	return []row{
		{act("share_type:show", byAll), tarnv1connect.ShareTypeServiceGetShareTypeProcedure, 0},
		{act("share_type:list", byAll), tarnv1connect.ShareTypeServiceListShareTypesProcedure, 0},
		{act("share_snapshot:show", byAll), tarnv1connect.SnapshotServiceGetSnapshotProcedure, 0},
		{act("share_snapshot:list", byAll), tarnv1connect.SnapshotServiceListSnapshotsProcedure, 0},
		{act("share_snapshot:show_instance", byAll), tarnv1connect.SnapshotServiceGetSnapshotInstanceProcedure, 0},
		{act("share_snapshot:list_instances", byAll), tarnv1connect.SnapshotServiceListSnapshotInstancesProcedure, 0},
		{act("share_snapshot:create", byMembers), tarnv1connect.SnapshotServiceCreateSnapshotProcedure, 0},
		{act("share_snapshot:update", byMembers), tarnv1connect.SnapshotServiceUpdateSnapshotProcedure, 0},
		{act("share_snapshot:delete", byMembers), tarnv1connect.SnapshotServiceDeleteSnapshotProcedure, 0},
		{act("share_snapshot:reset_status", byOperator), tarnv1connect.SnapshotServiceResetSnapshotStatusProcedure, 0},
		{act("share_access:show", byAll), tarnv1connect.AccessRuleServiceGetAccessRuleProcedure, 0},
		{act("share_access:list", byAll), tarnv1connect.AccessRuleServiceListAccessRulesProcedure, 0},
		{act("share_access:allow", byMembers), tarnv1connect.AccessRuleServiceAllowAccessProcedure, 0},
		{act("share_access:update", byMembers), tarnv1connect.AccessRuleServiceUpdateAccessRuleProcedure, 0},
		{act("share_access:deny", byMembers), tarnv1connect.AccessRuleServiceDenyAccessProcedure, 0},
		{act("quota:show", byAll), tarnv1connect.QuotaServiceGetQuotaProcedure, 0},
		{act("message:show", byAll), tarnv1connect.MessageServiceGetMessageProcedure, 0},
		{act("message:list", byAll), tarnv1connect.MessageServiceListMessagesProcedure, 0},
		{act("message:delete", byMembers), tarnv1connect.MessageServiceDeleteMessageProcedure, 0},
	}
}

// ways returns the further actions that a request takes by the fields that it uses.
func ways(msg any) []use {
	var out []use
	add := func(used bool, field, action string) {
		if used {
			out = append(out, use{field, action})
		}
	}
	add(used(msg, func(m interface{ GetOnlyHost() string }) bool { return m.GetOnlyHost() != "" }), "only_host", actChooseHost)
	add(used(msg, func(m interface{ GetFromDataset() string }) bool { return m.GetFromDataset() != "" }), "from_dataset", actTakeDataset)
	add(used(msg, func(m interface{ GetAllProjects() bool }) bool { return m.GetAllProjects() }), "all_projects", actAllProjects)
	add(used(msg, func(m interface{ GetHost() string }) bool { return m.GetHost() != "" }), "host", actFilterHost)
	add(used(msg, func(m interface{ GetAttestHostIsDown() bool }) bool { return m.GetAttestHostIsDown() }), "attest_host_is_down", actAttest)
	add(used(msg, func(m interface{ GetForce() bool }) bool { return m.GetForce() }), "force", forceAction(msg))
	add(publishes(msg), "is_public", actPublish)
	return out
}

// use is a field of a request and the action that it stands for.
type use struct{ field, action string }

// forceAction names what force does in a request; a message that nobody thought of has
// no action, and then nobody may.
func forceAction(msg any) string {
	switch msg.(type) {
	case *tarnv1.DeleteShareRequest:
		return actForceShare
	case *tarnv1.DeleteReplicaRequest:
		return actForceReplica
	case *tarnv1.DeleteSnapshotRequest:
		return actForceSnapshot
	case *tarnv1.PromoteReplicaRequest:
		return actForcePromote
	}
	return ""
}
