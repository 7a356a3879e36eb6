package api

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/schedule"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// ManageSharePreview implements tarnv1connect.ShareServiceHandler. What the control
// plane would refuse is refused; what the dataset's host would is an answer.
func (s *shares) ManageSharePreview(ctx context.Context, req *tarnv1.ManageSharePreviewRequest) (*tarnv1.ManagePreview, error) {
	v, err := s.read(ctx, tarnv1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	m := req.GetShare()
	cmd, wanted, err := planManaged(v, callerFrom(ctx), m)
	if err != nil {
		return nil, err
	}
	out, err := s.foresee(ctx, v, cmd.GetCreateShare().GetReplica(), wanted, &tarnv1.ManageQuestion{
		Dataset: m.GetDataset(), SizeGib: m.GetSizeGib(), Encrypted: schedule.Encrypted(wanted.ExtraSpecs),
	}, req.GetMaxWait())
	return out, err
}

// ManageReplicaPreview implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) ManageReplicaPreview(ctx context.Context, req *tarnv1.ManageReplicaPreviewRequest) (*tarnv1.ManagePreview, error) {
	v, err := s.read(ctx, tarnv1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	cmd, wanted, err := planReplica(v, callerFrom(ctx), &tarnv1.CreateReplicaRequest{
		ShareId: req.GetShareId(), OnlyHost: req.GetOnlyHost(), FromDataset: req.GetFromDataset(),
	})
	if err != nil {
		return nil, err
	}
	question := &tarnv1.ManageQuestion{Dataset: req.GetFromDataset(), Secondary: true, Encrypted: schedule.Encrypted(wanted.ExtraSpecs)}
	out, err := s.foresee(ctx, v, cmd.GetCreateReplica().GetReplica(), wanted, question, req.GetMaxWait())
	if err != nil || out.GetFinding().GetObstacle() != "" {
		return out, err
	}
	share, _ := v.Share(req.GetShareId())
	active, _ := v.Replica(share.GetFencing().GetOwnerReplicaId())
	answer, err := s.inquire(ctx, v, active.GetHostId(), &tarnv1.Inquiry{Question: &tarnv1.Inquiry_Base{
		Base: &tarnv1.BaseQuestion{ReplicaId: active.GetId(), Have: out.GetFinding().GetGuids()},
	}}, req.GetMaxWait())
	if err != nil {
		return nil, refused("share_id", "the active replica's host cannot tell: %s", err)
	}
	out.Base = proto.CloneOf(answer.GetBase())
	if out.GetBase().GetKind() == "unrelated" {
		out.Finding.Obstacle = "the dataset has no snapshot in common with the share's active replica: replicate it first, or create the replica without it"
	}
	return out, nil
}

// foresee checks the place without taking it, and asks the host there.
func (c *core) foresee(ctx context.Context, v *raftfsm.View, r *tarnv1.Replica, wanted *schedule.Request, q *tarnv1.ManageQuestion, wait *durationpb.Duration) (*tarnv1.ManagePreview, error) {
	chosen, err := c.placer.place(wanted)
	c.placer.forget() // nothing is placed
	if err != nil {
		return nil, err
	}
	for other := range v.ReplicasOnHost(chosen.HostID) {
		if other.GetManagedFrom() == r.GetManagedFrom() && other.GetLaunchedAt() == nil {
			return nil, refused("dataset", "is being taken over as replica %s", other.GetId())
		}
	}
	answer, err := c.inquire(ctx, v, chosen.HostID, &tarnv1.Inquiry{Question: &tarnv1.Inquiry_Manage{Manage: q}}, wait)
	if err != nil {
		return nil, refused("host", "cannot tell: %s", err)
	}
	if answer.GetManage() == nil {
		return nil, refused("host", "does not know this question; upgrade its agent")
	}
	return &tarnv1.ManagePreview{Host: chosen.FullName, Dataset: q.GetDataset(), Finding: proto.CloneOf(answer.GetManage())}, nil
}
