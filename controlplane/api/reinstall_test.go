package api_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// A machine that is installed anew has another key: it gets neither the name nor the
// replicas of the host that it was, until an operator has taken that host out.
func TestNameStaysWithItsHost(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	old := s.host("one", "az1")
	kind := s.shareType(op, "gold")
	if _, err := op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{Name: "web", SizeGib: 1, ShareType: kind.GetId()}); err != nil {
		t.Fatal(err)
	}
	id := uuid.NewString()
	anew := s.client(s.tls(identity.Subject{Role: identity.RoleAgent, ID: id})).Agent
	register := func() error {
		_, err := anew.Register(t.Context(), &tarnv1.RegisterRequest{Host: hostRecord(id, "one", "az1")})
		return err
	}
	err := register()
	wantCode(t, err, connect.CodeAlreadyExists)
	if !strings.Contains(err.Error(), old) {
		t.Errorf("%v: does not say who has the name", err)
	}
	// Under another name it is another host, to which nothing belongs.
	if _, err := anew.Register(t.Context(), &tarnv1.RegisterRequest{Host: hostRecord(id, "two", "az1")}); err != nil {
		t.Fatal(err)
	}
	res, err := anew.Assignments(t.Context(), &tarnv1.AssignmentsRequest{HostId: id})
	if err != nil || len(res.GetAssignments()) != 0 {
		t.Errorf("assigned to the new machine: %v, %v", res, err)
	}
	wantCode(t, register(), connect.CodeAlreadyExists)
	wantCode(t, second(anew.Assignments(t.Context(), &tarnv1.AssignmentsRequest{HostId: old})), connect.CodePermissionDenied)
	// The one that has a replica is not taken out by mistake.
	wantCode(t, second(op.Hosts.RemoveHost(t.Context(), &tarnv1.GetRequest{Id: old})), connect.CodeFailedPrecondition)
}
