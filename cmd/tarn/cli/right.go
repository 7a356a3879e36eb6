package cli

import (
	"fmt"
	"slices"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

// writerText says who may write a share now, and whether the right is in use.
func writerText(s *tarnv1.Share) string {
	f, right := s.GetFencing(), s.GetFencing().GetRight()
	switch {
	case f == nil:
		return ""
	case f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING:
		return "nobody, until the promotion ends"
	case right == nil: // an answer that is about more than this
		return "replica " + f.GetOwnerReplicaId()
	}
	where := []string{}
	if right.GetHost() != "" {
		where = append(where, "host "+right.GetHost())
	}
	if right.GetAvailabilityZone() != "" {
		where = append(where, "zone "+right.GetAvailabilityZone())
	}
	text := "replica " + right.GetReplicaId()
	if len(where) > 0 {
		text += " (" + strings.Join(where, ", ") + ")"
	}
	if unsettled(f) {
		text = "nobody, after a restore; by the restored state " + text
		if waits := right.GetWaitingFor(); waits != "" {
			text += "\nwaits for " + waits
		}
		return text
	}
	return text + writeStateText(right)
}

// unsettled: the state was restored, and somebody has newer data or has not spoken.
func unsettled(f *tarnv1.Fencing) bool {
	open := func(u *tarnv1.UnknownReplica) bool { return u.GetDismissedBy() == "" }
	return f.GetNewerEpoch() != 0 || len(f.GetUnheardReplicaIds()) > 0 || slices.ContainsFunc(f.GetUnknownReplicas(), open)
}

func writeStateText(right *tarnv1.WriteRight) string {
	switch right.GetState() {
	case tarnv1.WriteState_WRITE_STATE_SERVING:
		return ", and takes writes"
	case tarnv1.WriteState_WRITE_STATE_LEASED:
		return ", but does not say that it takes writes"
	case tarnv1.WriteState_WRITE_STATE_EXPIRED:
		return ", but holds no lease: nobody can write"
	}
	return ""
}

// proofText says what let the owner become one.
func proofText(s *tarnv1.Share) string {
	f := s.GetFencing()
	if f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING && f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED {
		return "none yet that the former active replica has stopped"
	}
	if f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED {
		if f.GetEpoch() <= 1 {
			return "none needed: the first owner"
		}
		return "none needed: the owner did not change"
	}
	text := enumText(f.GetProof())
	if since := f.GetRight().GetSince(); since != nil {
		text += ", active since " + stampText(since)
	}
	if f.GetProofDetail() != "" {
		text += "\n" + f.GetProofDetail()
	}
	return text
}

func promotionText(s *tarnv1.Share) string {
	f := s.GetFencing()
	if p := f.GetPreparing(); p != nil && !p.GetCancelled() {
		text := fmt.Sprintf("planned to %s, prepared since %s", p.GetTargetReplicaId(), stampText(p.GetSince()))
		if waits := f.GetRight().GetWaitingFor(); waits != "" {
			text += "\nwaits for " + waits
		}
		return text
	}
	if f.GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_FENCING {
		return ""
	}
	kind := enumText(f.GetMode())
	if f.GetAutomatic() {
		kind = "automatic"
	}
	text := fmt.Sprintf("%s to %s since %s", kind, f.GetTargetReplicaId(), stampText(f.GetStartedAt()))
	if waits := f.GetRight().GetWaitingFor(); waits != "" {
		text += "\nwaits for " + waits
	}
	return text
}
