package raftfsm

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func TestSnapshotAvailableWhenEveryGoodReplicaHasIt(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.snapshot("s", "snap")
	n.drops(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{
		{SnapshotId: "snap", ReplicaId: "s-r2", Status: available},
		{SnapshotId: "snap", ReplicaId: "s-r2", Status: available, Guid: 0x5},
		{SnapshotId: "nope", ReplicaId: "s-r2", Status: available},
	}}, 3)
	n.arrives("snap", "s-r1", 0x51)
	n.drops(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "snap", ReplicaId: "s-r1", Guid: 0x52}}}, 1)
	if got := n.snapshotStatus("snap"); got != creating {
		t.Errorf("status %v before the in_sync replica has it", got)
	}
	n.arrives("snap", "s-r2", 0x51)
	if got := n.snapshotStatus("snap"); got != available {
		t.Errorf("status %v, want available", got)
	}
	checkInvariants(t, n.f.View())
}

func TestInSyncNeedsEverySnapshot(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.setState("s-r2", outOfSync)
	n.snapshot("s", "snap")
	n.arrives("snap", "s-r1", 0x51)
	if got := n.snapshotStatus("snap"); got != available {
		t.Errorf("a lagging replica hides the snapshot: %v", got)
	}
	n.drops(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: "s-r2", ReplicaState: inSync}}}, 1)
	n.refused(FailedPrecondition, "replica_state", &raftv1.ResetReplicaState{Id: "s-r2", ReplicaState: inSync})
	n.move(&raftv1.Transitions{
		Replicas:  []*raftv1.ReplicaTransition{{Id: "s-r2", ReplicaState: inSync}},
		Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "snap", ReplicaId: "s-r2", Status: available, Guid: 0x51}},
	})
	n.wantStates(map[string]tarnv1.ReplicaState{"s-r2": inSync})
}

func TestSnapshotDeletion(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.snapshot("s", "snap")
	n.arrives("snap", "s-r1", 0x51)
	n.arrives("snap", "s-r2", 0x51)
	for range 2 {
		n.do(&raftv1.DeleteSnapshot{Id: "snap"})
	}
	if got := n.snapshotStatus("snap"); got != deleting {
		t.Errorf("status %v after delete", got)
	}
	gone := func(r string) *raftv1.Transitions {
		return &raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "snap", ReplicaId: r, Removed: true}}}
	}
	n.move(gone("s-r1"))
	n.drops(gone("s-r1"), 1)
	n.move(&raftv1.Transitions{Hosts: []*raftv1.HostTransition{{Id: "h2", State: tarnv1.HostState_HOST_STATE_DOWN}}})
	n.do(&raftv1.DeleteSnapshot{Id: "snap", Force: true})
	if c := n.f.View().Counts(); c.Snapshots+c.SnapshotInstances != 0 {
		t.Errorf("left: %+v", c)
	}
	checkInvariants(t, n.f.View())
}

func TestSnapshotNeverTaken(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.snapshot("s", "snap")
	n.drops(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "snap", ReplicaId: "s-r1", Removed: true}}}, 1)
	n.do(&raftv1.DeleteSnapshot{Id: "snap", Force: true})
	if c := n.f.View().Counts(); c.SnapshotInstances != 1 {
		t.Errorf("instances left: %d, want the active's only", c.SnapshotInstances)
	}
	n.move(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{SnapshotId: "snap", ReplicaId: "s-r1", Removed: true}}})
	if c := n.f.View().Counts(); c.Snapshots != 0 {
		t.Errorf("the record is left")
	}
}

func TestPromotionSettlesSnapshots(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.snapshot("s", "lost")
	n.arrives("lost", "s-r1", 0x51)
	n.snapshot("s", "untaken")
	n.promotePlannedLoosely("s-r2")
	got := map[string]tarnv1.Status{}
	for i := range n.f.View().InstancesOfReplica("s-r2") {
		got[i.GetSnapshotId()] = i.GetStatus()
	}
	if got["lost"] != errored || got["untaken"] != creating {
		t.Errorf("instances on the new active: %v", got)
	}
	n.arrives("lost", "s-r2", 0x51)
	n.arrives("untaken", "s-r2", 0x52)
	if a, b := n.snapshotStatus("lost"), n.snapshotStatus("untaken"); a != available || b != available {
		t.Errorf("after reports: %v, %v", a, b)
	}
}

func (n *node) promotePlannedLoosely(target string) {
	n.t.Helper()
	n.do(&raftv1.PromoteReplica{Id: target, OpId: "op", Mode: planned, ExpectedEpoch: 1, AllowOutOfSync: true})
	n.do(&raftv1.CommitDemotion{ShareId: "s", OpId: "op", Epoch: 1, FinalGuid: 0xf1})
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xf1})
	n.available(target)
}

