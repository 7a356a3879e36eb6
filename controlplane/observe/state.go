package observe

import (
	"errors"
	"maps"
	"sync"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// Defaults of Config.
const (
	DefaultTTL            = 10 * time.Second
	DefaultReportInterval = 5 * time.Second
)

// Config of a State. The zero value means the defaults.
type Config struct {
	// TTL is the silence after which a host counts as missed. Default 10 s.
	TTL time.Duration
	// ReportInterval is how far apart the reports of a healthy agent are at most.
	// A replica's own word is trusted until the next one is due. Default 5 s,
	// less than TTL.
	ReportInterval time.Duration
	// Asleep is how long this system has been suspended since it was started; nil if
	// nobody knows.
	Asleep func() time.Duration
	// Wakened is called, with State's lock, when more time has gone by than the monotonic
	// clock counted, or when the wall clock was put back (negative), so that all was
	// forgotten as by Lead. Nil for none.
	Wakened func(lost time.Duration)
}

// State is safe for concurrent use.
type State struct {
	cfg Config

	mu       sync.Mutex
	since    time.Time
	hosts    map[string]*HostSeen
	replicas map[string]*ReplicaSeen
	quiesce  map[string]time.Time
	began    map[string]time.Time
	pauses   pauses
	stonith  map[string]StonithResult
	asked    map[string]*asked // by id of the inquiry
	others   map[string]time.Time
	changed  chan struct{}
}

// HostSeen is the last word of a host. Treat it as immutable.
type HostSeen struct {
	HostID    string
	SessionID string
	// At is when the last report arrived.
	At time.Time
	// Full is true once a full report has arrived in this session and leadership.
	Full                bool
	FenceClass          tarnv1.FenceClass
	FenceTrouble        string
	AssignmentsRevision uint64
	Pools               map[string]*tarnv1.PoolReport
	// Orphaned are divergent copies of replicas that are not on the host any more;
	// OrphansTold that it has said what there are.
	Orphaned    []*tarnv1.DivergentCopy
	OrphansTold bool
	// Unknown are datasets of replicas that are not assigned to the host.
	Unknown []*tarnv1.UnknownReplica
	// OrphansAt is the revision of the assignments that they were looked for under.
	OrphansAt uint64
	// Purges tells how the destruction of divergent copies goes.
	Purges []*tarnv1.PurgeReport
	// Gossip is the host's part in the ring; nil if it knows of none.
	Gossip *tarnv1.GossipState

	sequence uint64
}

// ReplicaSeen is the last report on a replica. Treat it as immutable.
type ReplicaSeen struct {
	HostID string
	// At is when the report arrived.
	At     time.Time
	Report *tarnv1.ReplicaReport
	// Stale: the agent has started anew and not spoken of this replica yet. Only
	// its lag still means something.
	Stale bool

	// lag is the last one reported, at lagAt under lagEpoch, which may be past; lagAt is
	// zero when there was none.
	lag      time.Duration
	lagAt    time.Time
	lagEpoch uint64
}

// New returns an empty state; call Lead before anything is concluded from it.
// It errors when the interval is not below the TTL.
func New(cfg Config) (*State, error) {
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.ReportInterval == 0 {
		cfg.ReportInterval = min(DefaultReportInterval, cfg.TTL/2)
	}
	if cfg.ReportInterval < 0 || cfg.ReportInterval >= cfg.TTL {
		return nil, errors.New("observe: the report interval must be positive and below the TTL")
	}
	s := &State{cfg: cfg, changed: make(chan struct{})}
	s.reset(time.Time{})
	return s, nil
}

func (s *State) reset(since time.Time) {
	s.since = since
	s.hosts = make(map[string]*HostSeen)
	s.replicas = make(map[string]*ReplicaSeen)
	s.quiesce = make(map[string]time.Time)
	s.began = make(map[string]time.Time)
	s.stonith = make(map[string]StonithResult)
	s.others = make(map[string]time.Time)
	s.giveUp()
}

// Lead forgets everything: this node became leader at now. Hosts that have not
// reported since then are missed only after twice the TTL.
func (s *State) Lead(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset(now)
	s.unnoticed(now)
	s.wake()
}

// Report takes a host's report that arrived at now. It answers whether a full
// report is wanted at once. Reports out of order are dropped. The caller has
// checked that the session is the one the host registered.
//
// The message is kept and must not change afterwards.
func (s *State) Report(req *tarnv1.ReportRequest, now time.Time) (wantFull bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakened(now)
	// An answer is one, in whatever order reports arrive.
	s.answered(req.GetHostId(), req.GetAnswers())
	old := s.hosts[req.GetHostId()]
	if old != nil && old.SessionID != req.GetSessionId() {
		s.outdate(req.GetHostId())
		old = nil
	}
	if old != nil && req.GetSequence() <= old.sequence {
		return !old.Full
	}
	host := heard(old, req, now)
	s.hosts[host.HostID] = host
	s.take(host.HostID, req, now)
	s.wake()
	return !host.Full
}

func heard(old *HostSeen, req *tarnv1.ReportRequest, now time.Time) *HostSeen {
	h := &HostSeen{
		HostID: req.GetHostId(), SessionID: req.GetSessionId(), At: now, Full: req.GetFull(),
		FenceClass: req.GetFenceClass(), FenceTrouble: req.GetFenceTrouble(), AssignmentsRevision: req.GetAssignmentsRevision(), sequence: req.GetSequence(),
		Pools: make(map[string]*tarnv1.PoolReport), Purges: req.GetPurges(), Gossip: req.GetGossip(),
	}
	if req.GetOrphansKnown() {
		h.Orphaned, h.Unknown, h.OrphansTold = req.GetOrphanedCopies(), req.GetUnknownReplicas(), true
	} else if old != nil {
		h.Orphaned, h.Unknown, h.OrphansTold = old.Orphaned, old.Unknown, old.OrphansTold
	}
	if h.OrphansAt = req.GetOrphansRevision(); old != nil && !req.GetOrphansKnown() {
		h.OrphansAt = old.OrphansAt
	}
	if old != nil {
		h.Full = h.Full || old.Full
		maps.Copy(h.Pools, old.Pools)
	}
	for _, p := range req.GetPools() {
		h.Pools[p.GetName()] = p
	}
	return h
}

// take stores what a report says of replicas. A full one is all there is.
func (s *State) take(hostID string, req *tarnv1.ReportRequest, now time.Time) {
	fresh := make(map[string]*ReplicaSeen, len(req.GetReplicas()))
	for _, r := range req.GetReplicas() {
		fresh[r.GetReplicaId()] = newSeen(hostID, r, s.replicas[r.GetReplicaId()], now)
	}
	if req.GetFull() {
		maps.DeleteFunc(s.replicas, func(_ string, r *ReplicaSeen) bool { return r.HostID == hostID })
	}
	maps.Copy(s.replicas, fresh)
}

// newSeen keeps the lag that was known: a copy that was equal to its source at
// some moment has been so, whether or not its agent has since started anew. That
// ends when the copy itself is gone, or when it follows another source: under another
// epoch that may be, so that such a lag counts only for whoever knows better (BehindSince).
func newSeen(hostID string, r *tarnv1.ReplicaReport, old *ReplicaSeen, now time.Time) *ReplicaSeen {
	seen := &ReplicaSeen{HostID: hostID, At: now, Report: r}
	switch {
	case r.GetLag() != nil:
		seen.lag, seen.lagAt, seen.lagEpoch = r.GetLag().AsDuration(), now, r.GetObservedEpoch()
	case old == nil || old.HostID != hostID || r.GetHeadGuid() == 0:
	case r.GetObservedEpoch() == 0, r.GetObservedEpoch() == old.lagEpoch,
		r.GetObservedEpoch() > old.lagEpoch && r.GetHeadGuid() == old.Report.GetHeadGuid():
		seen.lag, seen.lagAt, seen.lagEpoch = old.lag, old.lagAt, old.lagEpoch
	}
	return seen
}

// outdate marks what a former session of a host said.
func (s *State) outdate(hostID string) {
	for id, r := range s.replicas {
		if r.HostID == hostID {
			old := *r
			old.Stale = true
			s.replicas[id] = &old
		}
	}
}

func (s *State) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that is closed by the next report or promise.
func (s *State) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// SetQuiesce makes a planned promotion cancel itself when it has not been
// demoted by then. The leader's memory only: a new leader goes by what the state has.
func (s *State) SetQuiesce(opID string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiesce[opID] = until
	s.wake()
}

// Began notes that a promotion's owner was told to stop, which the caller has seen
// committed at now; the first note counts. No log has this: its times are of wall clocks.
func (s *State) Began(opID string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.began[opID]; !known {
		s.began[opID] = now
	}
}

// Forget drops what is kept for a promotion that has ended.
func (s *State) Forget(opID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.quiesce, opID)
	delete(s.began, opID)
	delete(s.stonith, opID)
}

