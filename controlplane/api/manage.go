package api

import (
	"context"
	"maps"
	"strings"

	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// ManageShare implements tarnv1connect.ShareServiceHandler.
func (s *shares) ManageShare(ctx context.Context, req *tarnv1.ManageShareRequest) (*tarnv1.Share, error) {
	req.Id = idOr(req.GetId())
	who := callerFrom(ctx)
	if old, ok := s.State.View().Share(req.GetId()); ok {
		return s.managedBefore(ctx, old, req)
	}
	plan := func(v *raftfsm.View) (*raftv1.Command, *schedule.Request, error) { return planManaged(v, who, req) }
	made, err := record[*tarnv1.Share](s.placed(ctx, plan))
	return s.answer(who, made, err)
}

// managedBefore answers a request whose share exists already. A size that was left to
// the dataset is any size.
func (s *shares) managedBefore(ctx context.Context, old *tarnv1.Share, req *tarnv1.ManageShareRequest) (*tarnv1.Share, error) {
	who := callerFrom(ctx)
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	from := false
	for _, r := range s.State.View().ReplicasOfShare(old.GetId()) {
		from = from || r.GetManagedFrom() == req.GetDataset()
	}
	same := from && old.GetProjectId() == who.project && old.GetName() == req.GetName() && old.GetDescription() == req.GetDescription() &&
		(req.GetSizeGib() == 0 || req.GetSizeGib() == old.GetSizeGib()) &&
		old.GetIsPublic() == req.GetIsPublic() && maps.Equal(old.GetMetadata(), req.GetMetadata())
	if ref := req.GetShareType(); ref != "" {
		same = same && (ref == old.GetShareTypeId() || ref == old.GetShareTypeName())
	}
	if !same {
		return nil, taken("share", req.GetId())
	}
	return s.answer(who, old, nil)
}

// planManaged says what share a dataset becomes. Its place is where it is: the type's
// filters are asked all the same, but for the room that the data have already.
func planManaged(v *raftfsm.View, who caller, req *tarnv1.ManageShareRequest) (*raftv1.Command, *schedule.Request, error) {
	create := &tarnv1.CreateShareRequest{
		Id: req.GetId(), Name: req.GetName(), Description: req.GetDescription(), SizeGib: req.GetSizeGib(),
		ShareType: req.GetShareType(), Metadata: req.GetMetadata(), IsPublic: req.GetIsPublic(),
	}
	place, err := placeOf(v, "host", req.GetHost(), req.GetDataset())
	if err != nil {
		return nil, nil, err
	}
	kind, err := typeOfShare(v, who, create, nil)
	if err != nil {
		return nil, nil, err
	}
	specs, err := schedule.ParseSpecs(kind.GetExtraSpecs())
	if err != nil {
		return nil, nil, err
	}
	if req.GetSizeGib() > 0 {
		if err := fitsSpecs(specs, create, nil); err != nil {
			return nil, nil, err
		}
	}
	share := newShare(who, create, kind, specs)
	replica := firstReplica(share)
	replica.Status, replica.ManagedFrom = tarnv1.Status_STATUS_MANAGE_STARTING, req.GetDataset()
	cmd := &raftv1.Command{Verb: &raftv1.Command_CreateShare{CreateShare: &raftv1.CreateShare{Share: share, Replica: replica}}}
	return cmd, &schedule.Request{
		ShareProto: share.GetShareProto(), ExtraSpecs: share.GetExtraSpecs(), ReplicationType: share.GetReplicationType(),
		OnlyHost: place, InPlace: true,
	}, nil
}

// placeOf is host@backend#pool of the host that ref names and the pool that dataset is
// on; without a dataset it is ref.
func placeOf(v *raftfsm.View, field, ref, dataset string) (string, error) {
	if dataset == "" {
		return ref, nil
	}
	pool, _, _ := strings.Cut(dataset, "/")
	name, named, _ := strings.Cut(ref, "#")
	if named != "" && named != pool {
		return "", invalid(field, "names pool %q, but dataset %s is on pool %q", named, dataset, pool)
	}
	name, backend, _ := strings.Cut(name, "@")
	h, err := hostByRef(v, name)
	if err != nil {
		return "", err
	}
	if backend != "" && backend != h.GetBackend() {
		return "", invalid(field, "names backend %q, host %s has %q", backend, h.GetName(), h.GetBackend())
	}
	var pools []string
	for _, p := range h.GetPools() {
		if p.GetName() == pool {
			return schedule.PoolName(h.GetName(), h.GetBackend(), pool), nil
		}
		pools = append(pools, p.GetName())
	}
	return "", refused(field, "the agent of host %s does not use pool %q; it uses %s: add the pool to its configuration, or name another host",
		h.GetName(), pool, strings.Join(pools, ", "))
}

// UnmanageShare implements tarnv1connect.ShareServiceHandler.
func (s *shares) UnmanageShare(ctx context.Context, req *tarnv1.UnmanageShareRequest) (*tarnv1.Share, error) {
	who := callerFrom(ctx)
	share, err := record[*tarnv1.Share](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if _, err := who.share(v, req.GetId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_UnmanageShare{UnmanageShare: &raftv1.UnmanageShare{
			Id: req.GetId(), ExpectedRevision: req.GetRevision(),
		}}}, nil
	}))
	return s.answer(who, share, err)
}

// UnmanageReplica implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) UnmanageReplica(ctx context.Context, req *tarnv1.UnmanageReplicaRequest) (*tarnv1.Replica, error) {
	return s.verb(ctx, req.GetId(), &raftv1.Command{Verb: &raftv1.Command_UnmanageReplica{UnmanageReplica: &raftv1.UnmanageReplica{
		Id: req.GetId(), ExpectedRevision: req.GetRevision(),
	}}})
}

// ManageSnapshot implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) ManageSnapshot(ctx context.Context, req *tarnv1.ManageSnapshotRequest) (*tarnv1.Snapshot, error) {
	create := &tarnv1.CreateSnapshotRequest{
		Id: idOr(req.GetId()), ShareId: req.GetShareId(), Name: req.GetName(), Description: req.GetDescription(), Metadata: req.GetMetadata(),
	}
	from := req.GetProviderLocation()
	from = from[strings.LastIndexByte(from, '@')+1:]
	if old, ok := s.State.View().Snapshot(create.GetId()); ok && old.GetManagedFrom() == from {
		return s.repeated(ctx, old, create)
	}
	return s.create(ctx, create, from)
}

// UnmanageSnapshot implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) UnmanageSnapshot(ctx context.Context, req *tarnv1.UnmanageSnapshotRequest) (*tarnv1.Snapshot, error) {
	return s.verb(ctx, req.GetId(), &raftv1.Command{Verb: &raftv1.Command_UnmanageSnapshot{UnmanageSnapshot: &raftv1.UnmanageSnapshot{
		Id: req.GetId(), ExpectedRevision: req.GetRevision(),
	}}})
}
