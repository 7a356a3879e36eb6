package metrics

import (
	"fmt"
	"strings"

	gometrics "github.com/hashicorp/go-metrics"
	"github.com/prometheus/client_golang/prometheus"
)

// Bridge carries chosen internals of the Raft and gossip libraries, which write
// to go-metrics' one global sink, into a registry under tarn's rules for names.
// What is not in its table is dropped: the libraries put peers' ids into names,
// which would never end. raft-boltdb writes to the older armon sink unless the
// program is built with the tag hashicorpmetrics; its numbers are not carried.
// Safe for concurrent use.
type Bridge struct {
	counters map[string]prometheus.Counter
	gauges   map[string]prometheus.Gauge
	timers   map[string]prometheus.Histogram
}

// bridged maps a library's dotted key to our name and help.
type bridged struct{ key, name, help string }

func bridgedCounters() []bridged {
	return []bridged{
		{"raft.apply", "tarn_raft_applies_total", "Commands given to Raft on this node."},
		{"raft.barrier", "tarn_raft_barriers_total", "Barriers asked for."},
		{"raft.verify_leader", "tarn_raft_verify_leader_total", "Quorum rounds that confirm leadership."},
		{"raft.state.candidate", "tarn_raft_candidacies_total", "Elections that this node began."},
		{"raft.state.leader", "tarn_raft_leaderships_total", "Elections that this node won."},
		{"raft.state.follower", "tarn_raft_followings_total", "Times that this node became a follower."},
		{"raft.transition.heartbeat_timeout", "tarn_raft_heartbeat_timeouts_total", "Times that the leader was not heard."},
		{"raft.transition.leader_lease_timeout", "tarn_raft_leader_lease_timeouts_total", "Times that this leader lost its quorum."},
		{"memberlist.msg.alive", "tarn_gossip_alive_messages_total", "Announcements that a member is alive."},
		{"memberlist.msg.suspect", "tarn_gossip_suspect_messages_total", "Suspicions heard or raised."},
		{"memberlist.msg.dead", "tarn_gossip_dead_messages_total", "Announcements that a member is dead."},
		{"memberlist.udp.sent", "tarn_gossip_udp_sent_bytes_total", "Gossip bytes sent over UDP."},
		{"memberlist.udp.received", "tarn_gossip_udp_received_bytes_total", "Gossip bytes received over UDP."},
		{"memberlist.tcp.sent", "tarn_gossip_tcp_sent_bytes_total", "Gossip bytes sent over TCP."},
		{"memberlist.degraded.probe", "tarn_gossip_degraded_probes_total", "Probes answered late because this node is slow."},
		{"memberlist.degraded.timeout", "tarn_gossip_degraded_timeouts_total", "Timeouts met because this node is slow."},
	}
}

func bridgedGauges() []bridged {
	return []bridged{
		{"raft.peers", "tarn_raft_peers", "Members of the cluster by the newest configuration."},
		{"raft.commitNumLogs", "tarn_raft_commit_batch_entries", "Entries in the last commit."},
		{"memberlist.health.score", "tarn_gossip_health_score", "Own health as gossip judges it: 0 is well."},
	}
}