// Host returns the last word of a host.
func (s *State) Host(hostID string) (*HostSeen, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.hosts[hostID]
	return h, ok
}

// Pool returns the last measurement of a pool.
func (s *State) Pool(hostID, pool string) (*tarnv1.PoolReport, bool) {
	h, ok := s.Host(hostID)
	if !ok {
		return nil, false
	}
	p, ok := h.Pools[pool]
	return p, ok
}

// Observation is what the API shows of a replica; nil when nothing was heard.
// A lag grows while the agent is silent.
func (s *State) Observation(replicaID string, now time.Time) *tarnv1.ReplicaObservation {
	s.mu.Lock()
	r := s.replicas[replicaID]
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.Observation(now)
}

// Snapshot copies the state for one round of decisions at now.
//
// For a round that may conclude from the lease table that an owner has stopped,
// take the view of the FSM first and the snapshot after it (see Leases.Grant).
func (s *State) Snapshot(now time.Time, leases *Leases) *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakened(now)
	out := &Snapshot{
		Now: now, Since: s.since, TTL: s.cfg.TTL, ReportInterval: s.cfg.ReportInterval,
		Hosts: maps.Clone(s.hosts), Replicas: maps.Clone(s.replicas),
		Quiesce: maps.Clone(s.quiesce), Stonith: maps.Clone(s.stonith), began: maps.Clone(s.began),
	}
	if leases != nil {
		out.lastGrant = leases.snapshot()
	}
	return out
}

// Copies are the divergent copies of a replica as its host last told them; nil when
// nothing was heard of it since this node leads.
func (s *State) Copies(replicaID string) []*tarnv1.DivergentCopy {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.replicas[replicaID]; r != nil {
		return r.Report.GetDivergentCopies()
	}
	return nil
}
