package reconcile

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// promotion advances the share's promotion by at most one step per round: the
// next one follows from what this one committed.
func (r *round) promotion(s *shareFacts) {
	if !s.fenced() {
		r.prepare(s)
		return
	}
	switch s.fencing.GetMode() {
	case tarnv1.PromotionMode_PROMOTION_MODE_PLANNED:
		r.planned(s)
	case tarnv1.PromotionMode_PROMOTION_MODE_FORCED:
		r.forced(s)
	}
}

// planned is P4 to P7 of reliability 3.7. Nobody may write meanwhile, so that a target that
// is gone is not waited for as long as its former owner is there to go on.
func (r *round) planned(s *shareFacts) {
	f := s.fencing
	stopped := f.GetProof() != tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED
	final := f.GetFinalGuid()
	switch {
	case !stopped && r.demotion(s):
	case r.bereft(s):
		r.giveBack(s, "its target's host is silent", adviceOnSilence)
	case stopped:
		switch {
		case final != 0 && (s.report(f.GetTargetReplicaId()).GetHeadGuid() == final || r.tookOver(s)):
			r.activate(s, final)
		case r.orphaned(s):
			r.giveBack(s, "the active replica's host is silent since it stopped, and the target lacks its last snapshot", adviceOnLoss)
		}
	case r.revocable(s) && (r.quiesced(f.GetOpId()) || f.GetQuiesceUntil() != nil && r.timeUp(f.GetOpId(), f.GetStartedAt().AsTime(), f.GetQuiesceUntil().AsTime())):
		r.giveBack(s, "the active replica did not come to rest within quiesce_wait_time", adviceOnRest)
	}
}

// revocable reports that the target of a promotion is not its owner already. In a restored
// state it may be: the backup is older than the end of the promotion, and the epoch that the
// former owner would get again has been given out.
func (r *round) revocable(s *shareFacts) bool { return !raftfsm.Unsettled(s.Share) && !r.tookOver(s) }

// tookOver reports that the target of a promotion says that it ended before the restore.
func (r *round) tookOver(s *shareFacts) bool {
	said := s.report(s.fencing.GetTargetReplicaId())
	return r.view.Restored() && said.GetObservedRole() == tarnv1.Role_ROLE_ACTIVE && said.GetObservedEpoch() == s.fencing.GetEpoch()+1
}

// bereft reports that the target of a promotion is not there any more and its owner is: it
// has spoken since the target was missed. Of two that are lost together the one whose report
// was due later seems to be there for a while.
func (r *round) bereft(s *shareFacts) bool {
	owner, known := r.view.Replica(s.owner())
	target, ok := r.view.Replica(s.fencing.GetTargetReplicaId())
	if !known || !r.revocable(s) || !r.obs.Heard(owner.GetHostId()) {
		return false
	}
	if !ok || !r.obs.Missed(target.GetHostId()) {
		return !ok
	}
	missed := r.obs.Since.Add(2 * r.obs.TTL)
	if seen := r.obs.Hosts[target.GetHostId()]; seen != nil {
		missed = seen.At.Add(r.obs.TTL)
	}
	return r.obs.Hosts[owner.GetHostId()].At.After(missed)
}

// orphaned reports that an owner that has stopped is gone with its last snapshot, of a share
// that fails over by itself, if nothing is planned for it.
func (r *round) orphaned(s *shareFacts) bool {
	owner, known := r.view.Replica(s.owner())
	return known && schedule.AutoFailover(s.GetExtraSpecs()) > 0 && r.revocable(s) && r.silent(owner.GetHostId()) && r.provable(owner.GetHostId())
}

// What can be done when a planned promotion was taken back.
const (
	adviceOnRest = " Promote again when nobody has files of the share open on its host any more, or give it longer with --quiesce-wait-time (1h at the most)."

	adviceOnLoss = " The share fails over by itself if its type allows the loss."

	adviceOnSilence = " Promote again when that host is back, or another replica."
)

// demotion commits the owner's word that it has stopped.
func (r *round) demotion(s *shareFacts) bool {
	f := s.fencing
	ack := s.report(s.owner()).GetDemoteAck()
	if !acknowledges(ack, f) || ack.GetHeadGuid() == 0 {
		return false
	}
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CommitDemotion{CommitDemotion: &raftv1.CommitDemotion{
		ShareId: s.GetId(), OpId: f.GetOpId(), Epoch: f.GetEpoch(),
		FinalGuid: ack.GetHeadGuid(), FinalCreatedAt: ack.GetHeadCreatedAt(),
	}}})
	return true
}

func acknowledges(ack *tarnv1.DemoteAck, f *tarnv1.Fencing) bool {
	return ack != nil && ack.GetOpId() == f.GetOpId() && ack.GetEpoch() == f.GetEpoch()
}

// quiesced reports that the time is up that a planned promotion was given, by the clock
// of the leader that took it up. The state has it by the wall clock, for later leaders.
func (r *round) quiesced(op string) bool {
	until, ok := r.obs.Quiesce[op]
	return ok && !r.obs.Now.Before(until)
}

// timeUp reports that a time is up that the state has by its own clock. Where a leader's
// clock was ahead that moment may be years away: then whoever leads next goes by how long it
// has led, and so no earlier.
func (r *round) timeUp(op string, since, until time.Time) bool {
	if r.quiesced(op) || !r.now.Before(until) {
		return true
	}
	_, here := r.obs.Quiesce[op]
	return !here && since.After(r.now.Add(r.obs.TTL)) && r.obs.Now.Sub(r.obs.Since) >= until.Sub(since)
}

