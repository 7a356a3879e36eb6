package agent

import (
	"math"
	"strings"
	"time"

	"tarn/agent/lease"
	"tarn/agent/replicate"
	"tarn/metrics"
	tarnv1 "tarn/proto/tarn/v1"
)

// history is what a replica's reports tell over time.
type history struct {
	head                  uint64
	verified              time.Time
	done                  int64
	progressed, succeeded time.Time
	attempted             time.Time
	failures              int            // steps since the last that succeeded
	holds                 map[string]int // by kind, as retention last counted them
	retained              replicate.Retained
}

// step counts a finished replication step by its result.
func (h *history) step(result string, now time.Time) {
	if result == "ok" {
		h.failures, h.succeeded = 0, now
	} else {
		h.failures++
	}
}

// note compares a report with the one before: moved bytes are progress.
func (h *history) note(r *tarnv1.ReplicaReport, now time.Time) {
	if t := r.GetTransfer(); t != nil {
		if h.attempted.IsZero() || t.GetDoneBytes() < h.done || h.done == 0 {
			h.attempted = now
		}
		if t.GetDoneBytes() != h.done {
			h.progressed = now
		}
		h.done = t.GetDoneBytes()
	} else {
		h.done = 0
	}
	if head := r.GetHeadGuid(); head != h.head {
		h.head, h.verified = head, now
	}
}

// orphanedCopies are those whose replicas are not here, as last seen.
func (a *Agent) orphanedCopies() []metrics.CopySample {
	var samples []metrics.CopySample
	copies := a.orphans.divergent()
	for _, c := range copies {
		samples = append(samples, metrics.CopySample{Share: c.GetShareId(), Bytes: float64(c.GetUsedBytes())})
	}
	return samples
}

// local is the agent's part of a scrape.
func (a *Agent) local() metrics.Local {
	l := metrics.Local{
		Replicas: a.reports.samples(), Pools: a.poolSamples(), Links: a.links(), LeaseRemaining: math.NaN(), ControlContact: math.NaN(),
		LeasedShares: a.keeper.Count(), AssignmentsRevision: a.revision.Load(), OrphanDatasets: a.orphans.counts(),
		OrphanedCopies: a.orphanedCopies(),
		DeadmanUp:      a.deadman != nil && a.deadman.Up(),
	}
	if end, ok := a.keeper.Deadline(); ok {
		l.LeaseRemaining = (end - lease.BootTime()).Seconds()
	}
	if at := a.contact.Load(); at != 0 {
		l.ControlContact = time.Since(time.Unix(0, at)).Seconds()
	}
	return l
}

// links are the connections to the hosts that replicas here follow.
func (a *Agent) links() []metrics.LinkSample {
	var links []metrics.LinkSample
	for peer, rtt := range a.feed.RoundTrips() {
		links = append(links, metrics.LinkSample{Host: a.cfg.Name, Peer: peer, RTT: rtt.Seconds()})
	}
	return links
}

func (a *Agent) poolSamples() []metrics.PoolSample {
	status := a.pools.status()
	var samples []metrics.PoolSample
	for _, p := range a.cfg.Pools {
		s := find(status, p.Name)
		samples = append(samples, metrics.PoolSample{
			Host: a.cfg.Name, Pool: p.Name, Size: float64(s.Size), Free: float64(s.Free),
			Reserve: float64(s.Size) * float64(p.ReservedPercentage) / 100, Healthy: s.Health == "ONLINE" && a.pools.missing(p.Name) == nil,
		})
	}
	return samples
}

func (r *reports) samples() []metrics.LocalReplica {
	r.mu.Lock()
	defer r.mu.Unlock()
	samples := make([]metrics.LocalReplica, 0, len(r.latest))
	for id, report := range r.latest {
		samples = append(samples, sample(report, r.history[id]))
	}
	return samples
}

func sample(r *tarnv1.ReplicaReport, h *history) metrics.LocalReplica {
	s := metrics.LocalReplica{
		Share: r.GetShareId(), Replica: r.GetReplicaId(), Role: roleLabel(r.GetObservedRole()),
		Lag: math.NaN(), Expected: math.NaN(), Done: math.NaN(), LastProgress: math.NaN(),
		LastSuccess: unix(h.succeeded), LastVerified: unix(h.verified), LastAttempt: unix(h.attempted),
		SourceRolledBack:    r.GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_SOURCE_ROLLED_BACK,
		ConsecutiveFailures: h.failures, Snapshots: len(r.GetSnapshots()),
		OldestSnapshot: math.NaN(), NewestSnapshot: math.NaN(), Holds: h.holds, Copies: len(r.GetDivergentCopies()),
		RetentionRun: unix(h.retained.At), RetentionKeep: math.NaN(), RetentionOldest: unix(h.retained.Oldest), Overdue: h.retained.Overdue,
	}
	if !h.retained.At.IsZero() {
		s.Snapshots = h.retained.Total
	}
	if keep := h.retained.Keep; keep > 0 {
		s.RetentionKeep = keep.Seconds()
	}
	if r.GetLag() != nil {
		s.Lag = r.GetLag().AsDuration().Seconds()
	}
	if t := r.GetTransfer(); t != nil {
		s.Active, s.Expected, s.Done, s.LastProgress = true, float64(t.GetExpectedBytes()), float64(t.GetDoneBytes()), unix(h.progressed)
	}
	if r.GetHeadCreatedAt() != nil {
		s.NewestSnapshot = unix(r.GetHeadCreatedAt().AsTime())
	}
	for _, snap := range r.GetSnapshots() {
		if at := snap.GetTakenAt(); at != nil && !(s.OldestSnapshot <= unix(at.AsTime())) {
			s.OldestSnapshot = unix(at.AsTime())
		}
	}
	if !h.retained.First.IsZero() {
		s.OldestSnapshot = unix(h.retained.First)
	}
	for _, d := range r.GetDivergentCopies() {
		s.PreservedBytes += float64(d.GetUsedBytes())
	}
	return s
}

func roleLabel(r tarnv1.Role) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_"))
}

// unix is seconds, NaN for never.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return math.NaN()
	}
	return float64(t.UnixNano()) / 1e9
}
