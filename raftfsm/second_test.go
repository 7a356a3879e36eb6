package raftfsm

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// by is a command of an actor.
func (n *node) by(actor string, verb any) *Result {
	n.t.Helper()
	cmd := wrap(n.t, verb)
	cmd.Actor = actor
	return n.f.Apply(n.entry(cmd)).(*Result)
}

// TestTwoPeopleAgreeToALoss: not one of them twice, and both to the same.
func TestTwoPeopleAgreeToALoss(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CommandVersion})
	n.replicated("s", "readable")
	ask := func(actor string, limit time.Duration) {
		t.Helper()
		res := n.by(actor, &raftv1.PromoteReplica{
			Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, SecondRequired: true,
			Consent: &tarnv1.Consent{Reason: actor + "'s reason", MaxLoss: durationpb.New(limit)},
		})
		if res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	second := func() *tarnv1.SecondConsent { return n.getShare("s").GetFencing().GetSecond() }
	proof := &raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: proofLease, Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "at_least"}}
	ask("alice", time.Minute)
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	n.refused(FailedPrecondition, "consent", proof)
	ask("alice", time.Minute)
	n.refused(FailedPrecondition, "consent", proof)
	ask("bob", time.Hour) // which alice has not seen
	if second().GetAskedBy() != "bob" || second().GetGivenBy() != "" {
		t.Errorf("after another consent: %v", second())
	}
	n.refused(FailedPrecondition, "consent", proof)
	ask("alice", time.Hour)
	ask("bob", time.Hour)
	if second().GetAskedBy() != "bob" || second().GetGivenBy() != "alice" || second().GetGivenAt() == nil {
		t.Errorf("both have asked for the same: %v", second())
	}
	if got := n.getShare("s").GetFencing().GetConsent().GetReason(); got != "bob's reason" {
		t.Errorf("the reason is %q", got)
	}
	n.do(proof)
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	if second() != nil {
		t.Errorf("it is of one promotion: %v", second())
	}
	checkInvariants(t, n.f.View())
}

// TestOnePersonIsEnoughWhereNothingIsLost.
func TestOnePersonIsEnoughWhereNothingIsLost(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: CommandVersion})
	n.replicated("s", "readable")
	n.by("alice", &raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1, SecondRequired: true})
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	n.do(&raftv1.CommitDemotion{ShareId: "s", OpId: "op", Epoch: 1, FinalGuid: 0xb0})
	n.do(&raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK,
		Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "exact"}})
	n.do(&raftv1.Activate{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
}
