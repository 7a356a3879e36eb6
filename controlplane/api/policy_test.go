package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/api"
	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	"tarn/controlplane/policy"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// generous gives people everything that they can be given at all.
func generous() string {
	var b strings.Builder
	for _, a := range api.Actions() {
		rule := "@"
		if !slices.Contains(a.Ceiling, policy.RoleMember) {
			rule = "role:operator"
		}
		fmt.Fprintf(&b, "%q: %q\n", a.Name, rule)
	}
	return b.String()
}

// TestNoPolicyGivesMachinesMore tries the whole matrix of roles and methods again under
// the most generous policy there can be: machines get nothing by it, and what concerns
// the whole cluster stays with operators.
func TestNoPolicyGivesMachinesMore(t *testing.T) {
	s := newServer(t)
	s.follow(generous())
	for role, conf := range map[string]http.Client{
		"agent":   *httpClient(t, s.tls(identity.Subject{Role: identity.RoleAgent})),
		"control": *httpClient(t, s.tls(identity.Subject{Role: identity.RoleControl})),
		"reader":  *httpClient(t, s.tls(identity.Subject{Role: identity.RoleClient, Project: "blue", ProjectRole: identity.ProjectReader})),
	} {
		for _, m := range methods(t) {
			got := post(t, &conf, s.addr, procedure(m), dynamicpb.NewMessage(m.Input()))
			may := slices.Contains(allowed(m), role)
			if role == "reader" {
				service := string(m.Parent().Name())
				shared := !slices.Contains([]string{"OperatorService", "HostService", "AgentService"}, service) &&
					!strings.Contains(string(m.Name()), "anage") && !(service == "ShareTypeService" && !strings.HasPrefix(string(m.Name()), "Get") && !strings.HasPrefix(string(m.Name()), "List"))
				may = may || shared && m.Name() != "UpdateQuota" && m.Name() != "ResetQuota" && !strings.Contains(string(m.Name()), "UnknownReplica")
			}
			if refused := strings.Contains(got.message, "may not call"); refused == may {
				t.Errorf("%s as %s: %s %s", m.FullName(), role, got.code, got.message)
			}
		}
	}
}

// TestPolicyDecidesWhoFailsOver walks through the actions of Manila's policy that matter
// most, closed and opened.
func TestPolicyDecidesWhoFailsOver(t *testing.T) {
	s := newServer(t)
	op, blue := s.operator(), s.member("blue")
	s.host("one", "az1")
	s.host("two", "az2")
	share := s.share(blue, s.shareType(op, "gold"), "docs")
	r, err := blue.Replicas.CreateReplica(t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(c *client.Client) error{
		"share_replica:promote": func(c *client.Client) error {
			return second(c.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{Id: r.GetId()}))
		},
		"share_replica:resync": func(c *client.Client) error {
			return second(c.Replicas.ResyncReplica(t.Context(), &tarnv1.GetRequest{Id: r.GetId()}))
		},
		"share_replica:reset_replica_state": func(c *client.Client) error {
			return second(c.Replicas.ResetReplicaState(t.Context(), &tarnv1.ResetReplicaStateRequest{Id: r.GetId(), ReplicaState: tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC}))
		},
		"share_replica:reset_status": func(c *client.Client) error {
			return second(c.Replicas.ResetReplicaStatus(t.Context(), &tarnv1.ResetStatusRequest{Id: r.GetId(), Status: tarnv1.Status_STATUS_ERROR}))
		},
		"share_replica:force_delete": func(c *client.Client) error {
			return second(c.Replicas.DeleteReplica(t.Context(), &tarnv1.DeleteReplicaRequest{Id: r.GetId(), Force: true}))
		},
		"divergent_copy:purge": func(c *client.Client) error {
			return second(c.Replicas.PurgeDivergentCopy(t.Context(), &tarnv1.PurgeDivergentCopyRequest{Guid: 7, Reason: "r"}))
		},
	}
	for action, call := range calls {
		s.follow(fmt.Sprintf("%q: \"!\"\n", action))
		wantCode(t, call(op), connect.CodePermissionDenied)
		wantCode(t, call(blue), connect.CodePermissionDenied)
		s.follow(fmt.Sprintf("%q: \"role:member and project:blue\"\n", action))
		if err := call(s.member("red")); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s by another project: %v", action, err)
		}
	}
	// Opened, the calls get through to the handlers.
	s.follow(generous())
	for action, call := range calls {
		if err := call(blue); connect.CodeOf(err) == connect.CodePermissionDenied {
			t.Errorf("%s stays closed: %v", action, err)
		}
	}
}

