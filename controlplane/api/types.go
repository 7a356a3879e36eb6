package api

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// shareTypes is ShareTypeService.
type shareTypes struct{ *core }

// CreateShareType implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) CreateShareType(ctx context.Context, req *tarnv1.CreateShareTypeRequest) (*tarnv1.ShareType, error) {
	if bad := schedule.ValidateExtraSpecs(req.GetExtraSpecs()); len(bad) > 0 {
		return nil, &invalidError{bad}
	}
	kind := &tarnv1.ShareType{
		Id: idOr(req.GetId()), Name: req.GetName(), Description: req.GetDescription(),
		ExtraSpecs: req.GetExtraSpecs(), IsPublic: req.IsPublic == nil || req.GetIsPublic(),
	}
	return record[*tarnv1.ShareType](s.change(ctx, func(*raftfsm.View) (*raftv1.Command, error) {
		return putType(kind, 0), nil
	}))
}

func putType(t *tarnv1.ShareType, expected uint64) *raftv1.Command {
	return &raftv1.Command{Verb: &raftv1.Command_PutShareType{PutShareType: &raftv1.PutShareType{
		ShareType: t, ExpectedRevision: expected,
	}}}
}

// edit changes a copy of a type and replaces the stored one if nobody else did
// meanwhile. revision 0 takes whatever is there.
func (s *shareTypes) edit(ctx context.Context, ref string, revision uint64, f func(*tarnv1.ShareType) error) (*tarnv1.ShareType, error) {
	who := callerFrom(ctx)
	return record[*tarnv1.ShareType](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		stored, err := who.shareType(v, ref)
		if err != nil {
			return nil, err
		}
		if revision == 0 {
			revision = stored.GetRevision()
		}
		next := proto.CloneOf(stored)
		if err := f(next); err != nil {
			return nil, err
		}
		return putType(next, revision), nil
	}))
}

// UpdateShareType implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) UpdateShareType(ctx context.Context, req *tarnv1.UpdateShareTypeRequest) (*tarnv1.ShareType, error) {
	return s.edit(ctx, req.GetId(), req.GetRevision(), func(t *tarnv1.ShareType) error {
		if req.Name != nil {
			t.Name = req.GetName()
		}
		if req.Description != nil {
			t.Description = req.GetDescription()
		}
		if req.IsPublic != nil {
			t.IsPublic = req.GetIsPublic()
		}
		if req.IsDefault != nil {
			t.IsDefault = req.GetIsDefault()
		}
		return nil
	})
}

// SetExtraSpecs implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) SetExtraSpecs(ctx context.Context, req *tarnv1.SetExtraSpecsRequest) (*tarnv1.ShareType, error) {
	return s.edit(ctx, req.GetId(), 0, func(t *tarnv1.ShareType) error {
		if t.ExtraSpecs == nil {
			t.ExtraSpecs = map[string]string{}
		}
		maps.Copy(t.ExtraSpecs, req.GetExtraSpecs())
		return goodSpecs(t)
	})
}

// UnsetExtraSpecs implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) UnsetExtraSpecs(ctx context.Context, req *tarnv1.UnsetExtraSpecsRequest) (*tarnv1.ShareType, error) {
	return s.edit(ctx, req.GetId(), 0, func(t *tarnv1.ShareType) error {
		for _, k := range req.GetKeys() {
			if _, ok := t.GetExtraSpecs()[k]; !ok {
				return notFound("extra spec", k)
			}
			delete(t.ExtraSpecs, k)
		}
		return goodSpecs(t)
	})
}

func goodSpecs(t *tarnv1.ShareType) error {
	if bad := schedule.ValidateExtraSpecs(t.GetExtraSpecs()); len(bad) > 0 {
		return &invalidError{bad}
	}
	return nil
}

// AddProjectAccess implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) AddProjectAccess(ctx context.Context, req *tarnv1.ProjectAccessRequest) (*tarnv1.ShareType, error) {
	return s.edit(ctx, req.GetId(), 0, func(t *tarnv1.ShareType) error {
		if t.GetIsPublic() {
			return refused("id", "the share type is public, every project has access")
		}
		if !slices.Contains(t.GetProjectAccess(), req.GetProjectId()) {
			t.ProjectAccess = append(t.ProjectAccess, req.GetProjectId())
			slices.Sort(t.ProjectAccess)
		}
		return nil
	})
}

// RemoveProjectAccess implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) RemoveProjectAccess(ctx context.Context, req *tarnv1.ProjectAccessRequest) (*tarnv1.ShareType, error) {
	return s.edit(ctx, req.GetId(), 0, func(t *tarnv1.ShareType) error {
		i := slices.Index(t.GetProjectAccess(), req.GetProjectId())
		if i < 0 {
			return notFound("access of project", req.GetProjectId())
		}
		t.ProjectAccess = slices.Delete(t.ProjectAccess, i, i+1)
		return nil
	})
}

// DeleteShareType implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) DeleteShareType(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Empty, error) {
	who := callerFrom(ctx)
	return done(s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		t, err := who.shareType(v, req.GetId())
		if err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_DeleteShareType{DeleteShareType: &raftv1.DeleteShareType{Id: t.GetId()}}}, nil
	}))
}

// GetShareType implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) GetShareType(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.ShareType, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	t, err := who.shareType(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return printType(who, t), nil
}

// ListShareTypes implements tarnv1connect.ShareTypeServiceHandler.
func (s *shareTypes) ListShareTypes(ctx context.Context, req *tarnv1.ListShareTypesRequest) (*tarnv1.ListShareTypesResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	keep := func(t *tarnv1.ShareType) bool { return who.mayUse(t) && matches(req.GetName(), t.GetName()) }
	order := func(t *tarnv1.ShareType) cursor { return byTime(t.GetCreatedAt(), t.GetId()) }
	found, next, _ := page(v.ShareTypes(), keep, order, window{limit: req.GetLimit(), token: req.GetPageToken()})
	out := &tarnv1.ListShareTypesResponse{NextPageToken: next}
	for _, t := range found {
		out.ShareTypes = append(out.ShareTypes, printType(who, t))
	}
	return out, nil
}

// printType keeps the names of other projects from a project.
func printType(who caller, t *tarnv1.ShareType) *tarnv1.ShareType {
	if who.isOperator() || len(t.GetProjectAccess()) == 0 {
		return t
	}
	out := proto.CloneOf(t)
	out.ProjectAccess = []string{who.project}
	return out
}
