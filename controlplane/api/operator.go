package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

const defaultTokenLife = time.Hour

// operators is OperatorService.
type operators struct {
	*core
	backups downloads
}

// ListRaftServers implements tarnv1connect.OperatorServiceHandler, on any node.
func (s *operators) ListRaftServers(context.Context, *tarnv1.ListRaftServersRequest) (*tarnv1.ListRaftServersResponse, error) {
	return s.raftServers()
}

func (s *operators) raftServers() (*tarnv1.ListRaftServersResponse, error) {
	servers, err := s.Cluster.Servers()
	if err != nil {
		return nil, err
	}
	leader, _, _ := s.Cluster.Leader()
	stats := s.Cluster.Stats()
	contact := map[string]time.Duration{}
	for _, f := range stats.FollowersSeen {
		contact[f.ID] = f.Contact
	}
	out := &tarnv1.ListRaftServersResponse{Index: stats.CommitIndex}
	for _, m := range servers {
		server := &tarnv1.RaftServer{Id: m.ID, Address: m.Addr, Voter: m.Voter, Leader: m.ID == leader}
		if since, ok := contact[m.ID]; ok && since >= 0 {
			server.LastContact = durationpb.New(since)
		}
		out.Servers = append(out.Servers, server)
	}
	return out, nil
}

// AddRaftServer implements tarnv1connect.OperatorServiceHandler. A control node
// can only bring itself in; nobody changes a member's address this way, see Hello.
func (s *operators) AddRaftServer(ctx context.Context, req *tarnv1.AddRaftServerRequest) (*tarnv1.ListRaftServersResponse, error) {
	who := callerFrom(ctx)
	if who.grant == control && who.identity.ID != req.GetId() {
		return nil, denied("field id: the certificate is of node %s", who.identity.ID)
	}
	if err := s.Membership.AddServer(ctx, req.GetId(), req.GetAddress()); err != nil {
		return nil, err
	}
	return s.raftServers()
}

// RemoveRaftServer implements tarnv1connect.OperatorServiceHandler.
func (s *operators) RemoveRaftServer(ctx context.Context, req *tarnv1.RemoveRaftServerRequest) (*tarnv1.ListRaftServersResponse, error) {
	if err := s.Membership.RemoveServer(ctx, req.GetId()); err != nil {
		return nil, err
	}
	return s.raftServers()
}

// Hello implements tarnv1connect.OperatorServiceHandler.
func (s *operators) Hello(ctx context.Context, req *tarnv1.HelloRequest) (*tarnv1.HelloResponse, error) {
	if who := callerFrom(ctx); who.identity.ID != req.GetId() {
		return nil, denied("field id: the certificate is of node %s", who.identity.ID)
	}
	if err := s.knowsCommands(req); err != nil {
		return nil, err
	}
	answer, err := s.Membership.HandleJoin(ctx, consensus.JoinRequest{
		Server:   consensus.Server{ID: req.GetId(), Addr: req.GetAddress()},
		Known:    fromServers(req.GetKnown()),
		Founders: fromServers(req.GetFounders()),

		StillMember: req.GetStillMember(),
	})
	if err != nil {
		return nil, err
	}
	return &tarnv1.HelloResponse{
		Id:            s.NodeID,
		HasCluster:    answer.Status != consensus.JoinNoCluster,
		Joined:        answer.Status == consensus.JoinDone,
		LeaderAddress: answer.LeaderAddr,
		Known:         toServers(answer.Known),
		Consent:       answer.Consent,
		Removed:       answer.Status == consensus.JoinRemoved,

		CommandVersion: raftfsm.CommandVersion,
	}, nil
}

// knowsCommands refuses a node that could not apply what this cluster's log holds.
func (s *operators) knowsCommands(req *tarnv1.HelloRequest) error {
	have := s.State.View().CommandVersion()
	if knows := max(1, req.GetCommandVersion()); !req.GetStillMember() && knows < have {
		return refused("command_version", "the cluster is at command version %d, this node knows up to %d: install a newer tarn on it", have, knows)
	}
	return nil
}

func fromServers(in []*tarnv1.RaftServer) []consensus.Server {
	var out []consensus.Server
	for _, s := range in {
		out = append(out, consensus.Server{ID: s.GetId(), Addr: s.GetAddress(), Voter: s.GetVoter()})
	}
	return out
}

func toServers(in []consensus.Server) []*tarnv1.RaftServer {
	var out []*tarnv1.RaftServer
	for _, s := range in {
		out = append(out, &tarnv1.RaftServer{Id: s.ID, Address: s.Addr, Voter: s.Voter})
	}
	return out
}

// CreateJoinToken implements tarnv1connect.OperatorServiceHandler. The log keeps
// the token's hash, never the token.
func (s *operators) CreateJoinToken(ctx context.Context, req *tarnv1.CreateJoinTokenRequest) (*tarnv1.CreateJoinTokenResponse, error) {
	ca := s.Authority.CA
	if ca == nil {
		return nil, refused("", "this node has no key of the authority; ask one that has ca.key")
	}
	life := req.GetTtl().AsDuration()
	if life == 0 {
		life = defaultTokenLife
	}
	// It ends by the state's clock, which a leader may have set ahead.
	now := time.Now()
	if state := s.State.View().Time(); state.After(now) {
		now = state
	}
	token, kept, err := identity.NewToken(ca.Cluster(), ca.Hash(), identity.Role(req.GetRole()), now, life)
	if err != nil {
		return nil, err
	}
	expires := timestamppb.New(kept.Expires)
	_, err = s.propose(ctx, &raftv1.Command{Verb: &raftv1.Command_PutJoinToken{PutJoinToken: &raftv1.PutJoinToken{
		Token: &raftv1.JoinToken{
			Hash: kept.Hash, Role: req.GetRole(), ExpiresAt: expires,
			ProjectId: req.GetProjectId(), ProjectRole: req.GetProjectRole(),
		},
	}}})
	if err != nil {
		return nil, err
	}
	return &tarnv1.CreateJoinTokenResponse{Token: token.Reveal(), ExpiresAt: expires}, nil
}
