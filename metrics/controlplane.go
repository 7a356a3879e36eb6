package metrics

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// RPC counts the requests that a process serves. Procedures come from the
// generated code, codes from Connect: both are bounded.
type RPC struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewRPC registers tarn_rpc_* with reg. Panics if they are there already.
func NewRPC(reg prometheus.Registerer) *RPC {
	m := maker{reg}
	return &RPC{
		requests: m.counter("tarn_rpc_requests_total", "Requests answered, by procedure and result code.", "procedure", "code"),
		duration: m.histogram("tarn_rpc_request_duration_seconds",
			"Time from the arrival of a request to its answer; long polls excluded.", rpcBuckets(), "procedure"),
	}
}

// Observe counts one answered request. code is "ok" or the Connect code's text.
// Safe for concurrent use.
func (r *RPC) Observe(procedure, code string, took time.Duration) {
	r.requests.WithLabelValues(procedure, code).Inc()
	r.duration.WithLabelValues(procedure).Observe(took.Seconds())
}

// ObserveLongPoll counts a request that waits on purpose, without its duration.
func (r *RPC) ObserveLongPoll(procedure, code string) {
	r.requests.WithLabelValues(procedure, code).Inc()
}

// ControlPlane holds the counters of a control-plane node. Its facts of the
// moment come from RegisterFleet and RegisterRaft. Safe for concurrent use.
type ControlPlane struct {
	RPC *RPC
	// Failovers by kind (planned, forced, automatic), counted by the leader that finished them. Of
	// which share is in tarn_share_epoch: its series end with the share.
	Failovers *prometheus.CounterVec
	// FailoverDuration by kind, from the promotion's start to the commit that lets its
	// target write.
	FailoverDuration *prometheus.HistogramVec
	// Stonith commands by result (off, failed).
	Stonith *prometheus.CounterVec
	// Placements by result (placed, refused, conflict) and how long deciding took.
	Placements        *prometheus.CounterVec
	PlacementDuration *prometheus.HistogramVec
	// Commands proposed to the log by verb and result (applied, refused, repeated, unknown).
	Commands *prometheus.CounterVec
	// OtherTerm counts entries stored under another term than they were proposed in.
	OtherTerm *prometheus.CounterVec
	// ReconcileDuration of one round of the leader, from view to proposed commands.
	ReconcileDuration *prometheus.HistogramVec
	// Reports of agents by result (taken, stale, another_life, unknown_host).
	Reports *prometheus.CounterVec
	// Leases asked for by result (granted, revoked, refused).
	Leases *prometheus.CounterVec
	// GossipMembers by state (alive, failed, left).
	GossipMembers *prometheus.GaugeVec
	// GossipRefused members by reason (stranger, address, malformed).
	GossipRefused *prometheus.CounterVec
}

// NewControlPlane registers the node's counters with reg. Panics if they are there already.
func NewControlPlane(reg prometheus.Registerer) *ControlPlane {
	m := maker{reg}
	return &ControlPlane{
		RPC:               NewRPC(reg),
		Failovers:         m.counter("tarn_failovers_total", "Promotions that finished.", "kind"),
		FailoverDuration:  m.histogram("tarn_failover_duration_seconds", "From the start of a promotion to the commit that lets its target write.", rpcBuckets(), "kind"),
		Stonith:           m.counter("tarn_stonith_total", "Storage hosts that were to be switched off.", "result"),
		Placements:        m.counter("tarn_placements_total", "Decisions where to put a replica.", "result"),
		PlacementDuration: m.histogram("tarn_placement_duration_seconds", "Time to decide where to put a replica.", rpcBuckets()),
		Commands:          m.counter("tarn_commands_total", "Commands proposed to the replicated log.", "verb", "result"),
		OtherTerm:         m.counter("tarn_commands_other_term_total", "Log entries refused because leadership changed between their proposal and their storing."),
		ReconcileDuration: m.histogram("tarn_reconcile_duration_seconds", "One round of the leader's reconcile loop.", rpcBuckets()),
		Reports:           m.counter("tarn_agent_reports_total", "Reports received from agents.", "result"),
		Leases:            m.counter("tarn_lease_grants_total", "Leases that agents asked for, per share and renewal.", "result"),
		GossipMembers:     newGossipMembers(m),
		GossipRefused:     newGossipRefused(m),
	}
}

