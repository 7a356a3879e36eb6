package agent

import (
	"context"
	"sync"
	"time"

	"tarn/agent/replicate"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// coalesce is how long changes are gathered into one report.
const coalesce = 100 * time.Millisecond

// reports gathers what workers observe and sends it to the leader: changes soon,
// everything every interval. Safe for concurrent use.
type reports struct {
	send    func(context.Context, *tarnv1.ReportRequest) (*tarnv1.ReportResponse, error)
	pools   func() []zfs.PoolStatus
	host    string
	session string
	// class is what enforces the end of a lease at this moment, and why that is less than
	// the host registered with.
	class    func() (class tarnv1.FenceClass, trouble string)
	interval time.Duration
	failed   func(error)
	// turn is told that a round begins.
	turn func()
	// live is what a replica's worker would say at this moment; nil when it has
	// nothing to say. Lag and progress move without any change being published.
	live func(replicaID string) *tarnv1.ReplicaReport

	// inquiries are the leader's questions, answered with reports.
	inquiries *inquiries
	// purges tells how the destruction of divergent copies went, orphans what is here of
	// replicas that are not.
	purges  func() []*tarnv1.PurgeReport
	orphans func(*tarnv1.ReportRequest)

	// gossip is this host's part in the ring, obey what it is told of it.
	gossip func() *tarnv1.GossipState
	obey   func(*tarnv1.GossipOrders)

	// revoked is the digest of the revocations that this host goes by, revoke takes others.
	revoked func() []byte
	revoke  func(*tarnv1.Revocations)

	kick chan struct{}

	mu       sync.Mutex
	revision uint64
	heard    bool            // assignments have been received
	expected map[string]bool // replicas that have to report before a report is full
	latest   map[string]*tarnv1.ReplicaReport
	changed  map[string]bool
	history  map[string]*history
	sequence uint64
}

func newReports(interval time.Duration) *reports {
	return &reports{
		interval: interval, live: func(string) *tarnv1.ReplicaReport { return nil },
		turn:      func() {},
		class:     func() (tarnv1.FenceClass, string) { return tarnv1.FenceClass_FENCE_CLASS_NONE, "" },
		inquiries: newInquiries(nil, func() {}),
		purges:    func() []*tarnv1.PurgeReport { return nil },
		orphans:   func(*tarnv1.ReportRequest) {},
		gossip:    func() *tarnv1.GossipState { return nil },
		obey:      func(*tarnv1.GossipOrders) {},
		revoked:   func() []byte { return nil },
		revoke:    func(*tarnv1.Revocations) {},
		kick:      make(chan struct{}, 1), expected: map[string]bool{},
		latest: map[string]*tarnv1.ReplicaReport{}, changed: map[string]bool{}, history: map[string]*history{},
	}
}

// publish takes a worker's newest report, which must not be changed afterwards.
func (r *reports) publish(report *tarnv1.ReplicaReport) {
	r.mu.Lock()
	id := report.GetReplicaId()
	r.latest[id] = report
	r.changed[id] = true
	r.past(id).note(report, time.Now())
	r.mu.Unlock()
	r.soon()
}

// step notes the end of a replication step.
func (r *reports) step(replicaID, result string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past(replicaID).step(result, time.Now())
}

// holds notes what retention counted.
func (r *reports) holds(replicaID string, byKind map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past(replicaID).holds = byKind
}

// retained notes what retention left.
func (r *reports) retained(replicaID string, left replicate.Retained) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past(replicaID).retained = left
}

// past is a replica's history. The caller has the lock.
func (r *reports) past(id string) *history {
	if r.history[id] == nil {
		r.history[id] = &history{}
	}
	return r.history[id]
}

// expect says which replicas a full report has to cover.
func (r *reports) expect(revision uint64, assignments []*tarnv1.Assignment) {
	r.mu.Lock()
	r.revision, r.heard = revision, true
	r.expected = make(map[string]bool, len(assignments))
	for _, a := range assignments {
		r.expected[a.GetReplicaId()] = true
	}
	r.mu.Unlock()
	r.soon()
}

// forget drops a replica that left this host.
func (r *reports) forget(replicaID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.expected[replicaID] {
		delete(r.latest, replicaID)
		delete(r.changed, replicaID)
		delete(r.history, replicaID)
	}
}

func (r *reports) soon() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// run sends until ctx ends.
func (r *reports) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	full := true
	var next time.Time // of the full report
	for failing := false; ; {
		r.turn()
		select {
		case <-ctx.Done():
			return nil
		case <-r.kick:
			if wait(ctx, coalesce) != nil {
				return nil
			}
		case <-timer.C:
		}
		full = full || !time.Now().Before(next)
		complete, want, err := r.once(ctx, full)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if !failing {
				r.failed(err)
			}
			failing = true
			timer.Reset(min(r.interval, time.Second))
			continue
		}
		if full {
			next = time.Now().Add(r.interval)
		}
		// One that was to be full and could not yet be is tried again with the next change.
		failing, full = false, want || full && !complete
		timer.Reset(r.pause(want, next))
	}
}

func (r *reports) pause(want bool, next time.Time) time.Duration {
	if want {
		return 0
	}
	return max(0, time.Until(next))
}

// once sends one report; what it could not send stays changed. It tells if the
// report was complete, and if the leader wants a full one.
func (r *reports) once(ctx context.Context, full bool) (complete, want bool, err error) {
	if full {
		r.freshen()
	}
	req := r.compose(full)
	if full {
		req.Pools = poolReports(r.pools())
	}
	req.Answers, req.Purges = r.inquiries.take(), r.purges()
	r.orphans(req)
	req.Gossip, req.RevocationsDigest = r.gossip(), r.revoked()
	resp, err := r.send(ctx, req)
	if err != nil {
		r.giveBack(req)
		r.inquiries.notSent(req.GetAnswers(), err)
	} else {
		r.revoke(resp.GetRevocations())
		r.inquiries.sent(req.GetAnswers())
		r.inquiries.ask(resp.GetInquiries())
		r.obey(resp.GetGossip())
	}
	return req.GetFull(), resp.GetWantFull(), err
}

// freshen asks the workers anew, so that a full report tells the lag of now and
// not that of the last change.
func (r *reports) freshen() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.latest {
		if report := r.live(id); report != nil {
			r.latest[id] = report
		}
	}
}

// compose lists the changed replicas, or all. It calls itself full only when
// every assigned replica has been looked at: what is missing is not there.
func (r *reports) compose(full bool) *tarnv1.ReportRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence++
	req := &tarnv1.ReportRequest{
		HostId: r.host, SessionId: r.session, Sequence: r.sequence, AssignmentsRevision: r.revision,
		Full: full && r.heard,
	}
	req.FenceClass, req.FenceTrouble = r.class()
	for id := range r.expected {
		req.Full = req.Full && r.latest[id] != nil
	}
	for id, report := range r.latest {
		if full || r.changed[id] {
			req.Replicas = append(req.Replicas, report)
		}
	}
	clear(r.changed)
	return req
}

func (r *reports) giveBack(req *tarnv1.ReportRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, report := range req.GetReplicas() {
		if _, known := r.latest[report.GetReplicaId()]; known {
			r.changed[report.GetReplicaId()] = true
		}
	}
}

func poolReports(status []zfs.PoolStatus) []*tarnv1.PoolReport {
	var pools []*tarnv1.PoolReport
	for _, p := range status {
		pools = append(pools, &tarnv1.PoolReport{
			Name: p.Name, TotalCapacityGib: float64(p.Size) / gib, FreeCapacityGib: float64(p.Free) / gib, Health: p.Health,
		})
	}
	return pools
}
