package api

import (
	"context"
	"maps"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// accessRules is AccessRuleService.
type accessRules struct{ *core }

// AllowAccess implements tarnv1connect.AccessRuleServiceHandler.
func (s *accessRules) AllowAccess(ctx context.Context, req *tarnv1.AllowAccessRequest) (*tarnv1.AccessRule, error) {
	wanted := newRule(req)
	if old, ok := s.State.View().AccessRule(wanted.GetId()); ok && !s.repetition(ctx) {
		return s.repeated(ctx, old, wanted)
	}
	who := callerFrom(ctx)
	return s.answer(record[*tarnv1.AccessRule](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		share, err := who.share(v, req.GetShareId())
		if err != nil {
			return nil, err
		}
		wanted.ProjectId = share.GetProjectId()
		return &raftv1.Command{Verb: &raftv1.Command_AllowAccess{AllowAccess: &raftv1.AllowAccess{AccessRule: wanted}}}, nil
	})))
}

func newRule(req *tarnv1.AllowAccessRequest) *tarnv1.AccessRule {
	// Validation has made sure that there is a canonical form.
	to, _ := canonicalClient(req.GetAccessTo())
	level := req.GetAccessLevel()
	if level == tarnv1.AccessLevel_ACCESS_LEVEL_UNSPECIFIED {
		level = tarnv1.AccessLevel_ACCESS_LEVEL_RW
	}
	return &tarnv1.AccessRule{
		Id: idOr(req.GetId()), ShareId: req.GetShareId(), AccessType: accessIP,
		AccessTo: to, AccessLevel: level, Metadata: req.GetMetadata(),
	}
}

func (s *accessRules) repeated(ctx context.Context, old, wanted *tarnv1.AccessRule) (*tarnv1.AccessRule, error) {
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	same := callerFrom(ctx).mayWrite(old.GetProjectId()) && !old.GetDenied() && old.GetShareId() == wanted.GetShareId() &&
		old.GetAccessTo() == wanted.GetAccessTo() && maps.Equal(old.GetMetadata(), wanted.GetMetadata()) &&
		(old.GetLevelChanged() || old.GetAccessLevel() == wanted.GetAccessLevel())
	if !same {
		return nil, taken("access rule", wanted.GetId())
	}
	return s.answer(old, nil)
}

func (s *accessRules) answer(r *tarnv1.AccessRule, err error) (*tarnv1.AccessRule, error) {
	if err != nil {
		return nil, err
	}
	return s.State.View().ProjectRule(r), nil
}

// GetAccessRule implements tarnv1connect.AccessRuleServiceHandler.
func (s *accessRules) GetAccessRule(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.AccessRule, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	r, err := callerFrom(ctx).accessRule(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return v.ProjectRule(r), nil
}

// ListAccessRules implements tarnv1connect.AccessRuleServiceHandler.
func (s *accessRules) ListAccessRules(ctx context.Context, req *tarnv1.ListAccessRulesRequest) (*tarnv1.ListAccessRulesResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	share, err := callerFrom(ctx).share(v, req.GetShareId())
	if err != nil {
		return nil, err
	}
	out := &tarnv1.ListAccessRulesResponse{}
	for r := range v.AccessRulesOfShare(share.GetId()) {
		out.AccessRules = append(out.AccessRules, v.ProjectRule(r))
	}
	return out, nil
}

// UpdateAccessRule implements tarnv1connect.AccessRuleServiceHandler.
func (s *accessRules) UpdateAccessRule(ctx context.Context, req *tarnv1.UpdateAccessRuleRequest) (*tarnv1.AccessRule, error) {
	who := callerFrom(ctx)
	return s.answer(record[*tarnv1.AccessRule](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if _, err := who.accessRule(v, req.GetId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_UpdateAccess{UpdateAccess: &raftv1.UpdateAccess{
			Id: req.GetId(), AccessLevel: req.GetAccessLevel(),
		}}}, nil
	})))
}

// DenyAccess implements tarnv1connect.AccessRuleServiceHandler.
func (s *accessRules) DenyAccess(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Empty, error) {
	who := callerFrom(ctx)
	return done(s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if _, err := who.accessRule(v, req.GetId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_DenyAccess{DenyAccess: &raftv1.DenyAccess{Id: req.GetId()}}}, nil
	}))
}