// Raft is a node's consensus state at one moment.
type Raft struct {
	Leader       bool   // this node leads
	LeaderKnown  bool   // this node knows of a leader
	Term         uint64 // current term
	LastIndex    uint64 // of this node's log
	CommitIndex  uint64
	AppliedIndex uint64
	Voters       int
	// SinceContact is the time since the leader was last heard; 0 on the leader.
	SinceContact time.Duration
	// CheckedIndex is where this node's state was last found equal to the leader's.
	CheckedIndex uint64
	// CommandVersion of the cluster.
	CommandVersion uint32
	// OldestLogAge of the entries that this node keeps, FreePages of its log file; negative: unknown.
	OldestLogAge time.Duration
	FreePages    int
}

// RegisterRaft collects tarn_raft_* from state at each scrape. Panics if they
// are registered already.
func RegisterRaft(reg prometheus.Registerer, state func() Raft) {
	reg.MustRegister(&raftCollector{state: state, descs: descsOf(raftFacts())})
}

type raftFact struct {
	name, help string
	value      func(Raft) float64
}

func raftFacts() []raftFact {
	return []raftFact{
		{"tarn_raft_is_leader", "1 on the node that leads.", func(r Raft) float64 { return boolValue(r.Leader) }},
		{"tarn_raft_leader_known", "1 while this node knows of a leader.", func(r Raft) float64 { return boolValue(r.LeaderKnown) }},
		{"tarn_raft_term", "Current term.", func(r Raft) float64 { return float64(r.Term) }},
		{"tarn_raft_last_index", "Newest entry in this node's log.", func(r Raft) float64 { return float64(r.LastIndex) }},
		{"tarn_raft_commit_index", "Newest committed entry that this node knows.", func(r Raft) float64 { return float64(r.CommitIndex) }},
		{"tarn_raft_applied_index", "Newest entry applied to this node's state.", func(r Raft) float64 { return float64(r.AppliedIndex) }},
		{"tarn_raft_checked_index", "Newest entry at which this node's state was found equal to the leader's.",
			func(r Raft) float64 { return float64(r.CheckedIndex) }},
		{"tarn_raft_command_version", "Version of the log's commands that every control-plane node can apply.",
			func(r Raft) float64 { return float64(r.CommandVersion) }},
		{"tarn_raft_voters", "Voting members of the cluster.", func(r Raft) float64 { return float64(r.Voters) }},
		{"tarn_raft_leader_contact_age_seconds", "Time since the leader was heard; 0 on the leader.",
			func(r Raft) float64 { return r.SinceContact.Seconds() }},
		{"tarn_raft_oldest_log_age_seconds", "Age of the oldest log entry that this node keeps: who was away for longer needs a snapshot.",
			func(r Raft) float64 { return orUnknown(r.OldestLogAge >= 0, r.OldestLogAge.Seconds()) }},
		{"tarn_raft_log_free_pages", "Free pages of the log's file, which never shrinks.",
			func(r Raft) float64 { return orUnknown(r.FreePages >= 0, float64(r.FreePages)) }},
	}
}

type raftCollector struct {
	state func() Raft
	descs []*prometheus.Desc
}

func descsOf(facts []raftFact) []*prometheus.Desc {
	descs := make([]*prometheus.Desc, len(facts))
	for i, f := range facts {
		descs[i] = prometheus.NewDesc(f.name, f.help, nil, nil)
	}
	return descs
}

// Describe implements prometheus.Collector.
func (c *raftCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *raftCollector) Collect(ch chan<- prometheus.Metric) {
	state := c.state()
	for i, f := range raftFacts() {
		if v := f.value(state); !math.IsNaN(v) {
			ch <- prometheus.MustNewConstMetric(c.descs[i], prometheus.GaugeValue, v)
		}
	}
}

func orUnknown(is bool, value float64) float64 {
	if is {
		return value
	}
	return math.NaN()
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
