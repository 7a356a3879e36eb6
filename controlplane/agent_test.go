package controlplane_test

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// fakeAgent does at once whatever it is told, in memory.
type fakeAgent struct {
	h       *harness
	id      string
	session string
	cl      *client.Client
	class   tarnv1.FenceClass
	machine string
	// part is its part in the gossip ring; nil for an agent that knows of none.
	part *ringHost
	// die ends it without a word.
	die func()

	mu       sync.Mutex
	revision uint64
	desired  []*tarnv1.Assignment
	sequence uint64
	guids    map[string]uint64
}

// agent registers a host with one pool and serves it until the test ends.
func (h *harness) agent(name, zone string) *fakeAgent {
	h.t.Helper()
	return h.agentOfClass(name, zone, tarnv1.FenceClass_FENCE_CLASS_HELPER)
}

// ringAgent is an agent with a part in the gossip ring.
func (h *harness) ringAgent(name, zone, keyFile string) *fakeAgent {
	h.t.Helper()
	id := uuid.NewString()
	return h.serveAgent(&fakeAgent{id: id, part: h.ringHost(id, keyFile), class: tarnv1.FenceClass_FENCE_CLASS_HELPER}, name, zone)
}

func (h *harness) agentOfClass(name, zone string, class tarnv1.FenceClass) *fakeAgent {
	h.t.Helper()
	return h.serveAgent(&fakeAgent{id: uuid.NewString(), class: class}, name, zone)
}

func (h *harness) serveAgent(a *fakeAgent, name, zone string) *fakeAgent {
	h.t.Helper()
	a.h, a.session, a.guids = h, uuid.NewString(), map[string]uint64{}
	address := ""
	if a.part != nil && a.part.ring != nil {
		address = a.part.ring.Addr()
	}
	a.cl = h.as(identity.Subject{Role: identity.RoleAgent, ID: a.id})
	if err := a.register(name, zone, address); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	workers.Go(func() { a.poll(ctx) })
	workers.Go(func() { a.report(ctx) })
	a.die = func() { cancel(); workers.Wait() }
	h.t.Cleanup(a.die)
	return a
}

func (a *fakeAgent) register(name, zone, address string) error {
	_, err := a.cl.Agent.Register(context.Background(), &tarnv1.RegisterRequest{Host: &tarnv1.Host{
		Id: a.id, Name: name, AvailabilityZone: zone, Address: "127.0.0.1:1", Backend: "dir", SessionId: a.session,
		FenceClass: a.class, GossipAddress: address, Machine: a.machine,
		Pools: []*tarnv1.Pool{{
			Name: "tank", ReplicationDomain: "test", TotalCapacityGib: 1_000_000, FreeCapacityGib: 1_000_000,
			ReplicationTypes: []tarnv1.ReplicationType{tarnv1.ReplicationType_REPLICATION_TYPE_READABLE},
			StorageProtocol:  "NFS", Health: "ONLINE", MaxOverSubscriptionRatio: 1,
			Capabilities: map[string]string{"snapshot_support": "true"},
		}},
	}})
	return err
}

func (a *fakeAgent) poll(ctx context.Context) {
	for ctx.Err() == nil {
		a.mu.Lock()
		after := a.revision
		a.mu.Unlock()
		res, err := a.cl.Agent.Assignments(ctx, &tarnv1.AssignmentsRequest{
			HostId: a.id, AfterRevision: after, MaxWait: durationpb.New(20 * time.Second),
		})
		if err != nil || res.GetUnchanged() || res.GetRevision() < after {
			continue
		}
		a.mu.Lock()
		a.revision, a.desired = res.GetRevision(), res.GetAssignments()
		a.mu.Unlock()
	}
}

func (a *fakeAgent) report(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A leader that is lost meanwhile is found again by the next report.
		if res, err := a.cl.Agent.Report(ctx, a.next()); err == nil && a.part != nil {
			a.part.obey(res.GetGossip())
		}
	}
}

// next makes a full report in which everything desired is done.
func (a *fakeAgent) next() *tarnv1.ReportRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sequence++
	out := &tarnv1.ReportRequest{
		HostId: a.id, SessionId: a.session, Sequence: a.sequence, AssignmentsRevision: a.revision, Full: true,
		FenceClass: a.class,
		Pools:      []*tarnv1.PoolReport{{Name: "tank", TotalCapacityGib: 1_000_000, FreeCapacityGib: 900_000, Health: "ONLINE"}},
	}
	if a.part != nil {
		out.Gossip = a.part.state()
	}
	for _, want := range a.desired {
		out.Replicas = append(out.Replicas, a.obeyed(want))
	}
	return out
}

func (a *fakeAgent) obeyed(want *tarnv1.Assignment) *tarnv1.ReplicaReport {
	const head = 4711
	r := &tarnv1.ReplicaReport{
		ReplicaId: want.GetReplicaId(), ShareId: want.GetShareId(), ObservedEpoch: want.GetEpoch(),
		ObservedRole: want.GetRole(), Ready: true, HeadGuid: head, HeadCreatedAt: timestamppb.Now(),
		AppliedAccessRevision: want.GetExports().GetRevision(), AppliedSizeGib: want.GetSizeGib(),
		ResyncGeneration: want.GetResyncGeneration(), DirtyBytes: -1,
	}
	switch want.GetRole() {
	case tarnv1.Role_ROLE_ACTIVE:
		r.Writable = true
		r.Exports = []*tarnv1.ReportedExport{{Path: "127.0.0.1:/tank/" + want.GetReplicaId()}}
	case tarnv1.Role_ROLE_SECONDARY:
		r.Lag = durationpb.New(0)
	case tarnv1.Role_ROLE_FENCED:
		ack := &tarnv1.DemoteAck{OpId: want.GetOpId(), Epoch: want.GetEpoch(), HeadGuid: head, HeadCreatedAt: timestamppb.Now()}
		if want.GetSeal() {
			r.SealAck = ack
		} else {
			r.DemoteAck = ack
		}
	case tarnv1.Role_ROLE_DELETING:
		r.Gone, r.Ready = true, false
	}
	for i, s := range want.GetSnapshots() {
		guid := s.GetGuid()
		if guid == 0 && want.GetRole() == tarnv1.Role_ROLE_ACTIVE {
			guid = uint64(1000 + i)
		}
		if guid != 0 {
			r.Snapshots = append(r.Snapshots, &tarnv1.SnapshotReport{SnapshotId: s.GetSnapshotId(), Guid: guid, Present: true, TakenAt: timestamppb.Now()})
		}
	}
	for _, s := range want.GetRemovedSnapshots() {
		r.Snapshots = append(r.Snapshots, &tarnv1.SnapshotReport{SnapshotId: s.GetSnapshotId(), Guid: s.GetGuid(), Removed: true})
	}
	return r
}