// TestGenerousPolicyKeepsProjectsApart probes every method that takes an id, those for
// operators included, with another project's ids while the policy allows it all.
func TestGenerousPolicyKeepsProjectsApart(t *testing.T) {
	s := newServer(t)
	op, blue, red := s.operator(), s.member("blue"), s.member("red")
	s.host("one", "az1")
	s.host("two", "az2")
	ids := s.projectRecords(op, blue)
	s.follow(generous())
	before := s.log.proposals()
	const none = "7f2c8a4e-0f0c-4f5e-9d3a-00000000dead"
	calls := idCalls(t.Context(), red)
	for name, call := range operatorCalls(t.Context(), red) {
		calls[name] = call
	}
	for name, call := range calls {
		foreign, absent := call(ids[name.kind]), call(none)
		if connect.CodeOf(foreign) != connect.CodeNotFound || connect.CodeOf(absent) != connect.CodeNotFound ||
			strings.ReplaceAll(foreign.Error(), ids[name.kind], none) != absent.Error() {
			t.Errorf("%s: foreign %v, absent %v", name.method, foreign, absent)
		}
	}
	if s.log.proposals() != before {
		t.Error("a request about another project's record reached the log")
	}
	lists(t, red, ids["share"])
}

func TestReasonIsRequiredWhereThePolicySaysSo(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	s.follow("\"share:delete\": {reason: required}\n")
	_, err := op.Shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: share.GetId()})
	if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "justified") {
		t.Errorf("without: %v", err)
	}
	why, err := client.New(client.Config{Addresses: []string{s.addr}, TLS: s.tls(operatorSubject()), Reason: "the team has left", Patience: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer why.Close()
	s.auditor.take()
	if _, err := why.Shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: share.GetId()}); err != nil {
		t.Errorf("with: %v", err)
	}
	if got := s.auditor.take(); len(got) != 1 || got[0].Reason != "the team has left" {
		t.Errorf("intent: %+v", got)
	}
}

