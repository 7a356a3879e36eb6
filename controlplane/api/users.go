package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/identity"
	"tarn/controlplane/policy"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

const (
	authorizationHeader = "Authorization"
	bearer              = "Bearer "
	defaultUserLife     = 30 * 24 * time.Hour
)

var (
	errRevoked       = errors.New("this identity was revoked")
	errUserToken     = errors.New("user token refused: it is wrong, expired or revoked")
	errTwoIdentities = errors.New("a request has either a client certificate or a user token")
)

// fixedPolicy never changes.
type fixedPolicy struct{ policy *policy.Policy }

// Policy implements Policies.
func (p fixedPolicy) Policy() *policy.Policy { return p.policy }

// byToken names the caller by the user token in the header; without one, nobody.
func byToken(v *raftfsm.View, who caller, header http.Header, now time.Time) (caller, error) {
	text := header.Get(authorizationHeader)
	if text == "" {
		return who, nil
	}
	secret, ok := strings.CutPrefix(text, bearer)
	if !ok || len(header.Values(authorizationHeader)) != 1 {
		return who, errUserToken
	}
	token, err := identity.ParseUserToken(secret)
	if err != nil {
		return who, errUserToken
	}
	u, ok := v.UserByToken(token.Hash())
	if !ok || u.GetRevokedAt() != nil || !now.Before(u.GetExpiresAt().AsTime()) {
		return who, errUserToken
	}
	who.name = u.GetName()
	who.identity = identity.Identity{Cluster: token.Cluster, Role: identity.RoleClient, ID: u.GetId(), Project: u.GetProjectId(), ProjectRole: u.GetRole()}
	switch u.GetRole() {
	case policy.RoleOperator:
		who.identity.Role, who.identity.ProjectRole = identity.RoleOperator, ""
	case policy.RoleMember, policy.RoleReader:
	default:
		return who, errUserToken
	}
	who.grant = grantOf(who.identity)
	return who, nil
}

// CreateUser implements tarnv1connect.OperatorServiceHandler. The log keeps the token's
// hash, never the token.
func (s *operators) CreateUser(ctx context.Context, req *tarnv1.CreateUserRequest) (*tarnv1.CreateUserResponse, error) {
	if s.Authority.CAHash == "" {
		return nil, refused("", "this node does not know its authority; ask another")
	}
	life := req.GetTtl().AsDuration()
	if life == 0 {
		life = defaultUserLife
	}
	token, err := identity.NewUserToken(s.ClusterID, s.Authority.CAHash)
	if err != nil {
		return nil, err
	}
	u, err := record[*tarnv1.User](s.propose(ctx, &raftv1.Command{Verb: &raftv1.Command_PutUser{PutUser: &raftv1.PutUser{
		User: &tarnv1.User{
			Id: idOr(req.GetId()), Name: req.GetName(), ProjectId: req.GetProjectId(), Role: req.GetRole(),
			ExpiresAt: timestamppb.New(time.Now().Add(life)), CreatedBy: callerFrom(ctx).actor(),
		},
		TokenHash: token.Hash(),
	}}}))
	if err != nil {
		return nil, err
	}
	return &tarnv1.CreateUserResponse{User: u, Token: token.Reveal()}, nil
}

// ListUsers implements tarnv1connect.OperatorServiceHandler.
func (s *operators) ListUsers(ctx context.Context, req *tarnv1.ListUsersRequest) (*tarnv1.ListUsersResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	out := &tarnv1.ListUsersResponse{}
	for u := range v.Users() {
		if matches(req.GetProjectId(), u.GetProjectId()) {
			out.Users = append(out.Users, u)
		}
	}
	return out, nil
}

// RevokeUser implements tarnv1connect.OperatorServiceHandler. An id that no user has is
// a certificate's: its holder is refused from now on, and its renewal too.
func (s *operators) RevokeUser(ctx context.Context, req *tarnv1.RevokeUserRequest) (*tarnv1.User, error) {
	who := callerFrom(ctx)
	return record[*tarnv1.User](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		id := req.GetUser()
		if u, ok := v.UserNamed(id); ok {
			id = u.GetId()
		} else if _, known := v.User(id); !known && !isUUID(id) {
			return nil, notFound("user", id)
		}
		if id == who.identity.ID {
			return nil, refused("user", "is your own; another operator has to revoke it")
		}
		return &raftv1.Command{Verb: &raftv1.Command_RevokeUser{RevokeUser: &raftv1.RevokeUser{
			Id: id, Reason: req.GetReason(), By: who.actor(),
		}}}, nil
	}))
}
