package api_test

import (
	"crypto/x509"
	"encoding/pem"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestNobodyJoinsAsSomebodyElse: whoever has a token chooses an id, and not that of a host,
// of a user, or of whom was revoked. The token is not spent on it.
func TestNobodyJoinsAsSomebodyElse(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	host := s.host("one", "az1")
	user, err := op.Operator.CreateUser(t.Context(), &tarnv1.CreateUserRequest{Name: "ann", Role: "reader", ProjectId: "blue"})
	if err != nil {
		t.Fatal(err)
	}
	gone := uuid.NewString()
	if _, err := op.Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: gone, Reason: "left"}); err != nil {
		t.Fatal(err)
	}
	join := s.joiner(&tarnv1.CreateJoinTokenRequest{Role: "agent"})
	for _, id := range []string{user.GetUser().GetId(), gone} {
		wantCode(t, second(join(id)), connect.CodeFailedPrecondition)
	}
	if _, err := join(host); err != nil {
		t.Errorf("a host that is installed anew: %v", err)
	}
}

// joiner joins by a new token, each time with the same key.
func (s *server) joiner(req *tarnv1.CreateJoinTokenRequest) func(id string) (*tarnv1.JoinResponse, error) {
	s.t.Helper()
	made, err := s.operator().Operator.CreateJoinToken(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := identity.ParseToken(made.GetToken())
	if err != nil {
		s.t.Fatal(err)
	}
	csr, _, err := identity.NewCSR()
	if err != nil {
		s.t.Fatal(err)
	}
	newcomer := s.client(token.ClientConfig()).Join
	return func(id string) (*tarnv1.JoinResponse, error) {
		return newcomer.Join(s.t.Context(), &tarnv1.JoinRequest{Token: made.GetToken(), NodeId: id, Csr: csr})
	}
}

// certified is whose certificate an answer has.
func certified(t *testing.T, res *tarnv1.JoinResponse) identity.Identity {
	t.Helper()
	block, _ := pem.Decode(res.GetCertificate())
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	who, err := identity.FromCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// TestPeopleDoNotChooseTheirIDs: nobody knows whose certificates there are, so that a
// person's is made by the cluster, the same for a repetition.
func TestPeopleDoNotChooseTheirIDs(t *testing.T) {
	join := newServer(t).joiner(&tarnv1.CreateJoinTokenRequest{Role: "client", ProjectId: "blue", ProjectRole: "member"})
	victim, got := uuid.NewString(), map[string]bool{}
	for _, asked := range []string{victim, uuid.NewString()} {
		res, err := join(asked)
		if err != nil {
			t.Fatal(err)
		}
		got[certified(t, res).ID] = true
	}
	if len(got) != 1 || got[victim] {
		t.Errorf("joined as %v, %s was asked for", got, victim)
	}
}
