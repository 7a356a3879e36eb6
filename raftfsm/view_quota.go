package raftfsm

import tarnv1 "tarn/proto/tarn/v1"

// EffectiveQuota returns the limits of a project, narrowed to a user or a share type where
// those are not empty, in a fresh map by quota key. -1 is unlimited.
func (v *View) EffectiveQuota(project, user, shareType string) map[string]int64 {
	return v.s.effectiveQuota(project, user, shareType)
}

// Usage returns what a project uses, in all or of one user or of one share type, in a
// fresh map by counted quota key. User and share type together are not counted.
func (v *View) Usage(project, user, shareType string) map[string]int64 {
	used := v.s.used(project, user, shareType)
	out := make(map[string]int64, len(usageKeys))
	for i, k := range usageKeys {
		out[k] = used[i]
	}
	return out
}

// QuotaLimits returns the limits set for exactly this scope, if any are.
func (v *View) QuotaLimits(project, user, shareType string) (*tarnv1.QuotaLimits, bool) {
	return v.s.limits(project, user, shareType)
}

// PoolProvisioned returns the sum of sizes, in GiB, and the number of replicas on a pool.
func (v *View) PoolProvisioned(hostID, pool string) (provisionedGiB int64, replicas int) {
	row, ok := v.s.pools.get(&poolRow{host: hostID, pool: pool})
	if !ok {
		return 0, 0
	}
	return row.gib, row.replicas
}

// Counts are totals of a view, all kept as the state changes.
type Counts struct {
	ShareTypes, Shares, Replicas, Snapshots, SnapshotInstances int
	AccessRules, Hosts, Messages, JoinTokens                   int
	// ReplicaStates counts replicas by replica_state; zero entries are absent.
	ReplicaStates map[tarnv1.ReplicaState]int
}

// Counts returns the totals in constant time.
func (v *View) Counts() Counts {
	c := Counts{
		ShareTypes: v.s.types.len(), Shares: v.s.shares.len(), Replicas: v.s.replicas.len(),
		Snapshots: v.s.snapshots.len(), SnapshotInstances: v.s.instances.len(), AccessRules: v.s.rules.len(),
		Hosts: v.s.hosts.len(), Messages: v.s.messages.len(), JoinTokens: v.s.tokens.len(),
		ReplicaStates: map[tarnv1.ReplicaState]int{},
	}
	for st, n := range v.s.states {
		if n > 0 {
			c.ReplicaStates[tarnv1.ReplicaState(st)] = n
		}
	}
	return c
}