func bridgedTimers() []bridged {
	return []bridged{
		{"raft.commitTime", "tarn_raft_commit_duration_seconds", "From a command's arrival at the leader to its commit."},
		{"raft.fsm.apply", "tarn_raft_fsm_apply_duration_seconds", "Applying one entry."},
		{"raft.fsm.applyBatch", "tarn_raft_fsm_apply_batch_duration_seconds", "Applying one batch of entries."},
		{"raft.fsm.snapshot", "tarn_raft_fsm_snapshot_duration_seconds", "Taking a snapshot of the state."},
		{"raft.fsm.restore", "tarn_raft_fsm_restore_duration_seconds", "Restoring the state from a snapshot."},
		{"raft.snapshot.persist", "tarn_raft_snapshot_persist_duration_seconds", "Writing a snapshot to disk."},
		{"raft.leader.dispatchLog", "tarn_raft_dispatch_duration_seconds", "Writing entries to the leader's own log."},
		{"raft.leader.lastContact", "tarn_raft_follower_contact_age_seconds", "Age of the quorum's last contact when the leader checked."},
		{"raft.rpc.appendEntries", "tarn_raft_append_entries_duration_seconds", "Handling entries from the leader."},
		{"raft.rpc.installSnapshot", "tarn_raft_install_snapshot_duration_seconds", "Taking a snapshot from the leader, because entries that this node lacks are gone from its log."},
		{"raft.candidate.electSelf", "tarn_raft_election_duration_seconds", "Asking for votes."},
		{"memberlist.probeNode", "tarn_gossip_probe_duration_seconds", "Probing one member."},
		{"memberlist.gossip", "tarn_gossip_round_duration_seconds", "One round of gossip."},
		{"memberlist.pushPullNode", "tarn_gossip_push_pull_duration_seconds", "Exchanging the full state with one member."},
	}
}

// NewBridge registers the carried metrics with reg. Panics if they are there already.
func NewBridge(reg prometheus.Registerer) *Bridge {
	b := &Bridge{
		counters: map[string]prometheus.Counter{},
		gauges:   map[string]prometheus.Gauge{},
		timers:   map[string]prometheus.Histogram{},
	}
	m := maker{reg}
	for _, e := range bridgedCounters() {
		b.counters[e.key] = m.counter(e.name, e.help).WithLabelValues()
	}
	for _, e := range bridgedGauges() {
		b.gauges[e.key] = m.gauge(e.name, e.help).WithLabelValues()
	}
	for _, e := range bridgedTimers() {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: e.name, Help: e.help, Buckets: rpcBuckets()})
		reg.MustRegister(h)
		b.timers[e.key] = h
	}
	return b
}

// Install makes b the sink of the whole process. Call it once, from main: the
// libraries know no other way.
func (b *Bridge) Install() error {
	config := gometrics.DefaultConfig("")
	config.EnableHostname = false
	config.EnableRuntimeMetrics = false
	if _, err := gometrics.NewGlobal(config, b); err != nil {
		return fmt.Errorf("install metrics sink: %w", err)
	}
	return nil
}

func dotted(key []string) string { return strings.Join(key, ".") }

// SetGauge implements the sink.
func (b *Bridge) SetGauge(key []string, v float32) {
	if g, ok := b.gauges[dotted(key)]; ok {
		g.Set(float64(v))
	}
}

// SetGaugeWithLabels implements the sink; labels are dropped.
func (b *Bridge) SetGaugeWithLabels(key []string, v float32, _ []gometrics.Label) { b.SetGauge(key, v) }

// EmitKey implements the sink; nothing we carry uses it.
func (b *Bridge) EmitKey([]string, float32) {}

// IncrCounter implements the sink.
func (b *Bridge) IncrCounter(key []string, v float32) {
	if c, ok := b.counters[dotted(key)]; ok && v >= 0 {
		c.Add(float64(v))
	}
}

// IncrCounterWithLabels implements the sink; labels are dropped.
func (b *Bridge) IncrCounterWithLabels(key []string, v float32, _ []gometrics.Label) {
	b.IncrCounter(key, v)
}

// AddSample implements the sink. The libraries measure in milliseconds.
func (b *Bridge) AddSample(key []string, v float32) {
	if h, ok := b.timers[dotted(key)]; ok {
		h.Observe(float64(v) / 1000)
	}
}

// AddSampleWithLabels implements the sink; labels are dropped.
func (b *Bridge) AddSampleWithLabels(key []string, v float32, _ []gometrics.Label) {
	b.AddSample(key, v)
}

// Shutdown implements the shutdown part of the sink; there is nothing to flush.
func (b *Bridge) Shutdown() {}