func TestShareFromSnapshot(t *testing.T) {
	n := busyWorld(t)
	c := newShare("clone", "readable")
	c.Share.SnapshotId, c.Replica.HostId = "snap", "h2"
	n.do(c)
	n.wantStatus("clone", tarnv1.Status_STATUS_CREATING_FROM_SNAPSHOT)
	n.refused(FailedPrecondition, "id", &raftv1.DeleteSnapshot{Id: "snap"})
	n.available("clone-r1")
	n.do(&raftv1.DeleteSnapshot{Id: "snap"})
}

func (n *node) ruleState(id string) tarnv1.AccessRuleState {
	n.t.Helper()
	r, ok := n.f.View().AccessRule(id)
	if !ok {
		return 0
	}
	return n.f.View().ProjectRule(r).GetState()
}

func (n *node) applied(replica string, errs ...*tarnv1.RuleError) {
	n.t.Helper()
	rev := n.f.View().Index()
	n.move(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{
		Id: replica, AppliedAccessRevision: &rev, SetRuleErrors: true, RuleErrors: errs,
	}}})
}

func (n *node) wantAccess(rule tarnv1.AccessRuleState, share tarnv1.AccessRulesStatus) {
	n.t.Helper()
	if got := n.ruleState("a"); got != rule {
		n.t.Errorf("rule is %v, want %v", got, rule)
	}
	if got := n.getShare("s").GetAccessRulesStatus(); got != share {
		n.t.Errorf("share's rules are %v, want %v", got, share)
	}
}

func TestAccessRuleLife(t *testing.T) {
	const (
		ok      = tarnv1.AccessRulesStatus_ACCESS_RULES_STATUS_ACTIVE
		syncing = tarnv1.AccessRulesStatus_ACCESS_RULES_STATUS_SYNCING
		failed  = tarnv1.AccessRulesStatus_ACCESS_RULES_STATUS_ERROR
	)
	n := world(t)
	n.replicated("s", "readable")
	n.do(&raftv1.AllowAccess{AccessRule: &tarnv1.AccessRule{Id: "a", ShareId: "s", AccessType: "ip", AccessTo: "10.0.0.1", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW}})
	n.wantAccess(tarnv1.AccessRuleState_ACCESS_RULE_STATE_QUEUED_TO_APPLY, syncing)
	n.applied("s-r1")
	n.wantAccess(tarnv1.AccessRuleState_ACCESS_RULE_STATE_QUEUED_TO_APPLY, syncing)
	n.applied("s-r2", &tarnv1.RuleError{AccessRuleId: "a", Message: "no"})
	n.wantAccess(tarnv1.AccessRuleState_ACCESS_RULE_STATE_ERROR, failed)
	n.applied("s-r2")
	n.wantAccess(tarnv1.AccessRuleState_ACCESS_RULE_STATE_ACTIVE, ok)
	n.do(&raftv1.UpdateAccess{Id: "a", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RO})
	n.wantAccess(tarnv1.AccessRuleState_ACCESS_RULE_STATE_QUEUED_TO_UPDATE, syncing)
	n.do(&raftv1.DenyAccess{Id: "a"})
	n.wantAccess(tarnv1.AccessRuleState_ACCESS_RULE_STATE_DENYING, syncing)
	n.applied("s-r1")
	n.wantAccess(tarnv1.AccessRuleState_ACCESS_RULE_STATE_DENYING, syncing)
	n.applied("s-r2")
	n.wantAccess(0, ok)
}

func TestQuotas(t *testing.T) {
	n := world(t)
	put := func(q *tarnv1.QuotaLimits) { n.do(&raftv1.PutQuota{Limits: q}) }
	put(&tarnv1.QuotaLimits{ProjectId: "p1", Limits: map[string]int64{QuotaShares: 3, QuotaShareReplicas: 3, QuotaPerShareGigabytes: 100}})
	put(&tarnv1.QuotaLimits{ProjectId: "p1", UserId: "u1", Limits: map[string]int64{QuotaShares: 2}})
	put(&tarnv1.QuotaLimits{ProjectId: "p1", ShareTypeId: "t-dr", Limits: map[string]int64{QuotaShares: 0}})
	n.refused(ResourceExhausted, QuotaShares, newShare("d", "dr"))
	n.replicated("s1", "readable")
	n.share("s2", "readable")
	n.refused(ResourceExhausted, QuotaShares, newShare("s3", ""))
	n.refused(ResourceExhausted, QuotaShareReplicas, &raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: "x", ShareId: "s2", HostId: "h2", Pool: "tank"}})
	n.refused(ResourceExhausted, QuotaPerShareGigabytes, &raftv1.ResizeShare{Id: "s1", NewSizeGib: 101})
	if got := n.f.View().EffectiveQuota("p1", "u1", "t-dr")[QuotaShares]; got != 0 {
		t.Errorf("effective limit %d, want the tighter 0", got)
	}
	n.do(&raftv1.ResetQuota{ProjectId: "p1", UserId: "u1"})
	if got := n.f.View().EffectiveQuota("p1", "u1", "")[QuotaShares]; got != 3 {
		t.Errorf("effective limit %d after reset, want the project's 3", got)
	}
	if got := n.f.View().EffectiveQuota("p2", "", "")[QuotaShareReplicas]; got != 100 {
		t.Errorf("default limit %d", got)
	}
	if u := n.f.View().Usage("p1", "u1", ""); u[QuotaShares] != 2 || u[QuotaShareReplicas] != 3 {
		t.Errorf("usage %v", u)
	}
}

