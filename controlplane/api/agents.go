package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/assignment"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// agentService is AgentService.
type agentService struct {
	*core
	revocations revocations
}

// speaksFor refuses an agent that names another host than its certificate.
func (c caller) speaksFor(hostID string) error {
	if c.identity.ID != hostID {
		return denied("field host_id: the certificate is of host %s", c.identity.ID)
	}
	return nil
}

// Register implements tarnv1connect.AgentServiceHandler. It writes to the log only
// what is news.
func (s *agentService) Register(ctx context.Context, req *tarnv1.RegisterRequest) (*tarnv1.RegisterResponse, error) {
	if err := callerFrom(ctx).speaksFor(req.GetHost().GetId()); err != nil {
		return nil, err
	}
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	if stored, ok := s.State.View().Host(req.GetHost().GetId()); ok && sameHost(stored, req.GetHost()) {
		s.Leases.Registered(stored.GetId(), stored.GetSessionId(), false)
		return s.registered(stored), nil
	}
	// The log's machine does not know that this is output only, and needs no new version for it.
	req.GetHost().AnotherLifeAt = nil
	taken, err := s.admitMachine(req.GetHost())
	if err != nil {
		return nil, err
	}
	h, err := record[*tarnv1.Host](s.propose(ctx, &raftv1.Command{Verb: &raftv1.Command_RegisterHost{
		RegisterHost: &raftv1.RegisterHost{Host: req.GetHost()},
	}}))
	taken(err)
	if err != nil {
		return nil, err
	}
	s.placer.forget()
	return s.registered(h), nil
}

// registered is the answer to a registration. It says whom to refuse, before the host
// hears from its assignments whom to serve.
func (s *agentService) registered(h *tarnv1.Host) *tarnv1.RegisterResponse {
	return &tarnv1.RegisterResponse{Host: h, ClusterId: s.ClusterID, Revocations: s.revocations.of(s.State.View())}
}

// sameHost compares what an agent says of itself. Free space is none of it: it
// changes all the time and travels in reports.
func sameHost(stored, said *tarnv1.Host) bool {
	return proto.Equal(ownWords(stored), ownWords(said))
}

func ownWords(h *tarnv1.Host) *tarnv1.Host {
	out := &tarnv1.Host{
		Id: h.GetId(), Name: h.GetName(), AvailabilityZone: h.GetAvailabilityZone(), Address: h.GetAddress(),
		Backend: h.GetBackend(), Version: h.GetVersion(), FenceClass: h.GetFenceClass(),
		SessionId: h.GetSessionId(), Capabilities: h.GetCapabilities(), GossipAddress: h.GetGossipAddress(), Machine: h.GetMachine(),
	}
	for _, p := range h.GetPools() {
		out.Pools = append(out.Pools, &tarnv1.Pool{
			Name: p.GetName(), Guid: p.GetGuid(), ReplicationDomain: p.GetReplicationDomain(),
			ReplicationTypes: p.GetReplicationTypes(), TotalCapacityGib: p.GetTotalCapacityGib(),
			ReservedPercentage: p.GetReservedPercentage(), MaxOverSubscriptionRatio: p.GetMaxOverSubscriptionRatio(),
			ThinProvisioning: p.GetThinProvisioning(), StorageProtocol: p.GetStorageProtocol(), Capabilities: p.GetCapabilities(),
		})
	}
	return out
}

// Assignments implements tarnv1connect.AgentServiceHandler. Any node answers: an
// old answer is harmless, because agents ignore revisions that fall.
func (s *agentService) Assignments(ctx context.Context, req *tarnv1.AssignmentsRequest) (*tarnv1.AssignmentsResponse, error) {
	if err := callerFrom(ctx).speaksFor(req.GetHostId()); err != nil {
		return nil, err
	}
	news, err := s.awaitRevision(ctx, req)
	if err != nil {
		return nil, err
	}
	if !news {
		return &tarnv1.AssignmentsResponse{Revision: req.GetAfterRevision(), Unchanged: true}, nil
	}
	v := s.State.View()
	assignments, revision := assignment.ForHost(v, req.GetHostId())
	host, _ := v.Host(req.GetHostId())
	return &tarnv1.AssignmentsResponse{Revision: revision, Assignments: assignments, Purges: host.GetPurges()}, nil
}

