package reconcile

import (
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/observe"
	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// Policy holds the durations that decisions depend on. The zero value is not usable.
type Policy struct {
	// LeaseWait (D_c) is how long after a possible grant by this node an owner may still
	// write. At least the lease's duration with clock drift and enforcement latency. Wait is
	// what to wait for whoever granted.
	LeaseWait time.Duration
	// CheckpointEvery is how old a replica's durable head may become, 1 min or more.
	CheckpointEvery time.Duration
	// MessageTTL is how long user messages are kept.
	MessageTTL time.Duration
	// DrainPause is how long a drain leaves a share alone after a change of its ownership.
	DrainPause time.Duration
	// PrepareTime is how long the target of a planned promotion may take to catch up
	// where nobody said how long. Nothing is stopped meanwhile.
	PrepareTime time.Duration
	// StopTime is how long an owner may then take to stop, while nobody may write.
	StopTime time.Duration
	// Stonith says which hosts can be switched off; the first rule that fits a host
	// counts. None by default.
	Stonith []StonithRule
}

// DefaultPolicy is what production runs with.
func DefaultPolicy() Policy {
	return Policy{
		LeaseWait: 15 * time.Second, CheckpointEvery: time.Minute, MessageTTL: 30 * 24 * time.Hour, DrainPause: 5 * time.Minute,
		PrepareTime: 10 * time.Minute, StopTime: time.Minute,
	}
}

// Validate checks that every duration is positive.
func (p Policy) Validate() error {
	if p.LeaseWait <= 0 || p.CheckpointEvery <= 0 || p.MessageTTL <= 0 || p.DrainPause <= 0 || p.PrepareTime <= 0 || p.StopTime <= 0 {
		return errors.New("reconcile: every duration of the policy must be positive")
	}
	return nil
}

// Step returns the commands that are due: at most one Transitions, then those of
// promotions and drains. None when nothing is to be done. now is the wall clock
// for stamps; durations are measured with observed.Now. ids makes new ids.
//
// The view must have been taken before the snapshot (see observe.Leases.Grant).
func Step(policy Policy, view *raftfsm.View, observed *observe.Snapshot, now time.Time, ids func() string) []*raftv1.Command {
	r := &round{policy: policy, view: view, obs: observed, now: now, ids: ids, batch: &raftv1.Transitions{}}
	r.hosts()
	r.purges()
	for share := range view.Shares() {
		r.share(share)
	}
	r.checkpoints()
	r.drains()
	return r.commands()
}

// round is the state of one Step.
type round struct {
	policy Policy
	view   *raftfsm.View
	obs    *observe.Snapshot
	now    time.Time
	ids    func() string

	batch *raftv1.Transitions
	rest  []*raftv1.Command
	// unused is an empty transition to be filled in next.
	unused *raftv1.ReplicaTransition
	// stale are head checkpoints that could be written; due says that one has to be.
	stale []*raftv1.ReplicaTransition
	due   bool
	// strange is what hosts have of unknown replicas, by share, once it was looked for.
	strange map[string][]*tarnv1.UnknownReplica
	looked  bool
	// inv is built when a drain needs it.
	inv *schedule.Inventory
}

func (r *round) commands() []*raftv1.Command {
	var out []*raftv1.Command
	if proto.Size(r.batch) > 0 {
		out = append(out, r.command(&raftv1.Command{Verb: &raftv1.Command_Transitions{Transitions: r.batch}}))
	}
	return append(out, r.rest...)
}

func (r *round) command(c *raftv1.Command) *raftv1.Command {
	c.ProposedAt = timestamppb.New(r.now)
	c.Actor = "leader"
	return c
}

func (r *round) propose(c *raftv1.Command) { r.rest = append(r.rest, r.command(c)) }

// hosts moves hosts between up and down, once per change.
func (r *round) hosts() {
	for h := range r.view.Hosts() {
		want := h.GetState()
		switch {
		case r.obs.Heard(h.GetId()):
			want = tarnv1.HostState_HOST_STATE_UP
		case r.obs.Missed(h.GetId()) && !r.within(h.GetUpdatedAt(), r.obs.TTL) && !r.within(h.GetCreatedAt(), r.obs.TTL):
			// Not one that has only just registered and not reported yet.
			want = tarnv1.HostState_HOST_STATE_DOWN
		}
		if want != h.GetState() {
			r.batch.Hosts = append(r.batch.Hosts, &raftv1.HostTransition{Id: h.GetId(), State: want, ExpectedState: h.GetState()})
		}
	}
}

// within reports that no more than d has passed since a stamp of the state. One that is of
// the future is from a leader whose clock was ahead; where that is more than d it says
// nothing: waiting for that moment could take years.
func (r *round) within(stamp *timestamppb.Timestamp, d time.Duration) bool {
	return r.now.Sub(stamp.AsTime()).Abs() <= d
}

// until is when what is said now for d ends by the state's clock, which may be ahead.
func (r *round) until(d time.Duration) *timestamppb.Timestamp {
	from := r.now
	if r.view.Time().After(from) {
		from = r.view.Time()
	}
	return timestamppb.New(from.Add(d))
}

// shareFacts is one share with what was last heard of its replicas.
type shareFacts struct {
	*tarnv1.Share
	fencing  *tarnv1.Fencing
	replicas []*tarnv1.Replica
	// seen has what was heard of replicas, in their order.
	seen []*observe.ReplicaSeen
	// snapshots are loaded when a share has any.
	snapshots []snapshotFacts
}

// snapshotFacts is a snapshot with its instances by replica.
type snapshotFacts struct {
	*tarnv1.Snapshot
	on map[string]*tarnv1.SnapshotInstance
}

func (r *round) facts(share *tarnv1.Share) *shareFacts {
	s := &shareFacts{Share: share, fencing: share.GetFencing(), replicas: r.view.ReplicasOfShare(share.GetId())}
	s.seen = make([]*observe.ReplicaSeen, len(s.replicas))
	for i, rep := range s.replicas {
		s.seen[i] = r.obs.Replica(rep)
	}
	for snap := range r.view.SnapshotsOfShare(share.GetId()) {
		on := make(map[string]*tarnv1.SnapshotInstance)
		for inst := range r.view.InstancesOfSnapshot(snap.GetId()) {
			on[inst.GetReplicaId()] = inst
		}
		s.snapshots = append(s.snapshots, snapshotFacts{Snapshot: snap, on: on})
	}
	return s
}

func (r *round) share(share *tarnv1.Share) {
	s := r.facts(share)
	for _, rep := range s.replicas {
		r.replica(s, rep)
		r.snapshotsOn(s, rep)
	}
	r.resize(s)
	r.restored(s)
	r.failover(s)
	r.promotion(s)
}

func (s *shareFacts) owner() string { return s.fencing.GetOwnerReplicaId() }

// report is what the present session of a replica's host last said of it, or nil.
func (s *shareFacts) report(replicaID string) *tarnv1.ReplicaReport {
	if seen := s.heard(replicaID); seen != nil && !seen.Stale {
		return seen.Report
	}
	return nil
}

// heard is the last word on a replica, of whatever session, or nil.
func (s *shareFacts) heard(replicaID string) *observe.ReplicaSeen {
	for i, rep := range s.replicas {
		if rep.GetId() == replicaID {
			return s.seen[i]
		}
	}
	return nil
}

func (s *shareFacts) fenced() bool {
	return s.fencing.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING
}

// checkpoints writes durable heads: all that have moved when one is overdue, so
// that a cluster writes once a minute and not once per replica and minute.
func (r *round) checkpoints() {
	if r.due {
		r.batch.Replicas = append(r.batch.Replicas, r.stale...)
	}
}
