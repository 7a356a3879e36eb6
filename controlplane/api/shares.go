package api

import (
	"context"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// shares is ShareService.
type shares struct{ *core }

// CreateShare implements tarnv1connect.ShareServiceHandler.
func (s *shares) CreateShare(ctx context.Context, req *tarnv1.CreateShareRequest) (*tarnv1.Share, error) {
	req.Id = idOr(req.GetId())
	who := callerFrom(ctx)
	if old, ok := s.State.View().Share(req.GetId()); ok && !s.repetition(ctx) {
		return s.repeated(ctx, old, req)
	}
	plan := func(v *raftfsm.View) (*raftv1.Command, *schedule.Request, error) { return planShare(v, who, req) }
	made, err := record[*tarnv1.Share](s.placed(ctx, plan))
	return s.answer(who, made, err)
}

// repeated answers a request whose share exists already: the repetition of one
// that succeeded, or a collision of ids.
func (s *shares) repeated(ctx context.Context, old *tarnv1.Share, req *tarnv1.CreateShareRequest) (*tarnv1.Share, error) {
	who := callerFrom(ctx)
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	same := old.GetProjectId() == who.project && old.GetName() == req.GetName() && old.GetDescription() == req.GetDescription() &&
		old.GetSizeGib() == req.GetSizeGib() && old.GetSnapshotId() == req.GetSnapshotId() &&
		old.GetIsPublic() == req.GetIsPublic() && maps.Equal(old.GetMetadata(), req.GetMetadata())
	if ref := req.GetShareType(); ref != "" {
		same = same && (ref == old.GetShareTypeId() || ref == old.GetShareTypeName())
	}
	if !same {
		return nil, taken("share", req.GetId())
	}
	return s.answer(who, old, nil)
}

// planShare resolves what the request names and says where the share may go.
func planShare(v *raftfsm.View, who caller, req *tarnv1.CreateShareRequest) (*raftv1.Command, *schedule.Request, error) {
	origin, err := shareOrigin(v, who, req)
	if err != nil {
		return nil, nil, err
	}
	kind, err := typeOfShare(v, who, req, origin)
	if err != nil {
		return nil, nil, err
	}
	specs, err := schedule.ParseSpecs(kind.GetExtraSpecs())
	if err != nil {
		return nil, nil, err
	}
	if err := fitsSpecs(specs, req, origin); err != nil {
		return nil, nil, err
	}
	share := newShare(who, req, kind, specs)
	cmd := &raftv1.Command{Verb: &raftv1.Command_CreateShare{CreateShare: &raftv1.CreateShare{
		Share: share, Replica: firstReplica(share),
	}}}
	return cmd, &schedule.Request{
		SizeGiB:          share.GetSizeGib(),
		ShareProto:       share.GetShareProto(),
		ExtraSpecs:       share.GetExtraSpecs(),
		ReplicationType:  share.GetReplicationType(),
		AvailabilityZone: req.GetAvailabilityZone(),
		OnlyHost:         req.GetOnlyHost(),
		SnapshotPools:    poolsWithSnapshot(v, origin),
	}, nil
}

func shareOrigin(v *raftfsm.View, who caller, req *tarnv1.CreateShareRequest) (*tarnv1.Snapshot, error) {
	if req.GetSnapshotId() == "" {
		return nil, nil
	}
	snap, err := who.snapshot(v, req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	if status := v.ProjectSnapshot(snap).GetStatus(); status != tarnv1.Status_STATUS_AVAILABLE {
		return nil, refused("snapshot_id", "snapshot is %s, it must be available", status)
	}
	return snap, nil
}

// typeOfShare finds the named type, that of the snapshot's share, or the default.
func typeOfShare(v *raftfsm.View, who caller, req *tarnv1.CreateShareRequest, origin *tarnv1.Snapshot) (*tarnv1.ShareType, error) {
	if req.GetShareType() != "" {
		return who.shareType(v, req.GetShareType())
	}
	if origin != nil {
		if parent, ok := v.Share(origin.GetShareId()); ok {
			return who.shareType(v, parent.GetShareTypeId())
		}
	}
	for t := range v.ShareTypes() {
		if t.GetIsDefault() {
			return t, nil
		}
	}
	return nil, invalid("share_type", "is required: no type is the default")
}

// fitsSpecs checks what the type allows of a share's size and origin.
func fitsSpecs(specs schedule.Specs, req *tarnv1.CreateShareRequest, origin *tarnv1.Snapshot) error {
	size := req.GetSizeGib()
	switch {
	case specs.MinShareSizeGiB > 0 && size < specs.MinShareSizeGiB:
		return invalid("size_gib", "is %d, the share type allows %d or more", size, specs.MinShareSizeGiB)
	case specs.MaxShareSizeGiB > 0 && size > specs.MaxShareSizeGiB:
		return invalid("size_gib", "is %d, the share type allows %d or less", size, specs.MaxShareSizeGiB)
	case origin != nil && !specs.CreateShareFromSnapshotSupport:
		return refused("snapshot_id", "the share type does not have create_share_from_snapshot_support")
	case origin != nil && size < origin.GetSizeGib():
		return invalid("size_gib", "is %d, the snapshot needs %d or more", size, origin.GetSizeGib())
	}
	return nil
}

func newShare(who caller, req *tarnv1.CreateShareRequest, kind *tarnv1.ShareType, specs schedule.Specs) *tarnv1.Share {
	return &tarnv1.Share{
		Id:                             req.GetId(),
		ProjectId:                      who.project,
		UserId:                         who.identity.ID,
		Name:                           req.GetName(),
		Description:                    req.GetDescription(),
		SizeGib:                        req.GetSizeGib(),
		ShareProto:                     protoNFS,
		ShareTypeId:                    kind.GetId(),
		ShareTypeName:                  kind.GetName(),
		ReplicationType:                specs.ReplicationType,
		SnapshotId:                     req.GetSnapshotId(),
		Metadata:                       req.GetMetadata(),
		IsPublic:                       req.GetIsPublic(),
		SnapshotSupport:                specs.SnapshotSupport,
		CreateShareFromSnapshotSupport: specs.CreateShareFromSnapshotSupport,
		RevertToSnapshotSupport:        specs.RevertToSnapshotSupport,
		Rpo:                            durationpb.New(specs.RPO),
		ExtraSpecs:                     kind.GetExtraSpecs(),
	}
}

func firstReplica(s *tarnv1.Share) *tarnv1.Replica {
	r := &tarnv1.Replica{
		Id:        newID(),
		ShareId:   s.GetId(),
		ProjectId: s.GetProjectId(),
		Status:    tarnv1.Status_STATUS_CREATING,
	}
	if s.GetSnapshotId() != "" {
		r.Status = tarnv1.Status_STATUS_CREATING_FROM_SNAPSHOT
	}
	if s.GetReplicationType() != tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		r.ReplicaState = tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
	}
	return r
}

// poolsWithSnapshot lists where a new share can be cloned in place.
func poolsWithSnapshot(v *raftfsm.View, origin *tarnv1.Snapshot) []schedule.PoolRef {
	if origin == nil {
		return nil
	}
	var pools []schedule.PoolRef
	for instance := range v.InstancesOfSnapshot(origin.GetId()) {
		if instance.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
			continue
		}
		if r, ok := v.Replica(instance.GetReplicaId()); ok {
			pools = append(pools, schedule.PoolRef{HostID: r.GetHostId(), Pool: r.GetPool()})
		}
	}
	return pools
}