// cancel takes the preparation of a planned promotion back, and tells the share's users why
// and what next.
func (r *round) cancel(s *shareFacts, op, target, why, next string) {
	r.revoke(s, op, target, why+". Nothing has changed."+next)
}

// giveBack takes a planned promotion back for which writes have been refused.
func (r *round) giveBack(s *shareFacts, why, next string) {
	f := s.fencing
	r.revoke(s, f.GetOpId(), f.GetTargetReplicaId(), why+". The active replica goes on, and nothing is lost; writes were refused meanwhile."+next)
}

func (r *round) revoke(s *shareFacts, op, target, text string) {
	r.revert(s, op)
	r.complain(s, resource{"SHARE_REPLICA", target}, actionPromote, detailDriver, "The promotion was cancelled: "+text)
}

// revert takes a promotion back as it is seen here: somebody who forces it in the same
// moment wants it, and decides.
func (r *round) revert(s *shareFacts, op string) {
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CancelPromotion{CancelPromotion: &raftv1.CancelPromotion{
		ShareId: s.GetId(), OpId: op, UnlessForced: r.view.CommandVersion() >= raftfsm.UnlessForcedVersion,
	}}})
}

func (r *round) activate(s *shareFacts, head uint64) {
	f := s.fencing
	r.propose(&raftv1.Command{Verb: &raftv1.Command_Activate{Activate: &raftv1.Activate{
		ShareId: s.GetId(), OpId: f.GetOpId(), Epoch: f.GetEpoch(), HeadGuid: head,
	}}})
}

// forced is F2 to F5 of reliability 3.8.
func (r *round) forced(s *shareFacts) {
	f := s.fencing
	r.follow(s)
	if !f.GetSealed() {
		r.seal(s)
	}
	if f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED && r.demotion(s) {
		return
	}
	switch {
	case !f.GetSealed():
	case f.GetLoss() == nil:
		r.prove(s)
	default:
		r.activate(s, f.GetSealedGuid())
	}
}

func (r *round) seal(s *shareFacts) {
	f := s.fencing
	ack := s.report(f.GetTargetReplicaId()).GetSealAck()
	if !acknowledges(ack, f) || ack.GetHeadGuid() == 0 {
		return
	}
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CommitSeal{CommitSeal: &raftv1.CommitSeal{
		ShareId: s.GetId(), OpId: f.GetOpId(), Epoch: f.GetEpoch(),
		HeadGuid: ack.GetHeadGuid(), HeadCreatedAt: ack.GetHeadCreatedAt(),
	}}})
}

// loss says what a forced failover leaves behind. It is exact only when the
// former owner has said how it ended.
func (r *round) loss(s *shareFacts, proof tarnv1.FencingProof) *tarnv1.LossReport {
	f := s.fencing
	target := s.report(f.GetTargetReplicaId())
	l := &tarnv1.LossReport{
		EpochFrom: f.GetEpoch(), EpochTo: f.GetEpoch() + 1, KeptGuid: f.GetSealedGuid(),
		KeptCreatedAt: target.GetSealAck().GetHeadCreatedAt(), LastKnownDirtyBytes: -1, Bound: "at_least",
		LostSnapshots: s.lost(target),
	}
	if l.KeptCreatedAt == nil {
		l.KeptCreatedAt = target.GetHeadCreatedAt()
	}
	l.KeptAge = durationpb.New(r.keptAge(s, l.GetKeptCreatedAt()))
	if owner := s.heard(s.owner()); owner != nil {
		l.LastKnownDirtyBytes = owner.Report.GetDirtyBytes()
		l.LastContact = timestamppb.New(owner.At)
	}
	if proof == tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK {
		l.Bound = "exact"
		if f.GetFinalGuid() == f.GetSealedGuid() {
			l.LastKnownDirtyBytes = 0
		} else if l.LastKnownDirtyBytes == 0 {
			// The final snapshot holds what was dirty, and the target does not hold it.
			l.LastKnownDirtyBytes = -1
		}
	}
	return l
}

func nothingLost(l *tarnv1.LossReport) bool {
	return l.GetBound() == "exact" && len(l.GetLostSnapshots()) == 0 && l.GetLastKnownDirtyBytes() == 0
}

// lost lists the users' snapshots that the new lineage does not have.
func (s *shareFacts) lost(target *tarnv1.ReplicaReport) []*tarnv1.LostSnapshot {
	var out []*tarnv1.LostSnapshot
	for i := range s.snapshots {
		snap := &s.snapshots[i]
		if snap.GetDeleting() || snap.GetGuid() == 0 || hasSnapshot(target, snap.GetId(), snap.GetGuid()) {
			continue
		}
		out = append(out, &tarnv1.LostSnapshot{
			SnapshotId: snap.GetId(), Name: snap.GetName(), Guid: snap.GetGuid(), Replicated: s.replicated(snap),
		})
	}
	return out
}

// replicated reports that the snapshot was acknowledged by a replica beside the owner.
func (s *shareFacts) replicated(snap *snapshotFacts) bool {
	for id, inst := range snap.on {
		if id != s.owner() && inst.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
			return true
		}
	}
	return false
}

// keptAge is how far the target was behind at the most when the failover was
// decided: by its measured lag, or else by the age of its head.
func (r *round) keptAge(s *shareFacts, keptAt *timestamppb.Timestamp) time.Duration {
	started := s.fencing.GetStartedAt().AsTime()
	if lag, known := r.obs.BehindSince(s.heard(s.fencing.GetTargetReplicaId()), s.tenure()); known {
		return max(0, lag-r.obs.Running(s.fencing.GetOpId(), started, r.now))
	}
	if keptAt == nil {
		return max(0, started.Sub(s.GetCreatedAt().AsTime()))
	}
	return max(0, started.Sub(keptAt.AsTime()))
}
