package raftfsm

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
)

// rank orders replicas for the choice of the one that a share shows (manila semantics 1.3).
func rank(st tarnv1.Status) int {
	switch st {
	case tarnv1.Status_STATUS_REVERTING:
		return 0
	case tarnv1.Status_STATUS_REPLICATION_CHANGE:
		return 1
	case tarnv1.Status_STATUS_MIGRATING:
		return 2
	case tarnv1.Status_STATUS_SERVER_MIGRATING:
		return 3
	case tarnv1.Status_STATUS_AVAILABLE:
		return 4
	case tarnv1.Status_STATUS_ERROR:
		return 5
	case tarnv1.Status_STATUS_CREATING, tarnv1.Status_STATUS_DELETING, tarnv1.Status_STATUS_EXTENDING,
		tarnv1.Status_STATUS_SHRINKING, tarnv1.Status_STATUS_MIGRATING_TO:
		return 7
	}
	return 6
}

// chosen is the replica whose status, host and zone a share shows: the one being
// promoted, else the active one, else the best. Nil when there is none.
func (s *state) chosen(share *tarnv1.Share) *tarnv1.Replica {
	replicas := s.replicasInOrder(share.GetId())
	if len(replicas) == 0 {
		return nil
	}
	slices.SortStableFunc(replicas, func(a, b *tarnv1.Replica) int {
		return cmp.Compare(rank(a.GetStatus()), rank(b.GetStatus()))
	})
	if replicas[0].GetStatus() == tarnv1.Status_STATUS_REPLICATION_CHANGE {
		return replicas[0]
	}
	for _, r := range replicas {
		if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
			return r
		}
	}
	return replicas[0]
}

// shareStatus is the chosen replica's, behind which a resize shows when all else is well.
func (s *state) shareStatus(share *tarnv1.Share) tarnv1.Status {
	return shownStatus(share, s.chosen(share))
}

func shownStatus(share *tarnv1.Share, r *tarnv1.Replica) tarnv1.Status {
	st := r.GetStatus()
	if st == tarnv1.Status_STATUS_AVAILABLE && share.GetResizeStatus() != tarnv1.Status_STATUS_UNSPECIFIED {
		return share.GetResizeStatus()
	}
	return st
}

func (s *state) projectShare(share *tarnv1.Share) *tarnv1.Share {
	out := changeShare(share)
	clearShareOutput(out)
	r := s.chosen(share)
	out.Status, out.AvailabilityZone, out.Host = shownStatus(share, r), r.GetAvailabilityZone(), r.GetHost()
	out.Progress = progressOf(r)
	states := 0
	rules := tarnv1.AccessRulesStatus_ACCESS_RULES_STATUS_ACTIVE
	for _, r := range s.replicasInOrder(share.GetId()) {
		if r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_UNSPECIFIED {
			states++
		}
		if r.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
			rules = max(rules, accessOf(share, r))
		}
		if showsExports(share, r) {
			out.ExportLocations = append(out.ExportLocations, projectExports(r)...)
		}
	}
	out.HasReplicas, out.AccessRulesStatus = states >= 2, rules
	return out
}

// accessOf is one replica's access_rules_status; greater is worse.
func accessOf(share *tarnv1.Share, r *tarnv1.Replica) tarnv1.AccessRulesStatus {
	switch {
	case len(r.GetRuleErrors()) > 0:
		return tarnv1.AccessRulesStatus_ACCESS_RULES_STATUS_ERROR
	case r.GetAppliedAccessRevision() < share.GetAccessRevision():
		return tarnv1.AccessRulesStatus_ACCESS_RULES_STATUS_SYNCING
	}
	return tarnv1.AccessRulesStatus_ACCESS_RULES_STATUS_ACTIVE
}

// showsExports: a share shows the locations of its active replicas only; those of
// secondaries are found at the replica (manila semantics 3.3, 2.47).
func showsExports(share *tarnv1.Share, r *tarnv1.Replica) bool {
	return share.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED ||
		r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
}

func progressOf(r *tarnv1.Replica) string {
	switch r.GetStatus() {
	case tarnv1.Status_STATUS_AVAILABLE:
		return "100%"
	case tarnv1.Status_STATUS_CREATING, tarnv1.Status_STATUS_CREATING_FROM_SNAPSHOT:
		return "0%"
	}
	return ""
}

