package reconcile

import (
	"fmt"
	"path"
	"slices"
	"time"

	"tarn/controlplane/observe"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

const (
	unproved = tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED
	unclear  = tarnv1.FenceClass_FENCE_CLASS_UNSPECIFIED
)

// StonithRule says that a command can switch hosts off, and verify it. What the
// command is, and its running, is for others: Step only needs to know when.
type StonithRule struct {
	// Hosts are patterns of host names as path.Match has them, such as "nas-*".
	Hosts []string
	// Always asks for a host to be switched off although its silence proves enough.
	// The end of a lease alone then is no proof.
	Always bool
}

// Fits reports that the rule is for the host of this name.
func (r StonithRule) Fits(host string) bool {
	return slices.ContainsFunc(r.Hosts, func(pattern string) bool {
		ok, err := path.Match(pattern, host)
		return err == nil && ok
	})
}

// stonith is the rule for a host; nil if it cannot be switched off.
func (r *round) stonith(hostID string) *StonithRule {
	host, ok := r.view.Host(hostID)
	if !ok {
		return nil
	}
	for i := range r.policy.Stonith {
		if r.policy.Stonith[i].Fits(host.GetName()) {
			return &r.policy.Stonith[i]
		}
	}
	return nil
}

// prove commits the proof that the owner has stopped, with what the failover
// leaves behind, unless that is more than the operator agreed to.
func (r *round) prove(s *shareFacts) {
	proof, detail := r.proof(s)
	if proof == unproved || s.report(s.fencing.GetTargetReplicaId()) == nil {
		return // What is lost cannot be said before the target has said what it holds.
	}
	loss := r.loss(s, proof)
	if objection := r.objection(s, loss); objection != "" {
		r.withhold(s, objection)
		return
	}
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CommitProof{CommitProof: &raftv1.CommitProof{
		ShareId: s.GetId(), OpId: s.fencing.GetOpId(), Epoch: s.fencing.GetEpoch(), Proof: proof, Detail: detail, Loss: loss,
	}}})
}

func (r *round) proof(s *shareFacts) (tarnv1.FencingProof, string) {
	f := s.fencing
	if p := f.GetProof(); p != unproved {
		return p, f.GetProofDetail()
	}
	owner, ok := r.view.Replica(s.owner())
	if !ok {
		return unproved, ""
	}
	host := owner.GetHostId()
	class, rule := r.fenceClass(host), r.stonith(host)
	if enforced(class) && (rule == nil || !rule.Always) && r.obs.LeaseExpired(host, r.policy.Wait(r.view)) {
		return tarnv1.FencingProof_FENCING_PROOF_LEASE_EXPIRED,
			fmt.Sprintf("%s since the last possible grant to host %s, which enforces expiry by %s", r.policy.Wait(r.view), host, className(class))
	}
	if off := r.obs.Stonith[f.GetOpId()]; off.Proof != "" {
		return tarnv1.FencingProof_FENCING_PROOF_STONITH, off.Proof
	}
	// A host that talks is not off, whoever says so.
	if word := f.GetAttestation(); word != "" && !f.GetAutomatic() && !r.obs.Heard(host) {
		return tarnv1.FencingProof_FENCING_PROOF_OPERATOR_ATTESTED, word
	}
	return unproved, ""
}

// fenceClass is the weaker of what the host registered and what it last said.
func (r *round) fenceClass(hostID string) tarnv1.FenceClass {
	host, ok := r.view.Host(hostID)
	if !ok {
		return tarnv1.FenceClass_FENCE_CLASS_NONE
	}
	class := host.GetFenceClass()
	if seen := r.obs.Hosts[hostID]; seen != nil && seen.FenceClass != unclear {
		class = min(class, seen.FenceClass)
	}
	return class
}

func enforced(c tarnv1.FenceClass) bool { return c >= tarnv1.FenceClass_FENCE_CLASS_HELPER }

