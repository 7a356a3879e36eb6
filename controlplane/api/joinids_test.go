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
	join := func(req *tarnv1.CreateJoinTokenRequest, ids ...string) (last error) {
		t.Helper()
		made, err := op.Operator.CreateJoinToken(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		token, err := identity.ParseToken(made.GetToken())
		if err != nil {
			t.Fatal(err)
		}
		csr, _, err := identity.NewCSR()
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range ids {
			_, last = s.client(token.ClientConfig()).Join.Join(t.Context(), &tarnv1.JoinRequest{Token: made.GetToken(), NodeId: id, Csr: csr})
			if i < len(ids)-1 {
				wantCode(t, last, connect.CodeFailedPrecondition)
			}
		}
		return last
	}
	if err := join(&tarnv1.CreateJoinTokenRequest{Role: "agent"}, user.GetUser().GetId(), gone, host); err != nil {
		t.Errorf("a host that is installed anew: %v", err)
	}
}

// TestPeopleDoNotChooseTheirIDs: nobody knows whose certificates there are, so that a
// person's is made by the cluster, the same for a repetition.
func TestPeopleDoNotChooseTheirIDs(t *testing.T) {
	s := newServer(t)
	made, err := s.operator().Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{Role: "client", ProjectId: "blue", ProjectRole: "member"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := identity.ParseToken(made.GetToken())
	if err != nil {
		t.Fatal(err)
	}
	csr, _, err := identity.NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	victim, got := uuid.NewString(), map[string]bool{}
	for _, asked := range []string{victim, uuid.NewString()} {
		res, err := s.client(token.ClientConfig()).Join.Join(t.Context(), &tarnv1.JoinRequest{Token: made.GetToken(), NodeId: asked, Csr: csr})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(res.GetCertificate())
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		who, err := identity.FromCertificate(cert)
		if err != nil {
			t.Fatal(err)
		}
		got[who.ID] = true
	}
	if len(got) != 1 || got[victim] {
		t.Errorf("joined as %v, %s was asked for", got, victim)
	}
}