// GetShare implements tarnv1connect.ShareServiceHandler.
func (s *shares) GetShare(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Share, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	share, err := who.readableShare(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return s.printShareAlone(v, who, share), nil
}

// answer prints a share that a command returned.
func (s *shares) answer(who caller, share *tarnv1.Share, err error) (*tarnv1.Share, error) {
	if err != nil {
		return nil, err
	}
	return printShare(s.State.View(), who, share), nil
}

func (s *shares) update(ctx context.Context, id string, verb *raftv1.UpdateShare) (*tarnv1.Share, error) {
	who := callerFrom(ctx)
	share, err := record[*tarnv1.Share](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if _, err := who.share(v, id); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_UpdateShare{UpdateShare: verb}}, nil
	}))
	return s.answer(who, share, err)
}

// UpdateShare implements tarnv1connect.ShareServiceHandler.
func (s *shares) UpdateShare(ctx context.Context, req *tarnv1.UpdateShareRequest) (*tarnv1.Share, error) {
	return s.update(ctx, req.GetId(), &raftv1.UpdateShare{
		Id: req.GetId(), ExpectedRevision: req.GetRevision(),
		Name: req.Name, Description: req.Description, IsPublic: req.IsPublic,
	})
}

// SetShareMetadata implements tarnv1connect.ShareServiceHandler.
func (s *shares) SetShareMetadata(ctx context.Context, req *tarnv1.SetMetadataRequest) (*tarnv1.Share, error) {
	return s.update(ctx, req.GetId(), &raftv1.UpdateShare{
		Id: req.GetId(), SetMetadata: req.GetMetadata(), ReplaceMetadata: req.GetReplace(),
	})
}

// UnsetShareMetadata implements tarnv1connect.ShareServiceHandler.
func (s *shares) UnsetShareMetadata(ctx context.Context, req *tarnv1.UnsetMetadataRequest) (*tarnv1.Share, error) {
	return s.update(ctx, req.GetId(), &raftv1.UpdateShare{Id: req.GetId(), UnsetMetadata: req.GetKeys()})
}