// TestUserTokens makes users of each role, uses, revokes and outlives them.
func TestUserTokens(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	share := s.share(s.member("blue"), s.shareType(op, "gold"), "docs")
	create := func(req *tarnv1.CreateUserRequest) *tarnv1.CreateUserResponse {
		t.Helper()
		made, err := op.Operator.CreateUser(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	reader := create(&tarnv1.CreateUserRequest{Name: "rita", Role: "reader", ProjectId: "blue"})
	member := create(&tarnv1.CreateUserRequest{Name: "max", Role: "member", ProjectId: "blue"})
	admin := create(&tarnv1.CreateUserRequest{Name: "olga", Role: "operator"})
	other := create(&tarnv1.CreateUserRequest{Name: "fred", Role: "member", ProjectId: "red"})

	del := func(c *client.Client) error {
		return second(c.Shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: share.GetId()}))
	}
	get := func(c *client.Client) error {
		return second(c.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()}))
	}
	if err := get(s.withToken(reader.GetToken())); err != nil {
		t.Errorf("reader: %v", err)
	}
	wantCode(t, del(s.withToken(reader.GetToken())), connect.CodePermissionDenied)
	wantCode(t, get(s.withToken(other.GetToken())), connect.CodeNotFound)
	if err := second(s.withToken(admin.GetToken()).Hosts.ListHosts(t.Context(), &tarnv1.ListHostsRequest{})); err != nil {
		t.Errorf("operator: %v", err)
	}
	s.auditor.take()
	if err := del(s.withToken(member.GetToken())); err != nil {
		t.Errorf("member: %v", err)
	}
	if got := s.auditor.take(); len(got) != 1 || got[0].Actor != "user:max/"+member.GetUser().GetId() {
		t.Errorf("audited as %+v", got)
	}
	csr, _, err := identity.NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, second(s.withToken(admin.GetToken()).Join.Renew(t.Context(), &tarnv1.RenewRequest{Csr: csr})), connect.CodePermissionDenied)
	wantCode(t, second(op.Operator.CreateUser(t.Context(), &tarnv1.CreateUserRequest{Name: "max", Role: "operator"})), connect.CodeAlreadyExists)

	// Only hashes are kept, and no answer shows one.
	all, err := op.Operator.ListUsers(t.Context(), &tarnv1.ListUsersRequest{})
	if err != nil || len(all.GetUsers()) != 4 {
		t.Fatal(all, err)
	}
	for _, made := range []*tarnv1.CreateUserResponse{reader, member, admin, other} {
		token, err := identity.ParseUserToken(made.GetToken())
		if err != nil || strings.Contains(all.String(), token.Hash()) || strings.Contains(all.String(), made.GetToken()) {
			t.Errorf("the list shows a token or its hash, %v", err)
		}
	}

	// Revoked by name; the name is free again, the token is not.
	if _, err := op.Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: "rita", Reason: "left"}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, get(s.withToken(reader.GetToken())), connect.CodeUnauthenticated)
	create(&tarnv1.CreateUserRequest{Name: "rita", Role: "reader", ProjectId: "blue"})
	wantCode(t, get(s.withToken(reader.GetToken())), connect.CodeUnauthenticated)
	wantCode(t, second(s.withToken(admin.GetToken()).Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: "olga", Reason: "x"})), connect.CodeFailedPrecondition)
}

func TestUserTokenEnds(t *testing.T) {
	s := newServer(t)
	for left, want := range map[time.Duration]bool{-time.Second: false, time.Hour: true} {
		token, err := identity.NewUserToken("test", s.ca.Hash())
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.log.Propose(t.Context(), &raftv1.Command{Verb: &raftv1.Command_PutUser{PutUser: &raftv1.PutUser{
			User:      &tarnv1.User{Id: left.String(), Name: left.String(), Role: "operator", ExpiresAt: timestamppb.New(time.Now().Add(left))},
			TokenHash: token.Hash(),
		}}})
		if err != nil {
			t.Fatal(err)
		}
		err = second(s.withToken(token.Reveal()).Hosts.ListHosts(t.Context(), &tarnv1.ListHostsRequest{}))
		if (err == nil) != want || err != nil && connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%s before its end: %v", left, err)
		}
	}
}

// TestRevokedCertificates: whoever was revoked gets no further with a certificate that
// is still valid, and cannot renew it; an agent loses its lease with it.
func TestRevokedCertificates(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	for _, subject := range []identity.Subject{memberSubject("blue"), {Role: identity.RoleAgent}, operatorSubject()} {
		subject.ID = "7f2c8a4e-0f0c-4f5e-9d3a-0000000000" + fmt.Sprintf("%02x", len(subject.Role))
		c := s.client(s.tls(subject))
		if _, err := c.Operator.GetStatus(t.Context(), &tarnv1.GetStatusRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := op.Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: subject.ID, Reason: "stolen"}); err != nil {
			t.Fatal(err)
		}
		// Over the connection that is open, and over a new one.
		for _, c := range []*client.Client{c, s.client(s.tls(subject))} {
			wantCode(t, second(c.Operator.GetStatus(t.Context(), &tarnv1.GetStatusRequest{})), connect.CodeUnauthenticated)
			csr, _, err := identity.NewCSR()
			if err != nil {
				t.Fatal(err)
			}
			wantCode(t, second(c.Join.Renew(t.Context(), &tarnv1.RenewRequest{Csr: csr})), connect.CodeUnauthenticated)
		}
	}
	wantCode(t, second(op.Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: "nobody", Reason: "x"})), connect.CodeNotFound)
}

