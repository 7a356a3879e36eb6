package api

import (
	"context"
	"iter"
	"maps"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// snapshots is SnapshotService.
type snapshots struct{ *core }

// CreateSnapshot implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) CreateSnapshot(ctx context.Context, req *tarnv1.CreateSnapshotRequest) (*tarnv1.Snapshot, error) {
	req.Id = idOr(req.GetId())
	if old, ok := s.State.View().Snapshot(req.GetId()); ok && !s.repetition(ctx) {
		return s.repeated(ctx, old, req)
	}
	return s.create(ctx, req, "")
}

// create takes a snapshot, or takes over the one that the dataset has as from.
func (s *snapshots) create(ctx context.Context, req *tarnv1.CreateSnapshotRequest, from string) (*tarnv1.Snapshot, error) {
	who := callerFrom(ctx)
	snap, err := record[*tarnv1.Snapshot](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		share, err := who.share(v, req.GetShareId())
		if err != nil {
			return nil, err
		}
		if !share.GetSnapshotSupport() {
			return nil, refused("share_id", "the share's type has no snapshot_support")
		}
		verb := newSnapshot(v, who, share, req)
		verb.Snapshot.ManagedFrom = from
		return &raftv1.Command{Verb: &raftv1.Command_CreateSnapshot{CreateSnapshot: verb}}, nil
	}))
	return s.answer(snap, err)
}

func (s *snapshots) repeated(ctx context.Context, old *tarnv1.Snapshot, req *tarnv1.CreateSnapshotRequest) (*tarnv1.Snapshot, error) {
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	same := callerFrom(ctx).mayWrite(old.GetProjectId()) && old.GetShareId() == req.GetShareId() && old.GetName() == req.GetName() &&
		old.GetDescription() == req.GetDescription() && maps.Equal(old.GetMetadata(), req.GetMetadata())
	if !same {
		return nil, taken("snapshot", req.GetId())
	}
	return s.answer(old, nil)
}

func newSnapshot(v *raftfsm.View, who caller, share *tarnv1.Share, req *tarnv1.CreateSnapshotRequest) *raftv1.CreateSnapshot {
	ids := map[string]string{}
	for _, r := range v.ReplicasOfShare(share.GetId()) {
		ids[r.GetId()] = newID()
	}
	return &raftv1.CreateSnapshot{InstanceIds: ids, Snapshot: &tarnv1.Snapshot{
		Id:          req.GetId(),
		ShareId:     share.GetId(),
		ProjectId:   share.GetProjectId(),
		UserId:      who.identity.ID,
		Name:        req.GetName(),
		Description: req.GetDescription(),
		SizeGib:     share.GetSizeGib(),
		ShareProto:  share.GetShareProto(),
		Metadata:    req.GetMetadata(),
	}}
}

func (s *snapshots) answer(snap *tarnv1.Snapshot, err error) (*tarnv1.Snapshot, error) {
	if err != nil {
		return nil, err
	}
	return s.State.View().ProjectSnapshot(snap), nil
}

// GetSnapshot implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) GetSnapshot(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Snapshot, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	snap, err := callerFrom(ctx).snapshot(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return v.ProjectSnapshot(snap), nil
}

// ListSnapshots implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) ListSnapshots(ctx context.Context, req *tarnv1.ListSnapshotsRequest) (*tarnv1.ListSnapshotsResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	order := func(snap *tarnv1.Snapshot) cursor { return byTime(snap.GetCreatedAt(), snap.GetId()) }
	found, next, total := page(snapshotsIn(v, callerFrom(ctx), req), snapshotFilter(v, callerFrom(ctx), req), order,
		window{limit: req.GetLimit(), token: req.GetPageToken()})
	out := &tarnv1.ListSnapshotsResponse{NextPageToken: next, Total: total}
	for _, snap := range found {
		out.Snapshots = append(out.Snapshots, v.ProjectSnapshot(snap))
	}
	return out, nil
}

func snapshotsIn(v *raftfsm.View, who caller, req *tarnv1.ListSnapshotsRequest) iter.Seq[*tarnv1.Snapshot] {
	switch {
	case req.GetShareId() != "":
		return v.SnapshotsOfShare(req.GetShareId())
	case req.GetAllProjects():
		return v.Snapshots()
	}
	return v.SnapshotsOfProject(who.project)
}

