package api

import (
	"context"
	"iter"
	"maps"
	"slices"

	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// replicas is ReplicaService.
type replicas struct{ *core }

// CreateReplica implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) CreateReplica(ctx context.Context, req *tarnv1.CreateReplicaRequest) (*tarnv1.Replica, error) {
	req.Id = idOr(req.GetId())
	who := callerFrom(ctx)
	if old, ok := s.State.View().Replica(req.GetId()); ok && !s.repetition(ctx) {
		return s.repeated(ctx, old, req)
	}
	plan := func(v *raftfsm.View) (*raftv1.Command, *schedule.Request, error) { return planReplica(v, who, req) }
	made, err := record[*tarnv1.Replica](s.placed(ctx, plan))
	return s.answer(who, made, err)
}

func (s *replicas) repeated(ctx context.Context, old *tarnv1.Replica, req *tarnv1.CreateReplicaRequest) (*tarnv1.Replica, error) {
	who := callerFrom(ctx)
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	same := who.mayWrite(old.GetProjectId()) && old.GetShareId() == req.GetShareId() &&
		matches(req.GetAvailabilityZone(), old.GetAvailabilityZone()) && req.GetFromDataset() == old.GetManagedFrom() && maps.Equal(old.GetMetadata(), req.GetMetadata())
	if !same {
		return nil, taken("replica", req.GetId())
	}
	return s.answer(who, old, nil)
}

func planReplica(v *raftfsm.View, who caller, req *tarnv1.CreateReplicaRequest) (*raftv1.Command, *schedule.Request, error) {
	share, err := who.share(v, req.GetShareId())
	if err != nil {
		return nil, nil, err
	}
	siblings := v.ReplicasOfShare(share.GetId())
	active, err := activeOf(share, siblings)
	if err != nil {
		return nil, nil, err
	}
	onlyHost, err := placeOf(v, "only_host", req.GetOnlyHost(), req.GetFromDataset())
	if err != nil {
		return nil, nil, err
	}
	replica := &tarnv1.Replica{
		Id:                  req.GetId(),
		ShareId:             share.GetId(),
		ProjectId:           share.GetProjectId(),
		Status:              tarnv1.Status_STATUS_CREATING,
		ReplicaState:        tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC,
		Metadata:            req.GetMetadata(),
		CastRulesToReadonly: share.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_READABLE,
		ManagedFrom:         req.GetFromDataset(),
	}
	cmd := &raftv1.Command{Verb: &raftv1.Command_CreateReplica{CreateReplica: &raftv1.CreateReplica{
		Replica: replica, SnapshotInstanceIds: instanceIDs(v, share.GetId()),
	}}}
	return cmd, &schedule.Request{
		SizeGiB:          max(share.GetSizeGib(), share.GetPendingSizeGib()),
		ShareProto:       share.GetShareProto(),
		ExtraSpecs:       share.GetExtraSpecs(),
		ReplicationType:  share.GetReplicationType(),
		AvailabilityZone: req.GetAvailabilityZone(),
		OnlyHost:         onlyHost,
		InPlace:          req.GetFromDataset() != "",
		Active:           &schedule.PoolRef{HostID: active.GetHostId(), Pool: active.GetPool()},
		Existing:         existing(siblings),
	}, nil
}

// activeOf returns the replica that a new one would follow.
func activeOf(share *tarnv1.Share, siblings []*tarnv1.Replica) (*tarnv1.Replica, error) {
	if share.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		return nil, refused("share_id", "the share's type has no replication_type, it cannot have replicas")
	}
	for _, r := range siblings {
		if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE && r.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
			return r, nil
		}
	}
	return nil, refused("share_id", "the share has no active replica that is available; wait for it, or repair it first")
}

func existing(siblings []*tarnv1.Replica) []schedule.Existing {
	out := make([]schedule.Existing, 0, len(siblings))
	for _, r := range siblings {
		out = append(out, schedule.Existing{HostID: r.GetHostId(), Pool: r.GetPool(), Zone: r.GetAvailabilityZone()})
	}
	return out
}

// instanceIDs mints the id that each existing snapshot will have on a new replica.
func instanceIDs(v *raftfsm.View, shareID string) map[string]string {
	ids := map[string]string{}
	for snap := range v.SnapshotsOfShare(shareID) {
		ids[snap.GetId()] = newID()
	}
	return ids
}

func (s *replicas) answer(who caller, r *tarnv1.Replica, err error) (*tarnv1.Replica, error) {
	if err != nil {
		return nil, err
	}
	return s.printReplica(s.State.View(), who, r), nil
}

// GetReplica implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) GetReplica(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Replica, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	r, err := who.replica(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return s.printReplica(v, who, r), nil
}

// ListReplicas implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) ListReplicas(ctx context.Context, req *tarnv1.ListReplicasRequest) (*tarnv1.ListReplicasResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	order := func(r *tarnv1.Replica) cursor { return byTime(r.GetCreatedAt(), r.GetId()) }
	found, next, total := page(replicasIn(v, who, req), replicaFilter(who, req), order,
		window{limit: req.GetLimit(), token: req.GetPageToken()})
	out := &tarnv1.ListReplicasResponse{NextPageToken: next, Total: total}
	for _, r := range found {
		out.Replicas = append(out.Replicas, s.printReplica(v, who, r))
	}
	return out, nil
}

