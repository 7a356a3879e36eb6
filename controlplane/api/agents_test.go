package api_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/identity"
	"tarn/controlplane/reconcile"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
	"tarn/raftfsm"
)

// storage is a registered host and a client with its certificate.
func (s *server) storage(name, zone string) (string, tarnv1connect.AgentServiceClient) {
	s.t.Helper()
	id := uuid.NewString()
	cl := s.client(s.tls(identity.Subject{Role: identity.RoleAgent, ID: id})).Agent
	if _, err := cl.Register(context.Background(), &tarnv1.RegisterRequest{Host: hostRecord(id, name, zone)}); err != nil {
		s.t.Fatal(err)
	}
	return id, cl
}

// agentOf is a client with the certificate of a host.
func (s *server) agentOf(hostID string) tarnv1connect.AgentServiceClient {
	return s.client(s.tls(identity.Subject{Role: identity.RoleAgent, ID: hostID})).Agent
}

func TestRegisterWritesOnlyNews(t *testing.T) {
	s := newServer(t)
	id, agent := s.storage("one", "az1")
	before := s.log.proposals()
	same := hostRecord(id, "one", "az1")
	same.Pools[0].FreeCapacityGib = 7
	if _, err := agent.Register(t.Context(), &tarnv1.RegisterRequest{Host: same}); err != nil {
		t.Fatal(err)
	}
	if s.log.proposals() != before {
		t.Error("an unchanged host was written to the log")
	}
	same.SessionId = "second"
	if _, err := agent.Register(t.Context(), &tarnv1.RegisterRequest{Host: same}); err != nil {
		t.Fatal(err)
	}
	if s.log.proposals() != before+1 {
		t.Error("a new session was not written")
	}
}