// TestHostsHearOfRevocations: with their registration, and with the next report when there
// are others; what a host has is not told again.
func TestHostsHearOfRevocations(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	id := uuid.NewString()
	cl := s.client(s.tls(identity.Subject{Role: identity.RoleAgent, ID: id}))
	h := &tarnv1.Host{
		Id: id, Name: "h", AvailabilityZone: "z", Address: "127.0.0.1:1", Backend: "dir", SessionId: uuid.NewString(),
		Pools: []*tarnv1.Pool{{Name: "tank", TotalCapacityGib: 10, FreeCapacityGib: 10, StorageProtocol: "NFS"}},
	}
	register := func() *tarnv1.Revocations {
		t.Helper()
		res, err := cl.Agent.Register(t.Context(), &tarnv1.RegisterRequest{Host: h})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetRevocations()
	}
	sequence := uint64(0)
	report := func(digest []byte) *tarnv1.Revocations {
		t.Helper()
		sequence++
		res, err := cl.Agent.Report(t.Context(), &tarnv1.ReportRequest{HostId: id, SessionId: h.GetSessionId(), Sequence: sequence, RevocationsDigest: digest})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetRevocations()
	}
	none := register()
	if len(none.GetIds()) != 0 || len(none.GetDigest()) == 0 || report(nil) == nil || report(none.GetDigest()) != nil {
		t.Errorf("nobody is revoked: %v", none)
	}
	thief := uuid.NewString()
	if _, err := op.Operator.CreateUser(t.Context(), &tarnv1.CreateUserRequest{Name: "ann", Role: "operator"}); err != nil {
		t.Fatal(err)
	}
	if _, err := op.Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: thief, Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	said := report(none.GetDigest())
	if !slices.Equal(said.GetIds(), []string{thief}) || report(said.GetDigest()) != nil || !proto.Equal(register(), said) {
		t.Errorf("one is revoked: %v, registering tells %v", said, register())
	}
}

// TestTokensThatAreNone are refused alike, whatever is wrong with them.
func TestTokensThatAreNone(t *testing.T) {
	s := newServer(t)
	forged, err := identity.NewUserToken("test", s.ca.Hash())
	if err != nil {
		t.Fatal(err)
	}
	joining, err := s.operator().Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{Role: "agent"})
	if err != nil {
		t.Fatal(err)
	}
	const path = "/tarn.v1.ShareService/ListShares"
	for name, header := range map[string][]string{
		"forged":     {"Bearer " + forged.Reveal()},
		"join token": {"Bearer " + joining.GetToken()},
		"basic":      {"Basic YTpi"},
		"empty":      {"Bearer "},
		"two":        {"Bearer " + forged.Reveal(), "Bearer " + forged.Reveal()},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.addr+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Authorization"] = header
		req.Header.Set("Content-Type", "application/json")
		res, err := httpClient(t, anonymous(s)).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
	// A certificate and a token at once leave it open who asks.
	both, err := client.New(client.Config{Addresses: []string{s.addr}, TLS: s.tls(operatorSubject()), Token: forged.Reveal(), Patience: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	wantCode(t, second(both.Shares.ListShares(t.Context(), &tarnv1.ListSharesRequest{})), connect.CodeUnauthenticated)
}

// withToken is a client that has nothing but a user token.
func (s *server) withToken(text string) *client.Client {
	s.t.Helper()
	token, err := identity.ParseUserToken(text)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := client.New(client.Config{Addresses: []string{s.addr}, TLS: token.ClientConfig(), Token: text, Patience: 2 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}