func snapshotFilter(v *raftfsm.View, who caller, req *tarnv1.ListSnapshotsRequest) func(*tarnv1.Snapshot) bool {
	return func(snap *tarnv1.Snapshot) bool {
		return who.mayWrite(snap.GetProjectId()) && matches(req.GetName(), snap.GetName()) &&
			(req.GetStatus() == 0 || req.GetStatus() == v.ProjectSnapshot(snap).GetStatus())
	}
}

// verb proposes a command about one snapshot that the caller may change.
func (s *snapshots) verb(ctx context.Context, id string, cmd *raftv1.Command) (*tarnv1.Snapshot, error) {
	who := callerFrom(ctx)
	return s.answer(record[*tarnv1.Snapshot](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		_, err := who.snapshot(v, id)
		return cmd, err
	})))
}

// UpdateSnapshot implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) UpdateSnapshot(ctx context.Context, req *tarnv1.UpdateSnapshotRequest) (*tarnv1.Snapshot, error) {
	return s.verb(ctx, req.GetId(), &raftv1.Command{Verb: &raftv1.Command_UpdateSnapshot{UpdateSnapshot: &raftv1.UpdateSnapshot{
		Id: req.GetId(), ExpectedRevision: req.GetRevision(), Name: req.Name, Description: req.Description,
	}}})
}

// ResetSnapshotStatus implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) ResetSnapshotStatus(ctx context.Context, req *tarnv1.ResetStatusRequest) (*tarnv1.Snapshot, error) {
	return s.verb(ctx, req.GetId(), &raftv1.Command{Verb: &raftv1.Command_ResetSnapshotStatus{
		ResetSnapshotStatus: &raftv1.ResetSnapshotStatus{Id: req.GetId(), Status: req.GetStatus()},
	}})
}

// DeleteSnapshot implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) DeleteSnapshot(ctx context.Context, req *tarnv1.DeleteSnapshotRequest) (*tarnv1.Empty, error) {
	who := callerFrom(ctx)
	return done(s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if _, err := who.snapshot(v, req.GetId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_DeleteSnapshot{DeleteSnapshot: &raftv1.DeleteSnapshot{
			Id: req.GetId(), Force: req.GetForce(),
		}}}, nil
	}))
}

// GetSnapshotInstance implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) GetSnapshotInstance(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.SnapshotInstance, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	instance, ok := v.SnapshotInstance(req.GetId())
	if !ok {
		return nil, notFound("snapshot instance", req.GetId())
	}
	if _, err := who.share(v, instance.GetShareId()); err != nil {
		return nil, notFound("snapshot instance", req.GetId())
	}
	return printInstance(who, instance), nil
}

// ListSnapshotInstances implements tarnv1connect.SnapshotServiceHandler.
func (s *snapshots) ListSnapshotInstances(ctx context.Context, req *tarnv1.ListSnapshotInstancesRequest) (*tarnv1.ListSnapshotInstancesResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	keep := func(i *tarnv1.SnapshotInstance) bool {
		return matches(req.GetSnapshotId(), i.GetSnapshotId()) && matches(req.GetShareId(), i.GetShareId())
	}
	order := func(i *tarnv1.SnapshotInstance) cursor { return byTime(i.GetCreatedAt(), i.GetId()) }
	found, next, _ := page(instancesIn(v, who, req), keep, order, window{limit: req.GetLimit(), token: req.GetPageToken()})
	out := &tarnv1.ListSnapshotInstancesResponse{NextPageToken: next}
	for _, i := range found {
		out.SnapshotInstances = append(out.SnapshotInstances, printInstance(who, i))
	}
	return out, nil
}

// instancesIn walks the instances of one snapshot, of one share, or of the project.
func instancesIn(v *raftfsm.View, who caller, req *tarnv1.ListSnapshotInstancesRequest) iter.Seq[*tarnv1.SnapshotInstance] {
	wanted := v.SnapshotsOfProject(who.project)
	if id := req.GetSnapshotId(); id != "" {
		wanted = func(yield func(*tarnv1.Snapshot) bool) {
			if snap, err := who.snapshot(v, id); err == nil {
				yield(snap)
			}
		}
	} else if id := req.GetShareId(); id != "" {
		wanted = v.SnapshotsOfShare(id)
	}
	return func(yield func(*tarnv1.SnapshotInstance) bool) {
		for snap := range wanted {
			if !who.mayWrite(snap.GetProjectId()) {
				continue
			}
			for i := range v.InstancesOfSnapshot(snap.GetId()) {
				if !yield(i) {
					return
				}
			}
		}
	}
}
