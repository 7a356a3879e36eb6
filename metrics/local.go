package metrics

import "github.com/prometheus/client_golang/prometheus"

// LocalSource gives the agent's facts. Called once per scrape, from any goroutine.
type LocalSource func() Local

// RegisterLocal collects the agent's facts from source at each scrape. Panics
// if they are registered already.
func RegisterLocal(reg prometheus.Registerer, source LocalSource) {
	reg.MustRegister(newLocalCollector(source))
}

// replicaFact is a series per replica whose value may be unknown (NaN).
type replicaFact struct {
	desc  *prometheus.Desc
	value func(LocalReplica) float64
}

type localCollector struct {
	source LocalSource
	facts  []replicaFact
	pools  poolDescs

	snapshots, holds, copies, preserved, rtt            *prometheus.Desc
	remaining, leased, revision, contact, orphans, dead *prometheus.Desc
}

func newLocalCollector(source LocalSource) *localCollector {
	return &localCollector{
		source:    source,
		facts:     replicaFacts(),
		pools:     newPoolDescs(),
		snapshots: desc("tarn_snapshots", "Snapshots of the share on this host.", "share", "role"),
		holds:     desc("tarn_holds", "Holds on the share's snapshots.", "share", "kind"),
		copies:    desc("tarn_divergent_copies", "Divergent copies kept aside until somebody purges them.", "share"),
		preserved: desc("tarn_diverged_preserved_bytes", "Space used by divergent copies kept aside.", "share"),
		rtt:       desc("tarn_link_rtt_seconds", "Time that the last question to another agent was on its way.", "host", "peer"),
		remaining: desc("tarn_lease_remaining_seconds", "Time until this host must stop serving writes."),
		leased:    desc("tarn_lease_shares", "Shares that this host may write."),
		revision:  desc("tarn_assignments_revision", "Newest assignments that the agent acts on."),
		contact:   desc("tarn_control_contact_age_seconds", "Time since the control plane last answered."),
		orphans:   desc("tarn_orphan_datasets", "Datasets marked as tarn's that nobody assigned to this host.", "pool"),
		dead:      desc("tarn_deadman_up", "1 while the helper that enforces the end of the lease is alive."),
	}
}

func replicaFacts() []replicaFact {
	fact := func(name, help string, value func(LocalReplica) float64) replicaFact {
		return replicaFact{desc(name, help, "share", "replica"), value}
	}
	return []replicaFact{
		fact("tarn_agent_replica_lag_seconds", "Lag as this agent measures it.", func(r LocalReplica) float64 { return r.Lag }),
		fact("tarn_transfer_active", "1 while a stream runs.", func(r LocalReplica) float64 { return boolValue(r.Active) }),
		fact("tarn_transfer_expected_bytes", "Estimated size of the running stream.", func(r LocalReplica) float64 { return r.Expected }),
		fact("tarn_transfer_done_bytes", "Bytes of the running stream that moved.", func(r LocalReplica) float64 { return r.Done }),
		fact("tarn_transfer_last_progress_timestamp_seconds", "When the running stream last moved a byte.",
			func(r LocalReplica) float64 { return r.LastProgress }),
		fact("tarn_replica_last_success_timestamp_seconds", "When the last replication step succeeded.",
			func(r LocalReplica) float64 { return r.LastSuccess }),
		fact("tarn_replica_last_attempt_timestamp_seconds", "When the last replication step began.",
			func(r LocalReplica) float64 { return r.LastAttempt }),
		fact("tarn_replica_last_verified_timestamp_seconds", "When the copy's newest snapshot was last verified by GUID.",
			func(r LocalReplica) float64 { return r.LastVerified }),
		fact("tarn_replica_consecutive_failures", "Replication steps that failed since the last success.",
			func(r LocalReplica) float64 { return float64(r.ConsecutiveFailures) }),
		fact("tarn_replica_source_rolled_back", "1 while the primary is at an older snapshot than this copy.",
			func(r LocalReplica) float64 { return boolValue(r.SourceRolledBack) }),
		fact("tarn_oldest_snapshot_timestamp_seconds", "When the oldest snapshot was taken.",
			func(r LocalReplica) float64 { return r.OldestSnapshot }),
		fact("tarn_newest_snapshot_timestamp_seconds", "When the newest snapshot was taken.",
			func(r LocalReplica) float64 { return r.NewestSnapshot }),
		fact("tarn_retention_last_run_timestamp_seconds", "When retention last looked at the replica's snapshots.",
			func(r LocalReplica) float64 { return r.RetentionRun }),
		fact("tarn_retention_keep_seconds", "Age beyond which the share's policy keeps no replication snapshot.",
			func(r LocalReplica) float64 { return r.RetentionKeep }),
		fact("tarn_retention_oldest_timestamp_seconds", "When the oldest snapshot was taken that is here for the policy's sake, or should not be here any more.",
			func(r LocalReplica) float64 { return r.RetentionOldest }),
		fact("tarn_retention_overdue_snapshots", "Snapshots that retention would remove but that are held, cloned or in use.",
			func(r LocalReplica) float64 { return float64(r.Overdue) }),
	}
}

