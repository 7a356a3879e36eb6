package metrics

import (
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Fleet is what the leader knows at one moment. A node that does not lead gives
// an empty Fleet, so that every series exists once in the cluster.
type Fleet struct {
	Shares   []ShareSample
	Replicas []ReplicaSample
	Hosts    []HostSample
	Pools    []PoolSample
}

// ShareSample is one share. Share is its id; the other names are labels of tarn_share_info.
type ShareSample struct {
	Share       string
	Name        string
	Project     string
	PrimaryHost string // name of the owner's host
	Policy      string // replication type, "none" without
	Epoch       uint64
	// Writers are the hosts that report the share writable: one, unless something is wrong.
	Writers []string
	// LossBound is the age, in seconds, of what the share's last promotion kept, if
	// that was forced and lost data. NaN if not.
	LossBound float64
	// Unknown replicas with newer data that somebody has to decide about.
	Unknown int
	// FailoverBlocked tells that it ought to fail over by itself, and cannot.
	FailoverBlocked bool
}

// ReplicaSample is one replica as its agent last reported it, aged by the leader.
type ReplicaSample struct {
	Share   string
	Replica string
	Host    string
	// State is one of ReplicaStates.
	State string
	// Lag in seconds, grown by the silence of the agent. NaN while unknown.
	Lag float64
	// LagBytes and LagSnapshots are NaN when unknown.
	LagBytes     float64
	LagSnapshots float64
	// RPO in seconds; 0 for none.
	RPO float64
	// AckedSnapshot is the Unix time at which the newest acknowledged snapshot was
	// taken, by the primary's clock. NaN for none.
	AckedSnapshot float64
}

// ReplicaStates are the values of the state label: Manila's words.
func ReplicaStates() []string {
	return []string{"active", "in_sync", "out_of_sync", "error"}
}

// HostSample is one storage host.
type HostSample struct {
	Host     string
	Zone     string
	Up       bool
	Replicas int
	// FenceDegraded tells that what ends a lease there is weaker than the host registered.
	FenceDegraded bool
	// OtherLife tells that a copy of the host, which had to stop, is heard of beside it.
	OtherLife bool
}

// PoolSample is one pool. Sizes are bytes.
type PoolSample struct {
	Host    string
	Pool    string
	Size    float64
	Free    float64
	Reserve float64 // bytes that the scheduler leaves free
	Healthy bool
}

// FleetSource gives the leader's facts, plain values only. Called once per scrape, from any goroutine.
type FleetSource func() Fleet

// RegisterFleet collects shares, replicas, hosts and pools from source at each
// scrape. Panics if they are registered already.
func RegisterFleet(reg prometheus.Registerer, source FleetSource) {
	reg.MustRegister(newFleetCollector(source))
}

type fleetCollector struct {
	source FleetSource

	shareInfo, shareEpoch, sharePrimary, lossBound, unknown *prometheus.Desc
	state, lag, lagBytes, lagSnapshots, rpo, ackedSeconds   *prometheus.Desc
	hostUp, hostReplicas, fenceDegraded, otherLife, blocked *prometheus.Desc
	pools                                                   poolDescs
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func newFleetCollector(source FleetSource) *fleetCollector {
	return &fleetCollector{
		source:       source,
		shareInfo:    desc("tarn_share_info", "Always 1; the labels describe the share.", "share", "name", "project", "primary_host", "policy"),
		shareEpoch:   desc("tarn_share_epoch", "Fencing epoch; it never falls.", "share"),
		sharePrimary: desc("tarn_share_primary", "1 for each host that accepts writes for the share: exactly one in health.", "share", "host"),
		unknown:      desc("tarn_share_unknown_replicas", "Replicas with newer data that a restored state does not know, and that an operator has to decide about; absent if none.", "share"),
		lossBound:    desc("tarn_failover_data_loss_bound_seconds", "Upper bound of the time whose writes the share's last failover lost; absent if none.", "share"),
		state:        desc("tarn_replica_state", "1 for the state that the replica is in, 0 for the others.", "share", "replica", "state"),
		lag: desc("tarn_replica_lag_seconds",
			"Time since the copy was last known equal to the primary's live data; grows while its agent is silent.", "share", "replica"),
		lagBytes:     desc("tarn_replica_lag_bytes", "Bytes written on the primary that the replica lacks.", "share", "replica"),
		lagSnapshots: desc("tarn_replica_lag_snapshots", "Snapshots that the replica lacks.", "share", "replica"),
		rpo:          desc("tarn_replica_rpo_target_seconds", "Lag that the share's type promises.", "share", "replica"),
		ackedSeconds: desc("tarn_replica_acked_snapshot_timestamp_seconds",
			"When the newest acknowledged snapshot was taken, by the primary's clock.", "share", "replica"),
		hostUp:       desc("tarn_host_up", "1 while the leader hears the host's reports.", "host", "zone"),
		hostReplicas: desc("tarn_host_replicas", "Replicas placed on the host.", "host"),
		fenceDegraded: desc("tarn_host_fence_degraded",
			"1 while what ends a lease on the host is weaker than the host registered with.", "host"),
		otherLife: desc("tarn_host_other_life",
			"1 while a copy of the running host, which had to stop, is heard of beside it.", "host"),
		blocked: desc("tarn_auto_failovers_blocked", "1 while the share ought to fail over by itself and cannot; absent otherwise.", "share"),
		pools:   newPoolDescs(),
	}
}

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.shareInfo, c.shareEpoch, c.sharePrimary, c.lossBound, c.unknown, c.state, c.lag, c.lagBytes,
		c.lagSnapshots, c.rpo, c.ackedSeconds, c.hostUp, c.hostReplicas, c.fenceDegraded, c.otherLife, c.blocked,
	} {
		ch <- d
	}
	c.pools.describe(ch)
}

