package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"tarn/controlplane/reconcile"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// ListUnknownReplicas implements tarnv1connect.ReplicaServiceHandler: those that shares
// wait for a decision about, then what else hosts tell of.
func (s *replicas) ListUnknownReplicas(ctx context.Context, req *tarnv1.ListUnknownReplicasRequest) (*tarnv1.ListUnknownReplicasResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	out := &tarnv1.ListUnknownReplicasResponse{SilentHosts: s.untold(v)}
	listed := map[string]bool{}
	for share := range v.Shares() {
		for _, u := range share.GetFencing().GetUnknownReplicas() {
			listed[u.GetReplicaId()+" "+u.GetHostId()] = true
			if matches(req.GetShareId(), u.GetShareId()) {
				out.UnknownReplicas = append(out.UnknownReplicas, located(v, u))
			}
		}
	}
	for u := range reconcile.Unknown(v, s.Soft.Snapshot(time.Now(), nil)) {
		if !listed[u.GetReplicaId()+" "+u.GetHostId()] && matches(req.GetShareId(), u.GetShareId()) {
			out.UnknownReplicas = append(out.UnknownReplicas, u)
		}
	}
	return out, nil
}

// located is a stored one with the name of its host.
func located(v *raftfsm.View, stored *tarnv1.UnknownReplica) *tarnv1.UnknownReplica {
	u := proto.CloneOf(stored)
	if h, ok := v.Host(u.GetHostId()); ok {
		u.Host = h.GetName() + "@" + h.GetBackend() + "#" + u.GetPool()
	}
	return u
}

// undecided finds an unknown replica that a share waits for a decision about.
func undecided(v *raftfsm.View, replicaID string) (*tarnv1.Share, *tarnv1.UnknownReplica, error) {
	for share := range v.Shares() {
		for _, u := range share.GetFencing().GetUnknownReplicas() {
			if u.GetReplicaId() == replicaID {
				return share, u, nil
			}
		}
	}
	return nil, nil, refused("replica_id", "no share waits for a decision about replica %s: tarn replica unknown list shows which there are", replicaID)
}

// AdoptUnknownReplica implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) AdoptUnknownReplica(ctx context.Context, req *tarnv1.UnknownReplicaRequest) (*tarnv1.Replica, error) {
	who := callerFrom(ctx)
	made, err := record[*tarnv1.Replica](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		share, u, err := undecided(v, req.GetReplicaId())
		if err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_CreateReplica{CreateReplica: &raftv1.CreateReplica{
			Replica:             &tarnv1.Replica{Id: u.GetReplicaId(), ShareId: share.GetId(), HostId: u.GetHostId(), Pool: u.GetPool()},
			SnapshotInstanceIds: instanceIDs(v, share.GetId()),
		}}}, nil
	}))
	return s.answer(who, made, err)
}

// DismissUnknownReplica implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) DismissUnknownReplica(ctx context.Context, req *tarnv1.UnknownReplicaRequest) (*tarnv1.Share, error) {
	who := callerFrom(ctx)
	share, err := record[*tarnv1.Share](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		share, _, err := undecided(v, req.GetReplicaId())
		if err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_DismissUnknownReplica{DismissUnknownReplica: &raftv1.DismissUnknownReplica{
			ShareId: share.GetId(), ReplicaId: req.GetReplicaId(),
		}}}, nil
	}))
	if err != nil {
		return nil, err
	}
	s.Logger.Warn("a share goes on without a replica that has newer data", "by", who.actor(), "share", share.GetId(), "replica", req.GetReplicaId())
	return s.printShareAlone(s.State.View(), who, share), nil
}