// awaitRevision waits until there is something newer for the host than it has.
func (s *agentService) awaitRevision(ctx context.Context, req *tarnv1.AssignmentsRequest) (bool, error) {
	timer := time.NewTimer(req.GetMaxWait().AsDuration())
	defer timer.Stop()
	for {
		revision, changed := s.State.View().HostRevision(req.GetHostId())
		if revision > req.GetAfterRevision() {
			return true, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, connect.NewError(connect.CodeUnavailable, errors.New("the poll was cut short, ask again"))
		}
	}
}

// Report implements tarnv1connect.AgentServiceHandler.
func (s *agentService) Report(ctx context.Context, req *tarnv1.ReportRequest) (*tarnv1.ReportResponse, error) {
	if err := callerFrom(ctx).speaksFor(req.GetHostId()); err != nil {
		return nil, err
	}
	if err := s.leading(); err != nil {
		return nil, err
	}
	if req.GetAnotherLife() {
		return s.anotherLife(req.GetHostId())
	}
	v := s.State.View()
	if err := currentSession(v, req.GetHostId(), req.GetSessionId()); err != nil {
		result := "stale"
		if e, ok := errors.AsType[*raftfsm.Error](err); ok && e.Code == raftfsm.NotFound {
			result = "unknown_host"
		}
		s.Count("report", result, 1)
		return nil, err
	}
	s.Count("report", "taken", 1)
	req.Replicas = slices.DeleteFunc(req.GetReplicas(), func(r *tarnv1.ReplicaReport) bool { return elsewhere(v, r.GetReplicaId(), req.GetHostId()) })
	full := s.Soft.Report(req, time.Now())
	out := &tarnv1.ReportResponse{WantFull: full, Inquiries: s.Soft.Inquiries(req.GetHostId())}
	out.Revocations = s.revocations.unless(v, req.GetRevocationsDigest())
	if req.GetGossip().GetRunning() {
		out.Gossip = s.Gossip.Orders(req.GetGossip())
	}
	return out, nil
}

// elsewhere reports a replica of another host. What one host says of it would take the
// place of what its own host says: a host that is not to be trusted any more could make
// the leader blind for all others.
func elsewhere(v *raftfsm.View, replicaID, hostID string) bool {
	r, ok := v.Replica(replicaID)
	return ok && r.GetHostId() != hostID
}

// currentSession refuses agents of an earlier start, and two that share an identity.
func currentSession(v *raftfsm.View, hostID, session string) error {
	h, ok := v.Host(hostID)
	if !ok {
		return notFound("host", hostID)
	}
	if h.GetSessionId() != session {
		return refused("session_id", "another session of this host has registered since; register again")
	}
	return nil
}

// RenewLease implements tarnv1connect.AgentServiceHandler. It follows reliability
// 3.3: the quorum round begins after the request arrived, the grant is noted
// before the state that decides it is read, nothing is granted while fencing. Nor is
// anything to a copy of the agent, whose asking must not seem to be a grant either.
func (s *agentService) RenewLease(ctx context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error) {
	if err := callerFrom(ctx).speaksFor(req.GetHostId()); err != nil {
		return nil, err
	}
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	v := s.State.View()
	out, err := s.answerTo(v, req)
	if err != nil {
		s.Count("lease", "refused", len(req.GetShares()))
		return nil, err
	}
	if out.GetAnotherLife() {
		s.Count("lease", "refused", len(req.GetShares()))
		return out, nil
	}
	// A look ahead: a host that would get nothing must not seem to hold a lease.
	if granted, revoked := assignment.Entitled(v, req.GetHostId(), req.GetShares()); len(granted) == 0 {
		out.Revoked = revoked
		s.Count("lease", "revoked", len(revoked))
		return out, nil
	}
	granted := s.Leases.Grant(req.GetHostId(), time.Now())
	v = s.State.View()
	err = currentSession(v, req.GetHostId(), req.GetSessionId())
	if err == nil && !granted {
		err = refused("session_id", "another machine is about to register as this host")
	}
	if err != nil {
		s.Count("lease", "refused", len(req.GetShares()))
		return nil, err
	}
	out.Granted, out.Revoked = assignment.Entitled(v, req.GetHostId(), req.GetShares())
	s.Count("lease", "granted", len(out.Granted))
	s.Count("lease", "revoked", len(out.Revoked))
	return out, nil
}