// replicasIn walks the smallest set that holds all that is asked for.
func replicasIn(v *raftfsm.View, who caller, req *tarnv1.ListReplicasRequest) iter.Seq[*tarnv1.Replica] {
	if req.GetShareId() != "" {
		return slices.Values(v.ReplicasOfShare(req.GetShareId()))
	}
	if req.GetAllProjects() {
		return v.Replicas()
	}
	return func(yield func(*tarnv1.Replica) bool) {
		for share := range v.SharesOfProject(who.project) {
			for _, r := range v.ReplicasOfShare(share.GetId()) {
				if !yield(r) {
					return
				}
			}
		}
	}
}

func replicaFilter(who caller, req *tarnv1.ListReplicasRequest) func(*tarnv1.Replica) bool {
	return func(r *tarnv1.Replica) bool {
		return who.mayWrite(r.GetProjectId()) &&
			(req.GetHost() == "" || onHost(r, req.GetHost())) &&
			(req.GetReplicaState() == 0 || req.GetReplicaState() == r.GetReplicaState()) &&
			(req.GetStatus() == 0 || req.GetStatus() == r.GetStatus()) &&
			matches(req.GetAvailabilityZone(), r.GetAvailabilityZone())
	}
}

// onHost compares with the host's id, its name, or the full name of the pool.
func onHost(r *tarnv1.Replica, host string) bool {
	return host == r.GetHostId() || host == r.GetHost() || host == hostPart(r.GetHost())
}

// verb proposes a command about one replica that the caller may change.
func (s *replicas) verb(ctx context.Context, id string, cmd *raftv1.Command) (*tarnv1.Replica, error) {
	who := callerFrom(ctx)
	r, err := record[*tarnv1.Replica](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		_, err := who.replica(v, id)
		return cmd, err
	}))
	return s.answer(who, r, err)
}

// ResyncReplica implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) ResyncReplica(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Replica, error) {
	return s.verb(ctx, req.GetId(), &raftv1.Command{Verb: &raftv1.Command_ResyncReplica{
		ResyncReplica: &raftv1.ResyncReplica{Id: req.GetId()},
	}})
}

// ResetReplicaStatus implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) ResetReplicaStatus(ctx context.Context, req *tarnv1.ResetStatusRequest) (*tarnv1.Replica, error) {
	who := callerFrom(ctx)
	r, err := record[*tarnv1.Replica](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		r, err := who.replica(v, req.GetId())
		if err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_ResetReplicaStatus{
			ResetReplicaStatus: &raftv1.ResetReplicaStatus{Id: req.GetId(), Status: req.GetStatus()},
		}}, keepsData(r.GetStatus(), req.GetStatus())
	}))
	return s.answer(who, r, err)
}

// keepsData refuses to write a status by hand for which a host destroys what it has: a
// replica whose deletion failed is being deleted, and one that was not to be deleted never
// becomes that by a correction.
func keepsData(from, to tarnv1.Status) error {
	if to != tarnv1.Status_STATUS_ERROR_DELETING || from == tarnv1.Status_STATUS_DELETING || from == tarnv1.Status_STATUS_ERROR_DELETING {
		return nil
	}
	return refused("status", "cannot be reset to error_deleting: its host would destroy the data; that is for what is being deleted, so delete it instead")
}

// ResetReplicaState implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) ResetReplicaState(ctx context.Context, req *tarnv1.ResetReplicaStateRequest) (*tarnv1.Replica, error) {
	return s.verb(ctx, req.GetId(), &raftv1.Command{Verb: &raftv1.Command_ResetReplicaState{
		ResetReplicaState: &raftv1.ResetReplicaState{Id: req.GetId(), ReplicaState: req.GetReplicaState()},
	}})
}

// SetReplicaMetadata implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) SetReplicaMetadata(ctx context.Context, req *tarnv1.SetMetadataRequest) (*tarnv1.Replica, error) {
	return s.verb(ctx, req.GetId(), &raftv1.Command{Verb: &raftv1.Command_UpdateReplicaMetadata{
		UpdateReplicaMetadata: &raftv1.UpdateReplicaMetadata{
			Id: req.GetId(), SetMetadata: req.GetMetadata(), ReplaceMetadata: req.GetReplace(),
		},
	}})
}

// UnsetReplicaMetadata implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) UnsetReplicaMetadata(ctx context.Context, req *tarnv1.UnsetMetadataRequest) (*tarnv1.Replica, error) {
	return s.verb(ctx, req.GetId(), &raftv1.Command{Verb: &raftv1.Command_UpdateReplicaMetadata{
		UpdateReplicaMetadata: &raftv1.UpdateReplicaMetadata{Id: req.GetId(), UnsetMetadata: req.GetKeys()},
	}})
}

// DeleteReplica implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) DeleteReplica(ctx context.Context, req *tarnv1.DeleteReplicaRequest) (*tarnv1.Empty, error) {
	who := callerFrom(ctx)
	return done(s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if _, err := who.replica(v, req.GetId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_DeleteReplica{DeleteReplica: &raftv1.DeleteReplica{
			Id: req.GetId(), ExpectedRevision: req.GetRevision(), Force: req.GetForce(),
		}}}, nil
	}))
}

// ListReplicaExportLocations implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) ListReplicaExportLocations(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.ListExportLocationsResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	r, err := who.replica(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return &tarnv1.ListExportLocationsResponse{ExportLocations: visibleLocations(who, v.ProjectReplica(r).GetExportLocations())}, nil
}
