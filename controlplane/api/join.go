package api

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"slices"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// joins is JoinService.
type joins struct {
	*core
	// limit slows down who guesses; 256 bits do the rest.
	limit *rate.Limiter
}

// Join implements tarnv1connect.JoinServiceHandler. The token is used up in the
// log before anything is signed, so that two nodes cannot both have it.
func (s *joins) Join(ctx context.Context, req *tarnv1.JoinRequest) (*tarnv1.JoinResponse, error) {
	if !s.limit.Allow() {
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("too many attempts to join, wait a second"))
	}
	if s.Authority.CA == nil {
		return nil, refused("", "this node has no key of the authority; ask one that has ca.key")
	}
	token, err := identity.ParseToken(req.GetToken())
	if err != nil {
		return nil, err
	}
	id := req.GetNodeId()
	if t, ok := s.State.View().JoinToken(token.Hash()); ok {
		// Before the token is spent, and to nobody who has none.
		role := identity.Role(t.GetRole())
		if !serves(role) {
			id = personID(token)
		}
		if err := s.free(role, id); err != nil {
			return nil, err
		}
	}
	use := &raftv1.UseJoinToken{Hash: token.Hash(), NodeId: id}
	if s.State.View().CommandVersion() >= raftfsm.AuditVersion {
		use.KeyHash = keyHash(req.GetCsr())
	}
	used, err := record[*raftv1.JoinToken](s.propose(ctx, &raftv1.Command{Verb: &raftv1.Command_UseJoinToken{UseJoinToken: use}}))
	if refusal, ok := errors.AsType[*raftfsm.Error](err); ok && refusal.Code != raftfsm.Halted {
		// One answer for wrong, expired and used: the difference helps only who guesses.
		return nil, identity.ErrToken
	}
	if err != nil {
		return nil, err
	}
	return s.admit(ctx, used, id, req.GetCsr())
}

// personID is the id of the person who joins by a token, made by nobody: who holds a
// person's certificate is not in the state, and who could choose an id could choose theirs.
// A repetition gets the same.
func personID(token identity.Token) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("tarn join token "+token.Hash())).String()
}

// serves reports a role of machines, which have their ids before they join.
func serves(role identity.Role) bool {
	return role == identity.RoleAgent || role == identity.RoleControl
}

// free refuses an id that is somebody else's. Rules of a policy, limits and revocations go
// by it, whatever the role: who takes a host's or a user's id takes their place there. That
// of a machine of the same role is its own, which may be installed anew.
func (s *joins) free(role identity.Role, id string) error {
	v := s.State.View()
	if v.Revoked(id) {
		return refused("node_id", "was revoked, for good: join with a new one")
	}
	_, host := v.Host(id)
	_, user := v.User(id)
	servers, err := s.Cluster.Servers()
	if err != nil {
		return err
	}
	node := slices.ContainsFunc(servers, func(m consensus.Server) bool { return m.ID == id })
	if user || host && role != identity.RoleAgent || node && role != identity.RoleControl {
		return refused("node_id", "is of another identity of this cluster: join with a new one")
	}
	return nil
}

// admit signs the certificate that the token is good for.
func (s *joins) admit(ctx context.Context, used *raftv1.JoinToken, id string, csr []byte) (*tarnv1.JoinResponse, error) {
	role := identity.Role(used.GetRole())
	subject := identity.Subject{
		Role: role, ID: id, Project: used.GetProjectId(), ProjectRole: used.GetProjectRole(),
	}
	if serves(role) {
		subject.IPs = callerIP(ctx)
	}
	ca := s.Authority.CA
	cert, err := ca.IssueCSR(subject, csr)
	if err != nil {
		return nil, err
	}
	out := &tarnv1.JoinResponse{
		Certificate: cert, Ca: ca.CertPEM(), ClusterId: ca.Cluster(), ControlAddresses: s.Authority.Addresses(),
	}
	if serves(role) {
		out.GossipKey, out.GossipKeyFile = s.Gossip.KeyFile()
	}
	if role == identity.RoleControl {
		out.CaKey, err = ca.KeyPEM()
	}
	return out, err
}

// Renew implements tarnv1connect.JoinServiceHandler. The new certificate says what
// the caller's present one says, and nothing that the request asks for.
func (s *joins) Renew(ctx context.Context, req *tarnv1.RenewRequest) (*tarnv1.RenewResponse, error) {
	if s.Authority.CA == nil {
		return nil, refused("", "this node has no key of the authority; ask one that has ca.key")
	}
	if callerFrom(ctx).name != "" {
		return nil, denied("a user token is renewed by making another one")
	}
	who := callerFrom(ctx).identity
	subject := identity.Subject{Role: who.Role, ID: who.ID, Project: who.Project, ProjectRole: who.ProjectRole}
	if who.Role == identity.RoleAgent || who.Role == identity.RoleControl {
		subject.IPs = callerIP(ctx)
	}
	cert, err := s.Authority.CA.IssueCSR(subject, req.GetCsr())
	if err != nil {
		return nil, err
	}
	return &tarnv1.RenewResponse{Certificate: cert, Ca: s.Authority.CA.CertPEM()}, nil
}

// keyHash is the SHA-256 of the key in a request, which validation has read already.
func keyHash(csrDER []byte) string {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// callerIP lets standard HTTPS clients talk to the node under the address it came from.
func callerIP(ctx context.Context) []net.IP {
	info, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok {
		return nil
	}
	host, _, err := net.SplitHostPort(info.Peer().Addr)
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil {
		return []net.IP{ip}
	}
	return nil
}