func className(c tarnv1.FenceClass) string {
	switch c {
	case tarnv1.FenceClass_FENCE_CLASS_HELPER:
		return "a helper process"
	case tarnv1.FenceClass_FENCE_CLASS_KERNEL:
		return "the kernel's packet filter"
	case tarnv1.FenceClass_FENCE_CLASS_WATCHDOG:
		return "a watchdog"
	}
	return "nothing"
}

// objection says what of a loss the operator has not agreed to; "" for nothing.
func (r *round) objection(s *shareFacts, loss *tarnv1.LossReport) string {
	consent := s.fencing.GetConsent()
	if head := consent.GetHeadGuid(); head != 0 && head != s.fencing.GetSealedGuid() {
		return fmt.Sprintf("The failover would go on from snapshot %d, not from %d as agreed to. "+
			"It waits: promote again with the same op_id and that head_guid, or cancel it.", s.fencing.GetSealedGuid(), head)
	}
	for _, lost := range loss.GetLostSnapshots() {
		if !lost.GetReplicated() {
			continue
		}
		if holder := r.holder(s, lost); holder != "" {
			return fmt.Sprintf("The failover would lose snapshot %s (%s), which replica %s has. It waits: cancel it and promote that replica, or delete the snapshot.",
				lost.GetSnapshotId(), lost.GetName(), holder)
		}
		if !slices.Contains(consent.GetLostGuids(), lost.GetGuid()) {
			return fmt.Sprintf("The failover would lose snapshot %s (%s), which was on more than the old active replica. "+
				"It waits: promote again with the same op_id and the snapshot's GUID %d in lost_guids, or cancel it.",
				lost.GetSnapshotId(), lost.GetName(), lost.GetGuid())
		}
	}
	limit := consent.GetMaxLoss()
	if age := loss.GetKeptAge().AsDuration(); limit != nil && age > limit.AsDuration() && !nothingLost(loss) {
		return fmt.Sprintf("The failover would lose up to %s of changes and %d snapshots, more than the %s agreed to. "+
			"It waits: promote again with the same op_id and a larger max_loss, or cancel it.",
			age.Round(time.Second), len(loss.GetLostSnapshots()), limit.AsDuration())
	}
	if second := s.fencing.GetSecond(); second != nil && second.GetGivenBy() == "" && !nothingLost(loss) {
		return fmt.Sprintf("The failover would lose up to %s of changes and %d snapshots, to which two people have to agree. It waits: "+
			"somebody else has to promote with the same op_id and consent, or cancel it.", loss.GetKeptAge().AsDuration().Round(time.Second), len(loss.GetLostSnapshots()))
	}
	return ""
}

// holder is a replica that can be reached and has a snapshot that would be lost.
func (r *round) holder(s *shareFacts, lost *tarnv1.LostSnapshot) string {
	for _, rep := range s.replicas {
		if rep.GetId() != s.owner() && r.obs.Heard(rep.GetHostId()) && hasSnapshot(s.report(rep.GetId()), lost.GetSnapshotId(), lost.GetGuid()) {
			return rep.GetId()
		}
	}
	return ""
}

// withhold says once per promotion that it waits for a larger consent.
func (r *round) withhold(s *shareFacts, objection string) {
	r.say(s, resource{"SHARE_REPLICA", s.fencing.GetTargetReplicaId()}, s.fencing.GetOpId(), objection)
}

// Shot is a host that has to be switched off for a promotion to go on.
type Shot struct {
	HostID string
	// Rule is the index in Policy.Stonith.
	Rule int
	// OpIDs are the promotions that wait for it, sorted.
	OpIDs []string
}

