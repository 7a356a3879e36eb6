package raftfsm

import (
	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// Where the policy wants two people, what one of them consents to be lost is lost when
// another one has asked for the very same promotion. Whoever changes the consent begins
// anew: nobody is made to agree to what he has not seen.

// askSecond notes that a forced promotion needs the consent of somebody else than actor.
func (tx *txn) askSecond(f *tarnv1.Fencing, c *raftv1.PromoteReplica, actor string) {
	if f.GetSecond() == nil && !c.GetSecondRequired() || tx.s.minVersion < SecondVersion || c.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_FORCED {
		return
	}
	f.Second = &tarnv1.SecondConsent{AskedBy: actor}
}

// sameConsent says if a repetition asks for what is asked for already, but for the reason.
func sameConsent(f *tarnv1.Fencing, c *raftv1.PromoteReplica) bool {
	return f.GetMode() == c.GetMode() && c.GetAttestation() == "" && proto.Equal(unreasoned(f.GetConsent()), unreasoned(c.GetConsent()))
}

func unreasoned(c *tarnv1.Consent) *tarnv1.Consent {
	if c == nil {
		return &tarnv1.Consent{}
	}
	plain := proto.CloneOf(c)
	plain.Reason = ""
	return plain
}

// agree notes the second person's consent, once. The first one's alone changes nothing.
func (tx *txn) agree(s *tarnv1.Share, actor string) {
	second := s.GetFencing().GetSecond()
	if second.GetAskedBy() == actor || second.GetGivenBy() != "" {
		return
	}
	next := changeShare(s)
	next.Fencing.Second.GivenBy, next.Fencing.Second.GivenAt = actor, tx.now
	tx.saveShare(s, next)
}

// checkSecond: without the second consent nothing may be lost.
func checkSecond(f *tarnv1.Fencing, loss *tarnv1.LossReport) *Error {
	if second := f.GetSecond(); second == nil || second.GetGivenBy() != "" || nothingLost(loss) {
		return nil
	}
	return refuse(FailedPrecondition, "consent", "two people have to agree to a loss; another one has to promote with the same op_id and consent, or cancel")
}