// Describe implements prometheus.Collector.
func (c *localCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.facts {
		ch <- f.desc
	}
	for _, d := range []*prometheus.Desc{
		c.snapshots, c.holds, c.copies, c.preserved, c.rtt,
		c.remaining, c.leased, c.revision, c.contact, c.orphans, c.dead,
	} {
		ch <- d
	}
	c.pools.describe(ch)
}

// Collect implements prometheus.Collector.
func (c *localCollector) Collect(ch chan<- prometheus.Metric) {
	local := c.source()
	for _, r := range local.Replicas {
		c.replica(ch, r)
	}
	c.perShare(ch, local.Replicas)
	c.kept(ch, local)
	for _, p := range local.Pools {
		c.pools.collect(ch, p)
	}
	for _, l := range local.Links {
		sendKnown(ch, c.rtt, l.RTT, l.Host, l.Peer)
	}
	c.self(ch, local)
}

func (c *localCollector) replica(ch chan<- prometheus.Metric, r LocalReplica) {
	for _, f := range c.facts {
		sendKnown(ch, f.desc, f.value(r), r.Share, r.Replica)
	}
}

// perShare adds up: two pools of one host may hold replicas of one share.
func (c *localCollector) perShare(ch chan<- prometheus.Metric, replicas []LocalReplica) {
	type key struct{ share, label string }
	snapshots, holds := map[key]int{}, map[key]int{}
	for _, r := range replicas {
		snapshots[key{r.Share, r.Role}] += r.Snapshots
		for kind, n := range r.Holds {
			holds[key{r.Share, kind}] += n
		}
	}
	for k, n := range snapshots {
		send(ch, c.snapshots, float64(n), k.share, k.label)
	}
	for k, n := range holds {
		send(ch, c.holds, float64(n), k.share, k.label)
	}
}

// kept adds up what was put aside, of replicas here and of those that are gone.
func (c *localCollector) kept(ch chan<- prometheus.Metric, local Local) {
	copies, preserved := map[string]int{}, map[string]float64{}
	for _, r := range local.Replicas {
		copies[r.Share] += r.Copies
		preserved[r.Share] += r.PreservedBytes
	}
	for _, o := range local.OrphanedCopies {
		copies[o.Share]++
		preserved[o.Share] += o.Bytes
	}
	for share, bytes := range preserved {
		send(ch, c.copies, float64(copies[share]), share)
		send(ch, c.preserved, bytes, share)
	}
}

func (c *localCollector) self(ch chan<- prometheus.Metric, local Local) {
	sendKnown(ch, c.remaining, local.LeaseRemaining)
	send(ch, c.leased, float64(local.LeasedShares))
	send(ch, c.revision, float64(local.AssignmentsRevision))
	sendKnown(ch, c.contact, local.ControlContact)
	send(ch, c.dead, boolValue(local.DeadmanUp))
	for pool, n := range local.OrphanDatasets {
		send(ch, c.orphans, float64(n), pool)
	}
}
