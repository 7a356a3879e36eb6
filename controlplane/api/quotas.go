package api

import (
	"context"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// classDefaults is the project_id that reads the limits of projects without own ones.
const classDefaults = "defaults"

// quotas is QuotaService.
type quotas struct{ *core }

// scope settles whose quota is meant. "" in the state is the class default.
func (c caller) quotaProject(wanted string) (string, error) {
	switch {
	case wanted == "":
		return c.project, nil
	case wanted == classDefaults:
		return "", nil
	case !c.isOperator() && wanted != c.project:
		return "", denied("field project_id: only operators see other projects' quotas")
	}
	return wanted, nil
}

// GetQuota implements tarnv1connect.QuotaServiceHandler.
func (s *quotas) GetQuota(ctx context.Context, req *tarnv1.GetQuotaRequest) (*tarnv1.QuotaSet, error) {
	project, err := callerFrom(ctx).quotaProject(req.GetProjectId())
	if err != nil {
		return nil, err
	}
	v, err := s.read(ctx, tarnv1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	return printQuota(v, project, req.GetUserId(), req.GetShareTypeId()), nil
}

func printQuota(v *raftfsm.View, project, user, shareType string) *tarnv1.QuotaSet {
	usage := map[string]int64{}
	if project != "" {
		usage = v.Usage(project, user, shareType)
	}
	out := &tarnv1.QuotaSet{ProjectId: project, UserId: user, ShareTypeId: shareType, Quotas: map[string]*tarnv1.QuotaUsage{}}
	for key, limit := range v.EffectiveQuota(project, user, shareType) {
		out.Quotas[key] = &tarnv1.QuotaUsage{Limit: limit, InUse: usage[key]}
	}
	return out
}

// UpdateQuota implements tarnv1connect.QuotaServiceHandler.
func (s *quotas) UpdateQuota(ctx context.Context, req *tarnv1.QuotaLimits) (*tarnv1.QuotaSet, error) {
	limits := &tarnv1.QuotaLimits{
		ProjectId: req.GetProjectId(), UserId: req.GetUserId(), ShareTypeId: req.GetShareTypeId(),
		Limits: req.GetLimits(), Revision: req.GetRevision(),
	}
	if limits.GetProjectId() == classDefaults {
		limits.ProjectId = ""
	}
	_, err := s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if err := quotaType(v, limits.GetShareTypeId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_PutQuota{PutQuota: &raftv1.PutQuota{Limits: limits}}}, nil
	})
	if err != nil {
		return nil, err
	}
	return printQuota(s.State.View(), limits.GetProjectId(), limits.GetUserId(), limits.GetShareTypeId()), nil
}

func quotaType(v *raftfsm.View, id string) error {
	if id == "" {
		return nil
	}
	if _, ok := v.ShareType(id); !ok {
		return notFound("share type", id)
	}
	return nil
}

// ResetQuota implements tarnv1connect.QuotaServiceHandler.
func (s *quotas) ResetQuota(ctx context.Context, req *tarnv1.GetQuotaRequest) (*tarnv1.Empty, error) {
	project, err := callerFrom(ctx).quotaProject(req.GetProjectId())
	if err != nil {
		return nil, err
	}
	return done(s.change(ctx, func(*raftfsm.View) (*raftv1.Command, error) {
		return &raftv1.Command{Verb: &raftv1.Command_ResetQuota{ResetQuota: &raftv1.ResetQuota{
			ProjectId: project, UserId: req.GetUserId(), ShareTypeId: req.GetShareTypeId(),
		}}}, nil
	}))
}