func projectExports(r *tarnv1.Replica) []*tarnv1.ExportLocation {
	var out []*tarnv1.ExportLocation
	for _, e := range r.GetExportLocations() {
		e = proto.CloneOf(e)
		e.ReplicaState, e.AvailabilityZone = r.GetReplicaState(), r.GetAvailabilityZone()
		out = append(out, e)
	}
	return out
}

// snapshotStatus aggregates over the instances on active and in_sync replicas
// (manila semantics 2.4), so that a copy which lags or failed does not hide a good one.
func (s *state) snapshotStatus(snap *tarnv1.Snapshot) tarnv1.Status {
	if snap.GetDeleting() {
		return s.deletingStatus(snap)
	}
	var best, primary tarnv1.Status
	share, _ := s.share(snap.GetShareId())
	for i := range s.instancesOf(snap.GetId()) {
		if i.GetReplicaId() == share.GetFencing().GetOwnerReplicaId() {
			primary = i.GetStatus()
		}
		if r, _ := s.replica(i.GetReplicaId()); !decides(r) {
			continue
		}
		if best == 0 || weight(i.GetStatus()) < weight(best) {
			best = i.GetStatus()
		}
	}
	if best == 0 {
		return primary
	}
	return best
}

func decides(r *tarnv1.Replica) bool {
	if leaving(r.GetStatus()) {
		return false
	}
	return r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE ||
		r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
}

// weight is the order in which an instance's status speaks for the snapshot.
func weight(st tarnv1.Status) int {
	switch st {
	case tarnv1.Status_STATUS_DELETING:
		return 0
	case tarnv1.Status_STATUS_CREATING:
		return 1
	case tarnv1.Status_STATUS_ERROR:
		return 2
	case tarnv1.Status_STATUS_MIGRATING:
		return 3
	case tarnv1.Status_STATUS_SERVER_MIGRATING:
		return 4
	case tarnv1.Status_STATUS_AVAILABLE:
		return 5
	}
	return 6
}

func (s *state) deletingStatus(snap *tarnv1.Snapshot) tarnv1.Status {
	failed, running := tarnv1.Status_STATUS_ERROR_DELETING, tarnv1.Status_STATUS_DELETING
	if snap.GetUnmanaging() {
		failed, running = tarnv1.Status_STATUS_UNMANAGE_ERROR, tarnv1.Status_STATUS_UNMANAGE_STARTING
	}
	for i := range s.instancesOf(snap.GetId()) {
		if i.GetStatus() == failed {
			return failed
		}
	}
	return running
}

// ruleState is the worst over the replicas that take part in access. A share that
// has none of them yet has queued its rules.
func (s *state) ruleState(rule *tarnv1.AccessRule) tarnv1.AccessRuleState {
	applied, failed, some := true, false, false
	for r := range s.replicasOf(rule.GetShareId()) {
		if !exports(r) {
			continue
		}
		some = true
		applied = applied && r.GetAppliedAccessRevision() >= rule.GetRevision()
		failed = failed || slices.ContainsFunc(r.GetRuleErrors(), func(e *tarnv1.RuleError) bool {
			return e.GetAccessRuleId() == rule.GetId()
		})
	}
	switch {
	case failed:
		return tarnv1.AccessRuleState_ACCESS_RULE_STATE_ERROR
	case rule.GetDenied():
		return tarnv1.AccessRuleState_ACCESS_RULE_STATE_DENYING
	case some && applied:
		return tarnv1.AccessRuleState_ACCESS_RULE_STATE_ACTIVE
	case rule.GetLevelChanged():
		return tarnv1.AccessRuleState_ACCESS_RULE_STATE_QUEUED_TO_UPDATE
	}
	return tarnv1.AccessRuleState_ACCESS_RULE_STATE_QUEUED_TO_APPLY
}

func (s *state) projectHost(h *tarnv1.Host) *tarnv1.Host {
	out := proto.CloneOf(h)
	out.ReplicaCount = 0
	for _, p := range out.GetPools() {
		row, ok := s.pools.get(&poolRow{host: h.GetId(), pool: p.GetName()})
		if ok {
			p.ProvisionedCapacityGib = float64(row.gib)
			out.ReplicaCount += int32(row.replicas)
		}
		p.AllocatedCapacityGib = max(0, p.GetTotalCapacityGib()-p.GetFreeCapacityGib())
		p.FullName = fullName(h, p.GetName())
	}
	return out
}
