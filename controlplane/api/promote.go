package api

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// PromoteReplica implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) PromoteReplica(ctx context.Context, req *tarnv1.PromoteReplicaRequest) (*tarnv1.PromoteReplicaResponse, error) {
	req.OpId = idOr(req.GetOpId())
	if active, err := s.alreadyActive(ctx, req); active != nil || err != nil {
		return active, err
	}
	who := callerFrom(ctx)
	r, err := record[*tarnv1.Replica](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		target, err := who.replica(v, req.GetId())
		if err != nil {
			return nil, err
		}
		share, ok := v.Share(target.GetShareId())
		if !ok {
			return nil, notFound("replica", req.GetId())
		}
		if err := errors.Join(s.keyed(who, share, target), s.whole(target, req.GetForce())); err != nil {
			return nil, err
		}
		cmd := promotion(who, share, req)
		cmd.GetPromoteReplica().CatchUp = !req.GetForce() && !req.GetAtOnce() && v.CommandVersion() >= raftfsm.CatchUpVersion
		if wait := s.quiesce(req); wait > 0 && v.CommandVersion() >= raftfsm.WaitVersion {
			cmd.GetPromoteReplica().Wait = durationpb.New(wait)
		}
		cmd.GetPromoteReplica().SecondRequired = req.GetForce() && s.Policies.Policy().NeedsSecond(actForcePromote)
		return cmd, nil
	}))
	if err != nil {
		return nil, err
	}
	s.afterPromotion(req, r)
	out, err := s.answer(who, r, nil)
	return &tarnv1.PromoteReplicaResponse{Replica: out, Started: true, OpId: req.GetOpId()}, err
}

// alreadyActive answers, as Manila does, a promotion of the replica that is the
// active one: well, and unchanged. A repetition of the promotion that made it so, by its
// key or its number, gets the same answer as the first.
func (s *replicas) alreadyActive(ctx context.Context, req *tarnv1.PromoteReplicaRequest) (*tarnv1.PromoteReplicaResponse, error) {
	who := callerFrom(ctx)
	if s.repetition(ctx) {
		return nil, nil // It was not, when it was asked for first.
	}
	r, err := who.replica(s.State.View(), req.GetId())
	if err != nil || r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
		return nil, nil
	}
	v, err := s.read(ctx, tarnv1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	if r, err = who.replica(v, req.GetId()); err != nil || r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
		return nil, err
	}
	out := &tarnv1.PromoteReplicaResponse{Replica: s.printReplica(v, who, r)}
	share, _ := v.Share(r.GetShareId())
	if f := share.GetFencing(); f.GetOpId() == req.GetOpId() && f.GetProof() != tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED {
		out.Started, out.OpId = true, req.GetOpId()
	}
	return out, nil
}

// keyed refuses, before anything stops, to promote a replica of an encrypted share
// whose host could not serve it. Only that host knows: the key is never seen here.
func (s *replicas) keyed(who caller, share *tarnv1.Share, target *tarnv1.Replica) error {
	if !schedule.Encrypted(share.GetExtraSpecs()) {
		return nil
	}
	seen := s.Soft.Observation(target.GetId(), time.Now())
	switch {
	case seen.GetKeyState() == tarnv1.KeyState_KEY_STATE_AVAILABLE:
		return nil
	case seen.GetKeyState() == tarnv1.KeyState_KEY_STATE_UNSPECIFIED:
		return refused("id", "the share is encrypted and the replica's host has not said yet whether it has the key; nothing was stopped: try again in a few seconds")
	case !who.isOperator():
		return refused("id", "the share is encrypted and its key is not on the replica's host; nothing was stopped: ask the operator to copy it there")
	}
	return refused("id", "the share is encrypted and its key is not on host %s; nothing was stopped: copy the key file from the active replica's host to %s, "+
		"the agent loads it by itself, then promote again", hostPart(target.GetHost()), seen.GetKeyFile())
}

// whole refuses a planned promotion of a replica that its pool cannot read. A forced
// one may be the best that is left.
func (s *replicas) whole(target *tarnv1.Replica, force bool) error {
	seen := s.Soft.Observation(target.GetId(), time.Now())
	if force || seen.GetError().GetCode() != tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED {
		return nil
	}
	return refused("id", "the replica's pool has found data of it that it cannot read; nothing was stopped: promote another replica, or this one by force")
}