func TestMessagesRepeatAndExpire(t *testing.T) {
	n := world(t)
	msg := func(id, detail string) *tarnv1.UserMessage {
		return &tarnv1.UserMessage{Id: id, ProjectId: "p1", ResourceId: "s", DetailId: detail}
	}
	send := func(m *tarnv1.UserMessage) *raftv1.Transitions {
		return &raftv1.Transitions{Messages: []*tarnv1.UserMessage{m}}
	}
	n.move(send(msg("m1", "001")))
	n.drops(send(msg("m2", "001")), 1)
	n.drops(send(msg("m1", "002")), 1)
	n.move(send(msg("m3", "002")))
	n.at = n.at.Add(time.Hour)
	n.move(send(msg("m4", "001")))
	n.at = n.at.Add(messageLife - time.Minute)
	n.move(&raftv1.Transitions{})
	var left []string
	for m := range n.f.View().MessagesOfProject("p1") {
		left = append(left, m.GetId())
	}
	if fmt.Sprint(left) != "[m4]" {
		t.Errorf("left: %v, want m4", left)
	}
	n.do(&raftv1.DeleteMessage{Id: "m4"})
}

func TestJoinTokens(t *testing.T) {
	n := newNode(t)
	token := func(hash string, life time.Duration) *raftv1.PutJoinToken {
		return &raftv1.PutJoinToken{Token: &raftv1.JoinToken{Hash: hash, Role: "agent", ExpiresAt: timestamppb.New(n.at.Add(life))}}
	}
	n.do(token("a", time.Hour))
	n.do(token("b", time.Minute))
	for range 2 {
		n.do(&raftv1.UseJoinToken{Hash: "a", NodeId: "n1"})
	}
	n.refused(FailedPrecondition, "hash", &raftv1.UseJoinToken{Hash: "a", NodeId: "n2"})
	n.refused(NotFound, "hash", &raftv1.UseJoinToken{Hash: "nope", NodeId: "n2"})
	n.at = n.at.Add(2 * time.Minute)
	n.refused(FailedPrecondition, "hash", &raftv1.UseJoinToken{Hash: "b", NodeId: "n2"})
	n.do(token("c", time.Hour))
	if _, ok := n.f.View().JoinToken("b"); ok {
		t.Errorf("an expired token is kept")
	}
}

// TestForcedFailoverDeclaresEverySnapshot: what the former owner tells of while its
// failover is being decided is in the loss report, or is no snapshot anybody relies
// on. Found by the model of agent/replicate.
func TestForcedFailoverDeclaresEverySnapshot(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CommandVersion})
	n.replicated("s", "readable")
	n.setState("s-r2", tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC) // users rely on the owner alone
	n.snapshot("s", "early")
	n.snapshot("s", "late")
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, AllowOutOfSync: true})
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	proof := &raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: proofLease, Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "at_least"}}

	// The leader wrote the report, and then the owner's word came in.
	n.arrives("early", "s-r1", 0xe1)
	n.refused(Aborted, "loss", proof)
	proof.Loss.LostSnapshots = []*tarnv1.LostSnapshot{{SnapshotId: "early", Guid: 0xe1}}
	n.do(proof)

	// The owner's word comes in when the report is committed.
	n.drops(&raftv1.Transitions{Snapshots: []*raftv1.SnapshotTransition{{
		SnapshotId: "late", ReplicaId: "s-r1", Status: tarnv1.Status_STATUS_AVAILABLE, Guid: 0xe2,
	}}}, 1)
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	if got := n.snapshotStatus("late"); got == tarnv1.Status_STATUS_AVAILABLE {
		t.Error("a snapshot is available that is on no replica of the new history, and was not declared lost")
	}
	n.arrives("late", "s-r2", 0xf1) // which is the new owner's to take
	checkInvariants(t, n.f.View())
}