// DeleteShare implements tarnv1connect.ShareServiceHandler.
func (s *shares) DeleteShare(ctx context.Context, req *tarnv1.DeleteShareRequest) (*tarnv1.Empty, error) {
	who := callerFrom(ctx)
	return done(s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if _, err := who.share(v, req.GetId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_DeleteShare{DeleteShare: &raftv1.DeleteShare{
			Id: req.GetId(), ExpectedRevision: req.GetRevision(), Force: req.GetForce(),
		}}}, nil
	}))
}

// ExtendShare implements tarnv1connect.ShareServiceHandler.
func (s *shares) ExtendShare(ctx context.Context, req *tarnv1.ResizeShareRequest) (*tarnv1.Share, error) {
	return s.resize(ctx, req, false)
}

// ShrinkShare implements tarnv1connect.ShareServiceHandler.
func (s *shares) ShrinkShare(ctx context.Context, req *tarnv1.ResizeShareRequest) (*tarnv1.Share, error) {
	return s.resize(ctx, req, true)
}

func (s *shares) resize(ctx context.Context, req *tarnv1.ResizeShareRequest, shrink bool) (*tarnv1.Share, error) {
	who := callerFrom(ctx)
	share, err := record[*tarnv1.Share](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		share, err := who.share(v, req.GetId())
		if err != nil {
			return nil, err
		}
		if err := sizeAllowed(share, req.GetNewSizeGib(), shrink, who); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_ResizeShare{ResizeShare: &raftv1.ResizeShare{
			Id: req.GetId(), NewSizeGib: req.GetNewSizeGib(), Shrink: shrink,
		}}}, nil
	}))
	return s.answer(who, share, err)
}

// sizeAllowed applies the limits of the share's type as of its creation.
func sizeAllowed(share *tarnv1.Share, size int64, shrink bool, who caller) error {
	specs, err := schedule.ParseSpecs(share.GetExtraSpecs())
	if err != nil {
		return err
	}
	limit := specs.MaxShareSizeGiB
	if specs.MaxShareExtendSizeGiB > 0 && !who.isOperator() {
		limit = specs.MaxShareExtendSizeGiB
	}
	switch {
	case shrink && size < specs.MinShareSizeGiB:
		return invalid("new_size_gib", "is %d, the share type allows %d or more", size, specs.MinShareSizeGiB)
	case !shrink && limit > 0 && size > limit:
		return invalid("new_size_gib", "is %d, the share type allows %d or less", size, limit)
	}
	return nil
}

// ResetShareStatus implements tarnv1connect.ShareServiceHandler.
func (s *shares) ResetShareStatus(ctx context.Context, req *tarnv1.ResetStatusRequest) (*tarnv1.Share, error) {
	who := callerFrom(ctx)
	share, err := record[*tarnv1.Share](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		share, err := who.share(v, req.GetId())
		if err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_ResetShareStatus{ResetShareStatus: &raftv1.ResetShareStatus{
			Id: req.GetId(), Status: req.GetStatus(),
		}}}, keepsData(v.ShareStatus(share), req.GetStatus())
	}))
	return s.answer(who, share, err)
}

// ListShareExportLocations implements tarnv1connect.ShareServiceHandler.
func (s *shares) ListShareExportLocations(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.ListExportLocationsResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	share, err := who.readableShare(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return &tarnv1.ListExportLocationsResponse{ExportLocations: visibleLocations(who, v.ProjectShare(share).GetExportLocations())}, nil
}

// placed proposes a command that places a replica, again with another pool if
// the chosen one was taken away meanwhile.
func (c *core) placed(ctx context.Context, plan func(*raftfsm.View) (*raftv1.Command, *schedule.Request, error)) (proto.Message, error) {
	var last schedule.Placement
	var lastErr error
	for range maxPlacings {
		var chosen schedule.Placement
		made, err := c.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
			cmd, wanted, err := plan(v)
			if err != nil {
				return nil, err
			}
			begun := time.Now()
			chosen, err = c.placer.place(wanted)
			c.Placed(time.Since(begun))
			if err != nil {
				return nil, err
			}
			if lastErr != nil && chosen.HostID == last.HostID && chosen.Pool == last.Pool {
				return nil, lastErr
			}
			return cmd, putInto(cmd, chosen)
		})
		if err == nil {
			c.Count("placement", "placed", 1)
			return made, nil
		}
		c.placer.forget()
		if !conflicting(err) || err == lastErr {
			c.Count("placement", "refused", 1)
			return nil, err
		}
		c.Count("placement", "conflict", 1)
		last, lastErr = chosen, err
	}
	return nil, lastErr
}
