package reconcile

import (
	"fmt"
	"time"

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
		r.cancel(s, p.GetOpId(), p.GetTargetReplicaId(), "its target is no replica any more that could take over")
	case r.obs.Missed(target.GetHostId()):
		r.cancel(s, p.GetOpId(), target.GetId(), "its target's host is silent")
	case r.ready(s, target):
		r.propose(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
			Id: target.GetId(), OpId: p.GetOpId(), Mode: tarnv1.PromotionMode_PROMOTION_MODE_PLANNED,
			ExpectedEpoch: s.fencing.GetEpoch(), AllowOutOfSync: p.GetAllowOutOfSync(),
		}}})
	case r.quiesced(p.GetOpId()):
		r.cancel(s, p.GetOpId(), target.GetId(), "the replica did not catch up within quiesce_wait_time")
	}
}

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

// preparingFor says what a promotion that is being prepared waits for.
func (r *round) preparingFor(s *shareFacts) string {
	target, _ := r.view.Replica(s.fencing.GetPreparing().GetTargetReplicaId())
	if target == nil || r.ready(s, target) {
		return "the leader to begin"
	}
	seen := s.heard(target.GetId())
	lag, known := r.obs.Lag(seen)
	switch {
	case !known || r.obs.Now.Sub(seen.At) > r.obs.ReportInterval+overdue:
		return "the target to say how far it is behind; nothing was stopped"
	case lag <= r.enough(s):
		return "the target to be in sync; nothing was stopped"
	}
	return fmt.Sprintf("the target to catch up, which is %s behind; nothing was stopped", lag.Round(100*time.Millisecond))
}

// catchUp says if planned promotions can be prepared, by the version of the log's commands.
func catchUp(v *raftfsm.View) bool { return v.CommandVersion() >= raftfsm.CatchUpVersion }