func promotion(who caller, share *tarnv1.Share, req *tarnv1.PromoteReplicaRequest) *raftv1.Command {
	mode := tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	consent := req.GetConsent()
	if req.GetForce() {
		mode = tarnv1.PromotionMode_PROMOTION_MODE_FORCED
		if consent == nil {
			consent = &tarnv1.Consent{}
		}
		if consent.GetReason() == "" {
			consent.Reason = who.reason // kept with the loss report
		}
	}
	attestation := ""
	if req.GetAttestHostIsDown() {
		attestation = who.actor() + ": " + consent.GetReason()
	}
	return &raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
		Id:             req.GetId(),
		OpId:           req.GetOpId(),
		Mode:           mode,
		ExpectedEpoch:  share.GetFencing().GetEpoch(),
		Consent:        consent,
		AllowOutOfSync: who.isOperator(),
		Attestation:    attestation,
	}}}
}

// quiesce is how long a planned promotion is given; 0 where the leader decides. One that
// stops the owner at once gives it as long to do so as it has after a preparation: nobody
// may write meanwhile, and an owner that cannot stop would hold that up for ever.
func (s *replicas) quiesce(req *tarnv1.PromoteReplicaRequest) time.Duration {
	wait := req.GetQuiesceWaitTime().AsDuration()
	switch {
	case req.GetForce():
		return 0
	case wait == 0 && req.GetAtOnce():
		return s.Policy.StopTime
	}
	return wait
}

// afterPromotion tells the leader's loops what is not for the log, by its own clock: how
// long a planned one may wait, and since when the owner is told to stop.
func (s *replicas) afterPromotion(req *tarnv1.PromoteReplicaRequest, r *tarnv1.Replica) {
	share, _ := s.State.View().Share(r.GetShareId())
	f, wait := share.GetFencing(), s.quiesce(req)
	if f.GetOpId() == req.GetOpId() && f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING {
		s.Soft.Began(req.GetOpId(), time.Now())
	}
	if p := f.GetPreparing(); wait == 0 && p.GetOpId() == req.GetOpId() && !p.GetCancelled() {
		wait = s.Policy.PrepareTime
	}
	if wait > 0 {
		s.Soft.SetQuiesce(req.GetOpId(), time.Now().Add(wait))
	}
}

// CancelPromotion implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) CancelPromotion(ctx context.Context, req *tarnv1.CancelPromotionRequest) (*tarnv1.Replica, error) {
	who := callerFrom(ctx)
	var target, op string
	share, err := record[*tarnv1.Share](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		share, err := who.share(v, req.GetShareId())
		if err != nil {
			return nil, err
		}
		running, prepared := share.GetFencing(), share.GetFencing().GetPreparing()
		target = running.GetTargetReplicaId()
		op = req.GetOpId()
		if op == "" {
			op = running.GetOpId()
		}
		if prepared != nil && (req.GetOpId() == "" || req.GetOpId() == prepared.GetOpId()) {
			op, target = prepared.GetOpId(), prepared.GetTargetReplicaId()
		}
		if op == running.GetOpId() && running.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING &&
			running.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED && raftfsm.Unsettled(share) {
			// It may have ended after the backup, and its target own the epoch that the former owner would get.
			return nil, refused("share_id", "the state was restored from a backup of the middle of this promotion, and not every replica has said what it has since; `tarn share show` names them")
		}
		return &raftv1.Command{Verb: &raftv1.Command_CancelPromotion{CancelPromotion: &raftv1.CancelPromotion{
			ShareId: share.GetId(), OpId: op,
		}}}, nil
	}))
	if err != nil {
		return nil, err
	}
	s.Soft.Forget(op)
	if target == "" {
		// Asked again: what was cancelled is forgotten, who is active stands.
		target = share.GetFencing().GetOwnerReplicaId()
	}
	v := s.State.View()
	r, err := who.replica(v, target)
	if err != nil {
		return nil, refused("share_id", "the promotion was cancelled; its target is gone")
	}
	return s.printReplica(v, who, r), nil
}

// hostPart returns the host of host@backend#pool.
func hostPart(full string) string {
	host, _, _ := strings.Cut(full, "@")
	return host
}