// StonithDue lists the hosts to switch off now, in the order of their ids: of sealed
// forced promotions whose loss is agreed to, with an owner on a host that is silent,
// cannot hold a lease, and proves too little by that. What was tried already is in
// observed and comes up again only when it is forgotten there.
func StonithDue(policy Policy, view *raftfsm.View, observed *observe.Snapshot) []Shot {
	if len(policy.Stonith) == 0 {
		return nil
	}
	r := &round{policy: policy, view: view, obs: observed, now: observed.Now, batch: &raftv1.Transitions{}}
	var out []Shot
	for share := range view.Shares() {
		f := share.GetFencing()
		if f.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_FORCED || !f.GetSealed() || f.GetProof() != unproved {
			continue
		}
		if host, rule, ok := r.shot(r.facts(share)); ok {
			out = addShot(out, host, rule, f.GetOpId())
		}
	}
	slices.SortFunc(out, func(a, b Shot) int { return compare(a.HostID, b.HostID) })
	for i := range out {
		slices.Sort(out[i].OpIDs)
	}
	return out
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

func (r *round) shot(s *shareFacts) (hostID string, rule int, due bool) {
	owner, ok := r.view.Replica(s.owner())
	if !ok || !s.fenced() || s.report(s.fencing.GetTargetReplicaId()) == nil || !r.silent(owner.GetHostId()) {
		return "", 0, false
	}
	if _, tried := r.obs.Stonith[s.fencing.GetOpId()]; tried {
		return "", 0, false
	}
	if proof, _ := r.proof(s); proof != unproved {
		return "", 0, false
	}
	if r.objection(s, r.loss(s, tarnv1.FencingProof_FENCING_PROOF_STONITH)) != "" {
		return "", 0, false
	}
	host, _ := r.view.Host(owner.GetHostId())
	for i := range r.policy.Stonith {
		if r.policy.Stonith[i].Fits(host.GetName()) {
			return host.GetId(), i, true
		}
	}
	return "", 0, false
}

func addShot(shots []Shot, host string, rule int, op string) []Shot {
	for i := range shots {
		if shots[i].HostID == host {
			shots[i].OpIDs = append(shots[i].OpIDs, op)
			return shots
		}
	}
	return append(shots, Shot{HostID: host, Rule: rule, OpIDs: []string{op}})
}

// WaitingFor says what a promotion of the share waits for, in one sentence for
// people; "" when none runs. What a command of the operator's said is told if detail is
// set: it may name machines.
func WaitingFor(policy Policy, view *raftfsm.View, observed *observe.Snapshot, share *tarnv1.Share, detail bool) string {
	r := &round{policy: policy, view: view, obs: observed, now: observed.Now, batch: &raftv1.Transitions{}}
	s := r.facts(share)
	f := s.fencing
	switch {
	case raftfsm.Unsettled(share) && !s.fenced():
		return r.unsettled(s, detail)
	case !s.fenced() && f.GetPreparing() != nil && !f.GetPreparing().GetCancelled():
		return r.preparingFor(s)
	case !s.fenced():
		return ""
	case f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED && f.GetProof() == unproved:
		return "the active replica to stop writes and say so"
	case f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED:
		return "the target to receive the last snapshot"
	case !f.GetSealed():
		return "the target to be sealed"
	}
	return r.waitingForProof(s, detail)
}

func (r *round) waitingForProof(s *shareFacts, detail bool) string {
	proof, _ := r.proof(s)
	if proof != unproved {
		if objection := r.objection(s, r.loss(s, proof)); objection != "" {
			return "consent: " + objection
		}
		return "the leader to commit the change of ownership"
	}
	owner, _ := r.view.Replica(s.owner())
	host := owner.GetHostId()
	rule := r.stonith(host)
	switch {
	case r.obs.Stonith[s.fencing.GetOpId()].Trouble != "" && detail:
		return "its host to be switched off, which failed: " + r.obs.Stonith[s.fencing.GetOpId()].Trouble
	case r.obs.Heard(host):
		return "the active replica, whose host is heard of, to stop writes and say so"
	case rule != nil && (rule.Always || !enforced(r.fenceClass(host))):
		return "the active replica's host to be switched off by the configured command"
	case enforced(r.fenceClass(host)):
		return "the last lease of the active replica's host to run out"
	}
	return "a proof that the active replica's host does not write: nothing there ends a lease, so an operator has to make sure that it is off and promote again with the same op_id and an attestation"
}
