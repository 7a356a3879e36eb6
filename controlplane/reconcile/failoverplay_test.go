package reconcile

import (
	"fmt"
	"strings"

	"tarn/controlplane/observe"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// What scenarios say of failover beyond promotions by hand.

// attest: attest SHARE, for the promotion that runs.
func (p *player) attest(a []string) error {
	if r := p.world.attest(a[0]); r.Err != nil {
		return r.Err
	}
	return nil
}

// spec: spec KEY VALUE is an extra spec of all shares that come after it.
func (p *player) spec(a []string) error {
	if p.specs == nil {
		p.specs = map[string]string{}
	}
	p.specs[a[0]] = a[1]
	return nil
}

// stonith: stonith PATTERN [always] configures a command for hosts.
func (p *player) stonith(a []string) error {
	p.policy.Stonith = append(p.policy.Stonith, StonithRule{Hosts: []string{a[0]}, Always: len(a) > 1})
	return nil
}

// shots: shots none, or shots HOST...: who is to be switched off now.
func (p *player) shots(a []string) error {
	var due []string
	for _, s := range StonithDue(p.policy, p.fsm.View(), p.soft.Snapshot(p.now, p.leases)) {
		due = append(due, s.HostID)
	}
	if len(due) == 0 {
		due = []string{"none"}
	}
	if got := strings.Join(due, " "); got != strings.Join(a, " ") {
		return fmt.Errorf("to be switched off: %s", got)
	}
	return nil
}

// shot: shot HOST, or shot HOST failed: what came of it.
func (p *player) shot(a []string) error {
	result := observe.StonithResult{Proof: "outlet of " + a[0] + " is off", At: p.now}
	if len(a) > 1 {
		result = observe.StonithResult{Trouble: "the outlet does not answer", At: p.now}
	}
	for _, s := range StonithDue(p.policy, p.fsm.View(), p.soft.Snapshot(p.now, p.leases)) {
		if s.HostID == a[0] {
			p.soft.SetStonith(result, s.OpIDs...)
			return nil
		}
	}
	return fmt.Errorf("nobody wants %s switched off", a[0])
}

// waits: waits SHARE TEXT... is part of what the promotion waits for.
func (p *player) waits(a []string) error {
	s, _ := p.fsm.View().Share(a[0])
	got := WaitingFor(p.policy, p.fsm.View(), p.soft.Snapshot(p.now, p.leases), s, true)
	if want := strings.Join(a[1:], " "); !strings.Contains(got, want) {
		return fmt.Errorf("it waits for %q", got)
	}
	return nil
}

// consent: consent SHARE SNAPSHOT names a snapshot that may be lost.
func (p *player) consent(a []string) error {
	s, _ := p.fsm.View().Share(a[0])
	snap, ok := p.fsm.View().Snapshot(a[1])
	if !ok {
		return fmt.Errorf("no snapshot %s", a[1])
	}
	f := s.GetFencing()
	return p.command(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
		Id: f.GetTargetReplicaId(), OpId: f.GetOpId(), Mode: tarnv1.PromotionMode_PROMOTION_MODE_FORCED,
		ExpectedEpoch: f.GetEpoch(), AllowOutOfSync: true, Consent: &tarnv1.Consent{LostGuids: []uint64{snap.GetGuid()}},
	}}})
}

// by: by ACTOR SHARE HOST OP forces a promotion for which two people are needed.
func (p *player) by(a []string) error {
	s, _ := p.fsm.View().Share(a[1])
	return p.command(&raftv1.Command{Actor: a[0], Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
		Id: p.replicaOn(a[1], a[2]).GetId(), OpId: a[3], Mode: tarnv1.PromotionMode_PROMOTION_MODE_FORCED,
		ExpectedEpoch: s.GetFencing().GetEpoch(), AllowOutOfSync: true, SecondRequired: true, Consent: &tarnv1.Consent{Reason: a[0]},
	}}})
}