// Collect implements prometheus.Collector.
func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	fleet := c.source()
	for _, s := range fleet.Shares {
		c.share(ch, s)
	}
	for _, r := range fleet.Replicas {
		c.replica(ch, r)
	}
	for _, h := range fleet.Hosts {
		send(ch, c.hostUp, boolValue(h.Up), h.Host, h.Zone)
		send(ch, c.hostReplicas, float64(h.Replicas), h.Host)
		send(ch, c.fenceDegraded, boolValue(h.FenceDegraded), h.Host)
		send(ch, c.otherLife, boolValue(h.OtherLife), h.Host)
	}
	for _, p := range fleet.Pools {
		c.pools.collect(ch, p)
	}
}

func (c *fleetCollector) share(ch chan<- prometheus.Metric, s ShareSample) {
	send(ch, c.shareInfo, 1, s.Share, s.Name, s.Project, s.PrimaryHost, s.Policy)
	send(ch, c.shareEpoch, float64(s.Epoch), s.Share)
	sendKnown(ch, c.lossBound, s.LossBound, s.Share)
	if s.Unknown > 0 {
		send(ch, c.unknown, float64(s.Unknown), s.Share)
	}
	if s.FailoverBlocked {
		send(ch, c.blocked, 1, s.Share)
	}
	for _, host := range s.Writers {
		send(ch, c.sharePrimary, 1, s.Share, host)
	}
	// A share that nobody serves has a series too, or "sum != 1" would not see it.
	if s.PrimaryHost != "" && !slices.Contains(s.Writers, s.PrimaryHost) {
		send(ch, c.sharePrimary, 0, s.Share, s.PrimaryHost)
	}
}

func (c *fleetCollector) replica(ch chan<- prometheus.Metric, r ReplicaSample) {
	for _, state := range ReplicaStates() {
		send(ch, c.state, boolValue(state == r.State), r.Share, r.Replica, state)
	}
	if r.RPO > 0 {
		send(ch, c.rpo, r.RPO, r.Share, r.Replica)
	}
	sendKnown(ch, c.lag, r.Lag, r.Share, r.Replica)
	sendKnown(ch, c.lagBytes, r.LagBytes, r.Share, r.Replica)
	sendKnown(ch, c.lagSnapshots, r.LagSnapshots, r.Share, r.Replica)
	sendKnown(ch, c.ackedSeconds, r.AckedSnapshot, r.Share, r.Replica)
}

// poolDescs are shared by leader and agent; labels tell host and pool apart.
type poolDescs struct{ size, free, reserve, healthy *prometheus.Desc }

func newPoolDescs() poolDescs {
	return poolDescs{
		size:    desc("tarn_pool_size_bytes", "Size of the pool.", "host", "pool"),
		free:    desc("tarn_pool_free_bytes", "Unused space of the pool.", "host", "pool"),
		reserve: desc("tarn_pool_reserved_bytes", "Space that the scheduler leaves free.", "host", "pool"),
		healthy: desc("tarn_pool_healthy", "1 while the pool's health is ONLINE.", "host", "pool"),
	}
}

func (d poolDescs) describe(ch chan<- *prometheus.Desc) {
	ch <- d.size
	ch <- d.free
	ch <- d.reserve
	ch <- d.healthy
}

func (d poolDescs) collect(ch chan<- prometheus.Metric, p PoolSample) {
	send(ch, d.size, p.Size, p.Host, p.Pool)
	send(ch, d.free, p.Free, p.Host, p.Pool)
	send(ch, d.reserve, p.Reserve, p.Host, p.Pool)
	send(ch, d.healthy, boolValue(p.Healthy), p.Host, p.Pool)
}

func send(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// sendKnown leaves out what is not known: an absent series is honest, a zero is not.
func sendKnown(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	if !math.IsNaN(v) {
		send(ch, d, v, labels...)
	}
}