func TestAgentsSpeakForThemselvesOnly(t *testing.T) {
	s := newServer(t)
	_, agent := s.storage("one", "az1")
	other, _ := s.storage("two", "az2")
	for name, err := range map[string]error{
		"Register":    second(agent.Register(t.Context(), &tarnv1.RegisterRequest{Host: hostRecord(other, "x", "az1")})),
		"Assignments": second(agent.Assignments(t.Context(), &tarnv1.AssignmentsRequest{HostId: other})),
		"Report":      second(agent.Report(t.Context(), &tarnv1.ReportRequest{HostId: other, SessionId: "first"})),
		"RenewLease":  second(agent.RenewLease(t.Context(), &tarnv1.RenewLeaseRequest{HostId: other, SessionId: "first"})),
	} {
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOldSessionsGetNothing(t *testing.T) {
	s := newServer(t)
	id, agent := s.storage("one", "az1")
	wantCode(t, second(agent.Report(t.Context(), &tarnv1.ReportRequest{HostId: id, SessionId: "older"})), connect.CodeFailedPrecondition)
	wantCode(t, second(agent.RenewLease(t.Context(), &tarnv1.RenewLeaseRequest{HostId: id, SessionId: "older"})), connect.CodeFailedPrecondition)
}

func TestLeaseFollowsTheFencingState(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	hosts := map[string]tarnv1connect.AgentServiceClient{}
	for _, name := range []string{"one", "two"} {
		id, agent := s.storage(name, "az-"+name)
		hosts[id] = agent
	}
	share := s.share(op, s.shareType(op, "gold"), "docs")
	owner := s.fsm.View().ReplicasOfShare(share.GetId())[0]
	renew := func(epoch uint64, replica string) *tarnv1.RenewLeaseResponse {
		t.Helper()
		res, err := hosts[owner.GetHostId()].RenewLease(t.Context(), &tarnv1.RenewLeaseRequest{
			HostId: owner.GetHostId(), SessionId: "first", Nonce: 9,
			Shares: []*tarnv1.LeaseShare{{ShareId: share.GetId(), ReplicaId: replica, Epoch: epoch}},
		})
		if err != nil || res.GetNonce() != 9 {
			t.Fatal(res, err)
		}
		return res
	}
	started := s.leases.LastPossibleGrant(owner.GetHostId())
	for name, res := range map[string]*tarnv1.RenewLeaseResponse{
		"higher epoch":  renew(2, owner.GetId()),
		"other replica": renew(1, uuid.NewString()),
	} {
		if len(res.GetGranted()) != 0 || len(res.GetRevoked()) != 1 {
			t.Errorf("%s: %v", name, res)
		}
	}
	if s.leases.LastPossibleGrant(owner.GetHostId()) != started {
		t.Error("a refusal counts as a grant")
	}
	if res := renew(1, owner.GetId()); len(res.GetGranted()) != 1 || res.GetDuration().AsDuration() != 3*time.Second {
		t.Errorf("owner: %v", res)
	}
	granted := s.leases.LastPossibleGrant(owner.GetHostId())
	if !granted.After(started) {
		t.Error("a grant was not noted")
	}

	replica, err := op.Replicas.CreateReplica(t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	s.available(share.GetId())
	if _, err := op.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{Id: replica.GetId(), AtOnce: true}); err != nil {
		t.Fatal(err)
	}
	if res := renew(1, owner.GetId()); len(res.GetGranted()) != 0 {
		t.Errorf("while fencing: %v", res)
	}
	if s.leases.LastPossibleGrant(owner.GetHostId()) != granted {
		t.Error("a renewal while fencing put off the expiry")
	}
}

func TestAssignmentsArePolled(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	id, agent := s.storage("one", "az1")
	kind := s.shareType(op, "gold")
	first, err := agent.Assignments(t.Context(), &tarnv1.AssignmentsRequest{HostId: id})
	if err != nil || first.GetUnchanged() || len(first.GetAssignments()) != 0 {
		t.Fatal(first, err)
	}
	idle, err := agent.Assignments(t.Context(), &tarnv1.AssignmentsRequest{HostId: id, AfterRevision: first.GetRevision()})
	if err != nil || !idle.GetUnchanged() || idle.GetRevision() != first.GetRevision() {
		t.Errorf("idle: %v, %v", idle, err)
	}
	answer := make(chan *tarnv1.AssignmentsResponse, 1)
	go func() {
		res, err := agent.Assignments(context.Background(), &tarnv1.AssignmentsRequest{
			HostId: id, AfterRevision: first.GetRevision(), MaxWait: durationpb.New(30 * time.Second),
		})
		if err != nil {
			t.Error(err)
		}
		answer <- res
	}()
	share := s.share(op, kind, "docs")
	res := <-answer
	if len(res.GetAssignments()) != 1 || res.GetAssignments()[0].GetShareId() != share.GetId() || res.GetRevision() <= first.GetRevision() {
		t.Errorf("woken with %v", res)
	}
}

func TestReportsReachTheObservation(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	id, agent := s.storage("one", "az1")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	replica := s.fsm.View().ReplicasOfShare(share.GetId())[0]
	res, err := agent.Report(t.Context(), &tarnv1.ReportRequest{
		HostId: id, SessionId: "first", Sequence: 1, Full: true,
		Replicas: []*tarnv1.ReplicaReport{{ReplicaId: replica.GetId(), ShareId: share.GetId(), Writable: true, UsedBytes: 5, Mountpoint: "/tank/x"}},
		Pools:    []*tarnv1.PoolReport{{Name: "tank", TotalCapacityGib: 100_000, FreeCapacityGib: 4, Health: "DEGRADED"}},
	})
	if err != nil {
		t.Fatal(res, err)
	}
	seen, err := op.Replicas.GetReplica(t.Context(), &tarnv1.GetRequest{Id: replica.GetId()})
	if err != nil || !seen.GetObserved().GetWritable() || seen.GetObserved().GetMountpoint() != "/tank/x" {
		t.Errorf("observed %v, %v", seen.GetObserved(), err)
	}
	pools, err := op.Hosts.ListPools(t.Context(), &tarnv1.ListPoolsRequest{})
	if err != nil || len(pools.GetPools()) != 1 || pools.GetPools()[0].GetPool().GetFreeCapacityGib() != 4 {
		t.Errorf("pools %v, %v", pools, err)
	}
	host, err := op.Hosts.GetHost(t.Context(), &tarnv1.GetRequest{Id: "one"})
	if err != nil || host.GetLastReportAt() == nil || host.GetReplicaCount() != 1 {
		t.Errorf("host %v, %v", host, err)
	}
}

func TestJoin(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	made, err := op.Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{Role: "agent"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := identity.ParseToken(made.GetToken())
	if err != nil {
		t.Fatal(err)
	}
	// The joining node has nothing but the token.
	newcomer := s.client(token.ClientConfig()).Join
	csr, _, err := identity.NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.NewString()
	wantCode(t, second(newcomer.Join(t.Context(), &tarnv1.JoinRequest{Token: made.GetToken(), NodeId: id, Csr: []byte("rubbish")})), connect.CodeInvalidArgument)
	req := &tarnv1.JoinRequest{Token: made.GetToken(), NodeId: id, Csr: csr}
	res, err := newcomer.Join(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if who := certified(t, res); who.ID != id || who.Role != identity.RoleAgent {
		t.Errorf("certificate of %+v", who)
	}
	if len(res.GetGossipKey()) != 32 || len(res.GetCaKey()) != 0 || token.CheckCA(res.GetCa()) != nil {
		t.Error("an agent needs the gossip key and the authority's certificate, and must not get its key")
	}
	// The same node may repeat a request whose answer it lost; nobody else may use the token.
	if _, err := newcomer.Join(t.Context(), req); err != nil {
		t.Errorf("repetition: %v", err)
	}
	req.NodeId = uuid.NewString()
	wantCode(t, second(newcomer.Join(t.Context(), req)), connect.CodePermissionDenied)
	forged, _, err := identity.NewToken(s.ca.Cluster(), s.ca.Hash(), identity.RoleControl, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	req.Token = forged.Reveal()
	wantCode(t, second(newcomer.Join(t.Context(), req)), connect.CodePermissionDenied)
	for range 12 {
		if _, err = newcomer.Join(t.Context(), req); connect.CodeOf(err) == connect.CodeResourceExhausted {
			return
		}
	}
	t.Errorf("guessing is not slowed down: %v", err)
}

func TestRenewKeepsTheIdentity(t *testing.T) {
	s := newServer(t)
	for _, subject := range []identity.Subject{
		memberSubject("blue"), operatorSubject(), {Role: identity.RoleAgent}, {Role: identity.RoleControl},
	} {
		subject.ID = uuid.NewString()
		csr, _, err := identity.NewCSR()
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.client(s.tls(subject)).Join.Renew(t.Context(), &tarnv1.RenewRequest{Csr: csr})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(res.GetCertificate())
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		who, err := identity.FromCertificate(cert)
		if err != nil || who.ID != subject.ID || who.Role != subject.Role || who.Project != subject.Project || who.ProjectRole != subject.ProjectRole {
			t.Errorf("%s renewed as %+v, %v", subject.Role, who, err)
		}
	}
}

func TestJoinTokensAreNotKept(t *testing.T) {
	s := newServer(t)
	made, err := s.operator().Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{
		Role: "client", ProjectId: "blue", ProjectRole: "reader",
	})
	if err != nil {
		t.Fatal(err)
	}
	token, err := identity.ParseToken(made.GetToken())
	if err != nil {
		t.Fatal(err)
	}
	kept, ok := s.fsm.View().JoinToken(token.Hash())
	if !ok {
		t.Fatal("token is not in the state")
	}
	data, err := proto.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	secret := made.GetToken()[len(made.GetToken())-43:]
	if slices.Contains([]string{kept.GetHash(), string(data)}, secret) {
		t.Error("the secret is kept")
	}
	csr, _, err := identity.NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.client(token.ClientConfig()).Join.Join(t.Context(), &tarnv1.JoinRequest{Token: made.GetToken(), NodeId: uuid.NewString(), Csr: csr})
	if err != nil || len(res.GetGossipKey()) != 0 {
		t.Errorf("a client joins without the gossip key: %v", err)
	}
}

func TestDrainSaysWhatItWaitsFor(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.storage("one", "az1")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	host, err := op.Hosts.DrainHost(t.Context(), &tarnv1.DisableHostRequest{Id: "one", Reason: "new disks"})
	if err != nil || len(host.GetDrainBlockers()) != 1 {
		t.Fatal(host, err)
	}
	wantCode(t, second(op.Hosts.RemoveHost(t.Context(), &tarnv1.GetRequest{Id: "one"})), connect.CodeFailedPrecondition)
	_, err = op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{SizeGib: 1, ShareType: share.GetShareTypeId()})
	wantCode(t, err, connect.CodeFailedPrecondition)
	if _, err := op.Hosts.EnableHost(t.Context(), &tarnv1.GetRequest{Id: "one"}); err != nil {
		t.Fatal(err)
	}
	if _, err := op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{SizeGib: 1, ShareType: share.GetShareTypeId()}); err != nil {
		t.Error(err)
	}
}

func TestPlacementIsTriedElsewhereWhenOvertaken(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	ids := []string{s.host("one", "az1"), s.host("two", "az2")}
	kind := s.shareType(op, "gold")
	first := s.share(op, kind, "warms the scheduler's picture")
	// The pool that comes next goes away behind the scheduler's back.
	taken := s.fsm.View().ReplicasOfShare(first.GetId())[0].GetHostId()
	next := ids[0]
	if next == taken {
		next = ids[1]
	}
	_, err := s.log.Propose(context.Background(), &raftv1.Command{Verb: &raftv1.Command_Transitions{Transitions: &raftv1.Transitions{
		Hosts: []*raftv1.HostTransition{{Id: next, State: tarnv1.HostState_HOST_STATE_DOWN, ExpectedState: tarnv1.HostState_HOST_STATE_UP}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	share, err := op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{SizeGib: 1, ShareType: kind.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.fsm.View().ReplicasOfShare(share.GetId())[0].GetHostId(); got != taken {
		t.Errorf("placed on %s, which is down", got)
	}
}

// What an agent's registration on another machine has to wait for, one by one.
func TestAnotherMachineWaits(t *testing.T) {
	s := newServer(t)
	id := uuid.NewString()
	agent := s.agentOf(id)
	register := func(session, machine string) error {
		h := hostRecord(id, "one", "az1")
		h.SessionId, h.Machine = session, machine
		return second(agent.Register(t.Context(), &tarnv1.RegisterRequest{Host: h}))
	}
	wantOK := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	report := func(session string, at time.Time) {
		s.soft.Report(&tarnv1.ReportRequest{HostId: id, SessionId: session, Sequence: uint64(at.UnixNano())}, at)
	}
	wait := reconcile.DefaultPolicy().LeaseWait
	wantOK(register("first", "a"))
	wantCode(t, register("second", "b"), connect.CodeFailedPrecondition) // a new leader knows of no grant
	s.leases.Lead(ago(2 * wait))
	report("first", ago(wait/2))
	wantCode(t, register("second", "b"), connect.CodeFailedPrecondition) // it was heard of
	wantOK(register("restarted", "a"))
	s.soft.Lead(ago(2 * wait))
	report("restarted", ago(wait))
	report("first", ago(0)) // late, of a session that is over
	s.leases.Grant(id, ago(wait/2))
	wantCode(t, register("second", "b"), connect.CodeFailedPrecondition) // it can have a lease
	s.leases.Lead(ago(2 * wait))
	if !s.leases.Grant(id, ago(wait)) {
		t.Error("a refused registration bars grants")
	}
	wantOK(register("second", "b"))
	if !s.leases.Grant(id, ago(0)) {
		t.Error("a registration bars grants")
	}
	wantOK(register("silent", "")) // an agent of an older version
	wantOK(register("second", "b"))
}

// Later leaders have to know how long to wait for a lease before it is granted. Clusters
// with older nodes never say so, and are served as ever.
func TestNoLeaseBeforeTheLogSaysHowLongToWait(t *testing.T) {
	s := newServerAt(t, raftfsm.LeaseVersion-1)
	op := s.operator()
	host, agent := s.storage("one", "az1")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	owner := s.fsm.View().ReplicasOfShare(share.GetId())[0]
	echo := []byte(nil)
	renew := func() error {
		res, err := agent.RenewLease(t.Context(), &tarnv1.RenewLeaseRequest{
			HostId: host, SessionId: "first", Nonce: 9, Echo: echo,
			Shares: []*tarnv1.LeaseShare{{ShareId: share.GetId(), ReplicaId: owner.GetId(), Epoch: 1}},
		})
		if err == nil && len(res.GetGranted()) != 1 {
			t.Errorf("answered %v", res)
		}
		if err == nil {
			echo = res.GetToken()
		}
		return err
	}
	if err := renew(); err != nil {
		t.Errorf("in a cluster with older nodes: %v", err)
	}
	if _, err := s.log.Propose(t.Context(), &raftv1.Command{Verb: &raftv1.Command_SetCommandVersion{
		SetCommandVersion: &raftv1.SetCommandVersion{Version: raftfsm.LeaseVersion},
	}}); err != nil {
		t.Fatal(err)
	}
	wait, last := reconcile.DefaultPolicy().LeaseWait, s.leases.LastPossibleGrant(host)
	wantCode(t, renew(), connect.CodeUnavailable)
	s.waitForLeases(wait - 1)
	wantCode(t, renew(), connect.CodeUnavailable)
	if s.leases.LastPossibleGrant(host) != last {
		t.Error("a refusal counts as a grant")
	}
	s.waitForLeases(wait)
	if err := renew(); err != nil {
		t.Error(err)
	}
}

// An agent was copied while it ran. Whichever renews first with what it was told since
// goes on; the other gets nothing, and its asking puts no failover off.
func TestCopyOfARunningAgentGetsNothing(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	host, agent := s.storage("one", "az1")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	owner := s.fsm.View().ReplicasOfShare(share.GetId())[0]
	renew := func(session string, token []byte) *tarnv1.RenewLeaseResponse {
		t.Helper()
		res, err := agent.RenewLease(t.Context(), &tarnv1.RenewLeaseRequest{
			HostId: host, SessionId: session, Nonce: 9, Echo: token,
			Shares: []*tarnv1.LeaseShare{{ShareId: share.GetId(), ReplicaId: owner.GetId(), Epoch: 1}},
		})
		if err != nil || res.GetNonce() != 9 {
			t.Fatal(res, err)
		}
		return res
	}
	granted := func(res *tarnv1.RenewLeaseResponse) []byte {
		t.Helper()
		if len(res.GetGranted()) != 1 || res.GetAnotherLife() || len(res.GetToken()) == 0 {
			t.Fatalf("not granted: %v", res)
		}
		return res.GetToken()
	}
	granted(renew("first", nil)) // lost
	before := granted(renew("first", nil))
	one, two := granted(renew("first", before)), granted(renew("first", before))
	one = granted(renew("first", one))
	last := s.leases.LastPossibleGrant(host)
	for name, token := range map[string][]byte{"copy": two, "copy from before": before, "without a token": nil, "forged": []byte("x")} {
		if res := renew("first", token); !res.GetAnotherLife() || len(res.GetGranted())+len(res.GetRevoked())+len(res.GetToken()) != 0 {
			t.Errorf("%s: %v", name, res)
		}
	}
	if s.leases.LastPossibleGrant(host) != last {
		t.Error("a copy's renewal counts as a grant")
	}
	granted(renew("first", one))

	again := hostRecord(host, "one", "az1")
	again.SessionId = "second"
	if _, err := agent.Register(t.Context(), &tarnv1.RegisterRequest{Host: again}); err != nil {
		t.Fatal(err)
	}
	granted(renew("second", nil))
	wantCode(t, second(agent.RenewLease(t.Context(), &tarnv1.RenewLeaseRequest{
		HostId: host, SessionId: "second", Echo: make([]byte, 257),
	})), connect.CodeInvalidArgument)
}

// Agents of an earlier release echo nothing, for ever.
func TestAgentsWithoutTokensAreServed(t *testing.T) {
	s := newServer(t)
	host, agent := s.storage("one", "az1")
	for range 5 {
		res, err := agent.RenewLease(t.Context(), &tarnv1.RenewLeaseRequest{HostId: host, SessionId: "first"})
		if err != nil || res.GetAnotherLife() {
			t.Fatal(res, err)
		}
	}
}
