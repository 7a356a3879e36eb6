package reconcile

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/assignment"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

const (
	// caughtUp is a lag that is small: with a snapshot every second, and the time that it
	// travels, there is hardly less while a client writes.
	caughtUp = 5 * time.Second
	// catchUpTime is how long a target may try to get below it. Then the share's RPO is
	// enough: a share that is written faster than that is sent has no better moment.
	catchUpTime = 15 * time.Second
	// overdue is how late a report may be.
	overdue = time.Second
)

// prepare is P1 of reliability 3.7: a planned promotion begins when its target has caught
// up, so that what is left to be sent while nobody may write is small.
func (r *round) prepare(s *shareFacts) {
	p := s.fencing.GetPreparing()
	if p == nil || p.GetCancelled() {
		return
	}
	target, ok := r.view.Replica(p.GetTargetReplicaId())
	switch {
	case !ok || target.GetId() == s.owner() || deleting(target) || unmanaging(target):
		r.cancel(s, p.GetOpId(), p.GetTargetReplicaId(), "its target is no replica any more that could take over", "")
	case r.obs.Missed(target.GetHostId()):
		r.cancel(s, p.GetOpId(), target.GetId(), "its target's host is silent", "")
	case r.ready(s, target):
		r.propose(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
			Id: target.GetId(), OpId: p.GetOpId(), Mode: tarnv1.PromotionMode_PROMOTION_MODE_PLANNED,
			ExpectedEpoch: s.fencing.GetEpoch(), AllowOutOfSync: p.GetAllowOutOfSync(), Wait: r.stopTime(p),
		}}})
	case r.timeUp(p.GetOpId(), p.GetSince().AsTime(), r.prepareUntil(p)):
		r.cancel(s, p.GetOpId(), target.GetId(), "the replica has not caught up since "+clock(p.GetSince().AsTime())+", and it waited for "+r.lacks(s, target), adviceOnLag)
	}
}

// adviceOnLag is what can be done about a target that does not catch up.
const adviceOnLag = " Promote again when `tarn replica show` says that the replica is in sync and little behind, give it longer with --quiesce-wait-time (1h at the most), " +
	"or promote with --at-once: writes are refused then until it has the rest."

// prepareUntil is when a preparation ends by itself. Nobody stands still for it, so that
// the wall clock, which every leader has, is good enough.
func (r *round) prepareUntil(p *tarnv1.Preparation) time.Time {
	if p.GetUntil() != nil {
		return p.GetUntil().AsTime()
	}
	return p.GetSince().AsTime().Add(r.policy.PrepareTime)
}

// stopTime is how long the owner may take to stop: what is left of the time that the
// promotion was given; nil if the log does not keep it yet.
func (r *round) stopTime(p *tarnv1.Preparation) *durationpb.Duration {
	switch {
	case !waits(r.view):
		return nil
	case p.GetUntil() == nil:
		return durationpb.New(r.policy.StopTime)
	}
	from := r.now
	if since := p.GetSince().AsTime(); since.After(from) {
		from = since // The state's clock is ahead, and all that was given is left.
	}
	return durationpb.New(max(time.Second, p.GetUntil().AsTime().Sub(from)))
}

// waits says if the log keeps how long planned promotions may take.
func waits(v *raftfsm.View) bool { return v.CommandVersion() >= raftfsm.WaitVersion }

// ready reports that the target of a prepared promotion lacks little of what its owner has.
func (r *round) ready(s *shareFacts, target *tarnv1.Replica) bool {
	p := s.fencing.GetPreparing()
	host, _ := r.view.Host(target.GetHostId())
	report := s.report(target.GetId())
	seen := s.heard(target.GetId())
	lag, known := r.obs.Lag(seen)
	switch {
	case !known || r.obs.Now.Sub(seen.At) > r.obs.ReportInterval+overdue:
		return false // Its word was good, but it has not said it again.
	case !report.GetReady() || host.GetState() != tarnv1.HostState_HOST_STATE_UP:
		return false
	case report.GetObservedEpoch() != s.fencing.GetEpoch() || report.GetObservedRole() != tarnv1.Role_ROLE_SECONDARY:
		return false
	case target.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC && !p.GetAllowOutOfSync():
		return false
	}
	return lag <= r.enough(s)
}

// enough is the lag that a prepared promotion may begin with by now.
func (r *round) enough(s *shareFacts) time.Duration {
	if r.now.Sub(s.fencing.GetPreparing().GetSince().AsTime()) < catchUpTime {
		return caughtUp
	}
	return max(caughtUp, assignment.RPO(s.Share))
}

// preparingFor says what a promotion that is being prepared waits for, and how long.
func (r *round) preparingFor(s *shareFacts) string {
	p := s.fencing.GetPreparing()
	target, _ := r.view.Replica(p.GetTargetReplicaId())
	if target == nil || r.ready(s, target) {
		return "the leader to begin"
	}
	return fmt.Sprintf("%s; nothing was stopped, and it ends by itself at %s", r.lacks(s, target), clock(r.prepareUntil(p)))
}

// lacks says what the target of a prepared promotion lacks.
func (r *round) lacks(s *shareFacts, target *tarnv1.Replica) string {
	seen := s.heard(target.GetId())
	lag, known := r.obs.Lag(seen)
	switch {
	case !known || r.obs.Now.Sub(seen.At) > r.obs.ReportInterval+overdue:
		return "the target to say how far it is behind"
	case lag <= r.enough(s):
		return "the target to be in sync"
	}
	return fmt.Sprintf("the target to catch up, which is %s behind", lag.Round(100*time.Millisecond))
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// catchUp says if planned promotions can be prepared, by the version of the log's commands.
func catchUp(v *raftfsm.View) bool { return v.CommandVersion() >= raftfsm.CatchUpVersion }
