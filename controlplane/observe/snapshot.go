package observe

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn/proto/tarn/v1"
)

// Snapshot is the soft state at one moment. It does not change.
type Snapshot struct {
	Now time.Time
	// Since is when this leadership began.
	Since          time.Time
	TTL            time.Duration
	ReportInterval time.Duration
	Hosts          map[string]*HostSeen
	Replicas       map[string]*ReplicaSeen
	// Quiesce maps a promotion's op_id to when it cancels itself.
	Quiesce map[string]time.Time
	// Stonith maps a promotion's op_id to how switching off its owner's host went.
	Stonith map[string]StonithResult

	began     map[string]time.Time
	lastGrant func(hostID string) time.Time
}

// Running is how long ago a promotion's owner was told to stop, at the least. startedAt is
// what the log says, by the wall clock now; it counts for a promotion that an earlier
// leader began, and no further back than this leadership.
func (s *Snapshot) Running(opID string, startedAt, now time.Time) time.Duration {
	if at, ok := s.began[opID]; ok {
		return max(0, s.Now.Sub(at))
	}
	return max(0, min(s.Now.Sub(s.Since), now.Sub(startedAt)))
}

// Replica returns the last report on a replica by the host that holds it, nil
// when there is none.
func (s *Snapshot) Replica(r *tarnv1.Replica) *ReplicaSeen {
	seen := s.Replicas[r.GetId()]
	if seen == nil || seen.HostID != r.GetHostId() {
		return nil
	}
	return seen
}

// Missed reports that a host has been silent beyond its TTL; after a change of
// leader every host has twice the TTL from then.
func (s *Snapshot) Missed(hostID string) bool {
	h := s.Hosts[hostID]
	if h == nil {
		return s.Now.Sub(s.Since) > 2*s.TTL
	}
	return s.Now.Sub(h.At) > s.TTL
}

// Heard reports that a host has reported within its TTL, in this leadership.
func (s *Snapshot) Heard(hostID string) bool {
	h := s.Hosts[hostID]
	return h != nil && s.Now.Sub(h.At) <= s.TTL
}

// Complete reports that a host has told everything it has, in this leadership.
func (s *Snapshot) Complete(hostID string) bool {
	h := s.Hosts[hostID]
	return h != nil && h.Full
}

// LeaseExpired reports that wait has passed since a lease could last have been
// granted to the host. With no lease table the answer is no.
func (s *Snapshot) LeaseExpired(hostID string, wait time.Duration) bool {
	return s.lastGrant != nil && s.Now.Sub(s.lastGrant(hostID)) >= wait
}

// Lag is how far a replica may be behind at now: the last lag it reported, plus
// the time since beyond the moment when its next report was due. Unknown when it
// never said.
func (s *Snapshot) Lag(r *ReplicaSeen) (lag time.Duration, known bool) {
	if !r.current() {
		return 0, false
	}
	return r.lag + max(0, s.Now.Sub(r.lagAt)-s.ReportInterval), true
}

// Behind is how far a replica is behind at now at the most: the last lag it
// reported, plus all the time since, plus how old a report may be when it
// arrives. What a failover loses is never told too small. Unknown when it never said.
func (s *Snapshot) Behind(r *ReplicaSeen) (lag time.Duration, known bool) {
	if !r.current() {
		return 0, false
	}
	return r.lag + max(0, s.Now.Sub(r.lagAt)) + s.ReportInterval, true
}

// BehindSince is Behind where the replica has followed the same source since an epoch: what
// it was behind under an earlier one of these counts, too.
func (s *Snapshot) BehindSince(r *ReplicaSeen, epoch uint64) (lag time.Duration, known bool) {
	if r == nil || r.lagAt.IsZero() || r.lagEpoch < epoch {
		return s.Behind(r)
	}
	return r.lag + max(0, s.Now.Sub(r.lagAt)) + s.ReportInterval, true
}

// current reports that the last known lag is of the epoch that the replica is under.
func (r *ReplicaSeen) current() bool {
	if r == nil || r.lagAt.IsZero() {
		return false
	}
	epoch := r.Report.GetObservedEpoch()
	return epoch == 0 || epoch == r.lagEpoch
}

// Observation is what the API shows of a report.
func (r *ReplicaSeen) Observation(now time.Time) *tarnv1.ReplicaObservation {
	o := &tarnv1.ReplicaObservation{
		ReportedAt:    timestamppb.New(r.At),
		LagBytes:      r.Report.GetLagBytes(),
		LagSnapshots:  r.Report.GetLagSnapshots(),
		Transfer:      r.Report.GetTransfer(),
		UsedBytes:     r.Report.GetUsedBytes(),
		ObservedEpoch: r.Report.GetObservedEpoch(),
		ObservedRole:  r.Report.GetObservedRole(),
		Writable:      r.Report.GetWritable(),
		HeadGuid:      r.Report.GetHeadGuid(),
		HeadCreatedAt: r.Report.GetHeadCreatedAt(),
		Error:         r.Report.GetError(),
		Mountpoint:    r.Report.GetMountpoint(),
		KeyState:      r.Report.GetKeyState(),
		KeyFile:       r.Report.GetKeyFile(),
	}
	if r.current() && r.Report.GetObservedRole() != tarnv1.Role_ROLE_ACTIVE {
		o.Lag = durationpb.New(r.lag + max(0, now.Sub(r.lagAt)))
	}
	return o
}
