package reconcile

import (
	"fmt"
	"slices"
	"time"

	"tarn/controlplane/observe"
	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// failover begins a forced promotion when a share's type allows that and its owner
// is gone for certain. It only begins what it can end: the proof is there, or a
// command can get it, before writes are taken away.
func (r *round) failover(s *shareFacts) {
	choice := r.automatic(s)
	switch {
	case choice.target != nil:
		r.propose(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
			Id: choice.target.GetId(), OpId: r.ids(), Mode: tarnv1.PromotionMode_PROMOTION_MODE_FORCED,
			ExpectedEpoch: s.fencing.GetEpoch(), AllowOutOfSync: true, Automatic: true,
			Consent: &tarnv1.Consent{Reason: choice.reason},
		}}})
	case choice.reason != "":
		r.say(s, shareResource(s), fmt.Sprintf("auto-failover-%d", s.fencing.GetEpoch()),
			"The active replica's host is silent, and there is no automatic failover: "+choice.reason+".")
	}
}

// failoverChoice is what automatic failover does about a share: promote target for
// the reason, or nothing, and if that is worth a word, why not.
type failoverChoice struct {
	target *tarnv1.Replica
	reason string
}

func (r *round) automatic(s *shareFacts) failoverChoice {
	maxAge := schedule.AutoFailover(s.GetExtraSpecs())
	if maxAge == 0 || !s.mirrors() || s.fenced() || raftfsm.Unsettled(s.Share) {
		return failoverChoice{}
	}
	owner, ok := r.view.Replica(s.owner())
	if !ok || !r.silent(owner.GetHostId()) || r.pausing(s.fencing) && s.cancelledItself() {
		return failoverChoice{}
	}
	if !r.provable(owner.GetHostId()) {
		return failoverChoice{reason: "nothing on that host ends its writes, and no STONITH command is configured for it. An operator can promote and attest that it is off"}
	}
	return r.best(s, maxAge)
}

// silent reports a host that is neither heard of nor can hold a lease.
func (r *round) silent(hostID string) bool {
	return r.obs.Missed(hostID) && r.obs.LeaseExpired(hostID, r.policy.Wait(r.view))
}

// cancelledItself reports that the last promotion was the leader's and came to nothing.
func (s *shareFacts) cancelledItself() bool {
	return s.fencing.GetAutomatic() && s.fencing.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED
}

// provable reports that it can be proved that a silent host does not write.
func (r *round) provable(hostID string) bool {
	rule := r.stonith(hostID)
	return rule != nil || enforced(r.fenceClass(hostID))
}

// best finds the replica that was least behind at the last contact with the owner.
func (r *round) best(s *shareFacts, maxAge time.Duration) failoverChoice {
	found := failoverChoice{reason: "no other replica can take over"}
	least := time.Duration(-1)
	for _, rep := range s.replicas {
		if !r.canTakeOver(s, rep) {
			continue
		}
		age, known := r.behindAtContact(s, rep)
		if known && (least < 0 || age < least) {
			least, found.target = age, rep
		}
	}
	switch {
	case found.target == nil:
	case least > maxAge:
		found = failoverChoice{reason: fmt.Sprintf("the best replica was up to %s behind at the last contact, and the share's type allows %s",
			least.Round(100*time.Millisecond), maxAge)}
	default:
		found.reason = fmt.Sprintf("automatic: up to %s behind at the last contact, %s allowed", least.Round(100*time.Millisecond), maxAge)
	}
	return found
}

// canTakeOver reports that a replica would serve if it were promoted, without the
// loss of a snapshot that is promised to be safe.
func (r *round) canTakeOver(s *shareFacts, rep *tarnv1.Replica) bool {
	report := s.report(rep.GetId())
	host, _ := r.view.Host(rep.GetHostId())
	switch {
	case rep.GetId() == s.owner() || rep.GetStatus() != tarnv1.Status_STATUS_AVAILABLE:
		return false
	case host.GetState() != tarnv1.HostState_HOST_STATE_UP || draining(host) || !r.obs.Heard(rep.GetHostId()):
		return false
	case !report.GetReady() || report.GetHeadGuid() == 0 || report.GetObservedEpoch() != s.fencing.GetEpoch():
		return false
	case report.GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED || fatal(report):
		return false
	case schedule.Encrypted(s.GetExtraSpecs()) && !r.keyed(rep):
		return false
	}
	for _, lost := range s.lost(report) {
		if lost.GetReplicated() {
			return false
		}
	}
	return true
}

// behindAtContact is how far a replica was behind at the most when its owner's host
// was last heard of. A leader that never heard that host takes its own beginning.
func (r *round) behindAtContact(s *shareFacts, rep *tarnv1.Replica) (time.Duration, bool) {
	behind, known := r.obs.BehindSince(s.heard(rep.GetId()), s.tenure())
	if !known {
		return 0, false
	}
	contact := r.obs.Since
	owner, ok := r.view.Replica(s.owner())
	if !ok {
		return 0, false
	}
	if seen := r.obs.Hosts[owner.GetHostId()]; seen != nil {
		contact = seen.At
	}
	return max(0, behind-r.obs.Now.Sub(contact)), true
}

// tenure is the first of the epochs that the owner has had without a break: a promotion that
// was taken back gave it another one.
func (s *shareFacts) tenure() uint64 {
	from := s.fencing.GetEpoch()
	for _, l := range slices.Backward(s.fencing.GetLineage()) {
		if l.GetOwnerReplicaId() != s.owner() {
			break
		}
		from = min(from, l.GetEpoch())
	}
	return from
}

// follow keeps an automatic failover honest while it runs: users are told once, and
// one whose target is gone as well is taken back, so that whoever returns may write.
func (r *round) follow(s *shareFacts) {
	f := s.fencing
	if !f.GetAutomatic() {
		return
	}
	r.say(s, shareResource(s), f.GetOpId(), "The active replica's host is silent: the share fails over to replica "+f.GetTargetReplicaId()+
		" by itself ("+f.GetConsent().GetReason()+").")
	target, ok := r.view.Replica(f.GetTargetReplicaId())
	if f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED && (!ok || r.obs.Missed(target.GetHostId())) {
		r.revert(s, f.GetOpId())
	}
}

// say tells a share's users something once per key.
func (r *round) say(s *shareFacts, about resource, key, text string) {
	for m := range r.view.MessagesOfProject(s.GetProjectId()) {
		if m.GetResourceId() == about.id && m.GetRequestId() == key {
			return
		}
	}
	r.batch.Messages = append(r.batch.Messages, r.message(s, about, actionPromote, detailUnknown, text, key))
}

// FailoverBlocked says why a share whose type asks for automatic failover, and whose
// owner is gone, is not failed over; "" when there is nothing to say. It costs
// O(replicas and snapshots of the share).
func FailoverBlocked(policy Policy, view *raftfsm.View, observed *observe.Snapshot, share *tarnv1.Share) string {
	if schedule.AutoFailover(share.GetExtraSpecs()) == 0 {
		return ""
	}
	r := &round{policy: policy, view: view, obs: observed, now: observed.Now, batch: &raftv1.Transitions{}}
	choice := r.automatic(r.facts(share))
	if choice.target != nil {
		return ""
	}
	return choice.reason
}
