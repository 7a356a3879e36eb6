package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Agent holds the counters of a storage host's agent. Its facts of the moment
// come from RegisterLocal. Safe for concurrent use.
type Agent struct {
	// TransferBytes actually moved, by share, replica and direction (send, receive).
	TransferBytes *prometheus.CounterVec
	// Steps by share, replica, kind (full, incremental, resume, bookmark) and result (ok, retry, failed).
	Steps *prometheus.CounterVec
	// StepPhase by phase (plan, receive, verify, prune).
	StepPhase *prometheus.HistogramVec
	// StepErrors by class of storage failure.
	StepErrors *prometheus.CounterVec
	// ResumeDiscarded bytes by reason (dead_token, role, diverged, removed): work thrown away.
	ResumeDiscarded *prometheus.CounterVec
	// Divergences found, by share.
	Divergences *prometheus.CounterVec
	// Purges of divergent copies by result (ok, failed).
	Purges *prometheus.CounterVec
	// FenceActions by action (suspend, demote, seal, deadman, retire) and result (ok, failed).
	FenceActions *prometheus.CounterVec
	// StaleHolds released by the janitor.
	StaleHolds *prometheus.CounterVec
	// PruneDestroyed and PruneFailed snapshots by side (source, target) and reason:
	// retention; held, clones, busy, error.
	PruneDestroyed *prometheus.CounterVec
	PruneFailed    *prometheus.CounterVec
	// StorageCommands by op and result, and their duration by op.
	StorageCommands        *prometheus.CounterVec
	StorageCommandDuration *prometheus.HistogramVec
	// StorageCapability is 1 for each feature that the host's engine has.
	StorageCapability *prometheus.GaugeVec
	// LeaseRenewals by result (renewed, partial, failed, stale, unguarded, another_life).
	LeaseRenewals *prometheus.CounterVec
	// LeaseTransitions by transition (gained, lost), per share.
	LeaseTransitions *prometheus.CounterVec
	// ControlRequests to the control plane by procedure and result (ok, failed).
	ControlRequests *prometheus.CounterVec
	// WorkerRestarts by reason (error, panic).
	WorkerRestarts *prometheus.CounterVec
	// GossipMembers by state (alive, failed, left).
	GossipMembers *prometheus.GaugeVec
	// GossipRefused members by reason (stranger, address, malformed).
	GossipRefused *prometheus.CounterVec
}

// NewAgent registers the agent's counters with reg. Panics if they are there already.
func NewAgent(reg prometheus.Registerer) *Agent {
	m := maker{reg}
	return &Agent{
		TransferBytes:          m.counter("tarn_transfer_bytes_total", "Stream bytes moved.", "share", "replica", "direction"),
		Steps:                  m.counter("tarn_steps_total", "Replication steps ended.", "share", "replica", "kind", "result"),
		StepPhase:              m.histogram("tarn_step_phase_duration_seconds", "Duration of the phases of a replication step.", stepBuckets(), "phase"),
		StepErrors:             m.counter("tarn_step_errors_total", "Failures of replication steps by class.", "class"),
		ResumeDiscarded:        m.counter("tarn_resume_discarded_bytes_total", "Half-received bytes that had to be dropped.", "reason"),
		Divergences:            m.counter("tarn_divergence_total", "Times that a copy was found outside the share's history.", "share"),
		Purges:                 m.counter("tarn_divergent_purges_total", "Tries to destroy a divergent copy on an operator's order.", "result"),
		FenceActions:           m.counter("tarn_fence_actions_total", "Actions that end a host's right to write.", "action", "result"),
		StaleHolds:             m.counter("tarn_stale_holds_released_total", "Forgotten holds released by the janitor."),
		PruneDestroyed:         m.counter("tarn_prune_destroyed_total", "Replication snapshots destroyed by retention.", "side", "reason"),
		PruneFailed:            m.counter("tarn_prune_failed_total", "Replication snapshots that retention could not destroy.", "side", "reason"),
		StorageCommands:        m.counter("tarn_zfs_commands_total", "Storage operations.", "op", "result"),
		StorageCommandDuration: m.histogram("tarn_zfs_command_duration_seconds", "Duration of storage operations.", stepBuckets(), "op"),
		StorageCapability:      m.gauge("tarn_zfs_capability", "1 for each feature that the host's storage engine has.", "host", "feature"),
		LeaseRenewals:          m.counter("tarn_lease_renewals_total", "Lease renewals asked for.", "result"),
		LeaseTransitions:       m.counter("tarn_lease_transitions_total", "Rights to write gained and lost.", "transition"),
		ControlRequests:        m.counter("tarn_control_requests_total", "Calls to the control plane.", "procedure", "result"),
		WorkerRestarts:         m.counter("tarn_worker_restarts_total", "Replica workers that ended and were started again.", "reason"),
		GossipMembers:          newGossipMembers(m),
		GossipRefused:          newGossipRefused(m),
	}
}

// Forget drops the series of a replica that left this host.
func (a *Agent) Forget(share, replica string) {
	labels := prometheus.Labels{"share": share, "replica": replica}
	a.TransferBytes.DeletePartialMatch(labels)
	a.Steps.DeletePartialMatch(labels)
	a.Divergences.DeletePartialMatch(prometheus.Labels{"share": share})
}

// Local is what an agent knows of itself at one moment.
type Local struct {
	Replicas []LocalReplica
	Pools    []PoolSample
	Links    []LinkSample
	// LeaseRemaining is seconds until the lease ends; NaN without one.
	LeaseRemaining float64
	// LeasedShares is how many shares this host may write.
	LeasedShares int
	// AssignmentsRevision is the newest that the agent acts on.
	AssignmentsRevision uint64
	// ControlContact is seconds since the control plane last answered; NaN for never.
	ControlContact float64
	// OrphanedCopies are divergent copies of replicas that are not on this host.
	OrphanedCopies []CopySample
	// OrphanDatasets by pool: marked as tarn's, but assigned by nobody.
	OrphanDatasets map[string]int
	// DeadmanUp tells that the helper process lives and takes deadlines.
	DeadmanUp bool
}

// LocalReplica is one replica on this host. NaN in a float means unknown; times are Unix seconds.
type LocalReplica struct {
	Share, Replica, Role string
	// Lag as the agent measures it, seconds.
	Lag float64
	// Transfer: Active with expected and done bytes and the time of the last byte.
	Active       bool
	Expected     float64
	Done         float64
	LastProgress float64

	LastSuccess         float64
	LastAttempt         float64
	LastVerified        float64
	ConsecutiveFailures int
	// SourceRolledBack: the primary is at an older snapshot than this copy.
	SourceRolledBack bool
	Snapshots        int
	OldestSnapshot   float64
	NewestSnapshot   float64
	// Holds by kind (step, last, divergent, foreign) as retention last counted them.
	Holds map[string]int
	// Copies kept aside when history forked, and the bytes that they alone use.
	Copies         int
	PreservedBytes float64

	// RetentionRun is when retention last ran; RetentionKeep the age in seconds beyond which
	// the policy keeps nothing, NaN without one.
	RetentionRun, RetentionKeep float64
	// RetentionOldest is when the oldest snapshot was taken that the policy keeps or that is
	// overdue; Overdue counts those that retention would remove and cannot.
	RetentionOldest float64
	Overdue         int
}

// CopySample is a divergent copy.
type CopySample struct {
	Share string
	Bytes float64
}

// LinkSample is the connection to another agent.
type LinkSample struct {
	Host, Peer string
	RTT        float64 // seconds, NaN unknown
}
