package controlplane

import (
	"context"
	"errors"
	"math"
	"time"

	"tarn/controlplane/assignment"
	"tarn/controlplane/identity"
	"tarn/controlplane/reconcile"
	"tarn/metrics"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
	"tarn/raftfsm"
)

const gib = 1 << 30

func (n *Node) registerMetrics() {
	metrics.RegisterRaft(n.registry, n.raftMetrics)
	metrics.RegisterFleet(n.registry, n.fleet)
}

// observeRPC counts a request; those that wait on purpose without their duration.
func (n *Node) observeRPC(procedure, code string, took time.Duration) {
	if procedure == tarnv1connect.AgentServiceAssignmentsProcedure {
		n.counters.RPC.ObserveLongPoll(procedure, code)
		return
	}
	n.counters.RPC.Observe(procedure, code, took)
}

// count takes the API's decisions to their counters.
func (n *Node) count(what, result string, count int) {
	switch what {
	case "placement":
		n.counters.Placements.WithLabelValues(result).Add(float64(count))
	case "report":
		n.counters.Reports.WithLabelValues(result).Add(float64(count))
	case "lease":
		n.counters.Leases.WithLabelValues(result).Add(float64(count))
	}
}

// failedOver counts a promotion that the leader has finished.
func (n *Node) failedOver(share *tarnv1.Share) {
	f := share.GetFencing()
	kind := "planned"
	if f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_FORCED {
		kind = "forced"
	}
	if f.GetAutomatic() {
		kind = "automatic"
	}
	n.counters.Failovers.WithLabelValues(kind).Inc()
	if l := f.GetLineage(); len(l) > 0 && f.GetStartedAt() != nil {
		took := l[len(l)-1].GetAt().AsTime().Sub(f.GetStartedAt().AsTime())
		n.counters.FailoverDuration.WithLabelValues(kind).Observe(max(0, took.Seconds()))
	}
}

// admin is the plain listener for machines that watch the process.
func (n *Node) admin() metrics.Admin {
	return metrics.Admin{
		Addr:     n.cfg.Admin.Listen,
		Listener: n.cfg.AdminSocket,
		Gatherer: n.registry,
		Ready:    n.ready,
		Live:     n.fsm.Halted,
		Pprof:    n.cfg.Admin.Pprof,
		Admit:    identity.NewAdmission(identity.AdminLimits()).Listener,
	}
}

// Alive returns nil once the node's log and its state machine have proved that they are at
// work; leading or following, with a majority or without. It errors with the part that
// gave no sign until ctx ended, and before Run and after it.
func (n *Node) Alive(ctx context.Context) error {
	if err := n.fsm.Halted(); err != nil {
		return err
	}
	return n.consensus.Alive(ctx)
}

// ready says why requests would not get through this node now.
func (n *Node) ready() error {
	if err := n.fsm.Halted(); err != nil {
		return err
	}
	if n.consensus.Stats().LeaderID == "" {
		return errors.New("no leader is known")
	}
	return nil
}

func (n *Node) raftMetrics() metrics.Raft {
	s, log := n.consensus.Stats(), n.consensus.LogStats()
	return metrics.Raft{
		OldestLogAge: log.OldestAge, FreePages: log.FreePages,
		Leader: s.LeaderID == n.id, LeaderKnown: s.LeaderID != "", Term: s.Term,
		LastIndex: s.LastIndex, CommitIndex: s.CommitIndex, AppliedIndex: s.AppliedIndex,
		Voters: s.Voters, SinceContact: max(s.LastContact, 0),
		CheckedIndex: n.fsm.Checked(), CommandVersion: n.fsm.View().CommandVersion(),
	}
}

// fleet gives what the leader knows; other nodes nothing, so that every series
// exists once in the cluster.
func (n *Node) fleet() metrics.Fleet {
	if !n.consensus.IsLeader() {
		return metrics.Fleet{}
	}
	v, now := n.fsm.View(), time.Now()
	var f metrics.Fleet
	for h := range v.Hosts() {
		n.sampleHost(&f, v, h)
	}
	for s := range v.Shares() {
		n.sampleShare(&f, v, s, now)
	}
	n.sampleBlocked(&f, v, now)
	return f
}

// sampleBlocked adds the shares that ought to fail over by themselves and cannot.
func (n *Node) sampleBlocked(f *metrics.Fleet, v *raftfsm.View, now time.Time) {
	policy, observed := n.policy(), n.soft.Snapshot(now, n.leases)
	i := 0
	for s := range v.Shares() {
		f.Shares[i].FailoverBlocked = reconcile.FailoverBlocked(policy, v, observed, s) != ""
		i++
	}
}

func (n *Node) sampleHost(f *metrics.Fleet, v *raftfsm.View, h *tarnv1.Host) {
	host := metrics.HostSample{Host: h.GetName(), Zone: h.GetAvailabilityZone(), Up: h.GetState() == tarnv1.HostState_HOST_STATE_UP}
	if seen, ok := n.soft.Host(h.GetId()); ok {
		host.FenceDegraded = seen.FenceClass < h.GetFenceClass()
	}
	_, host.OtherLife = n.soft.OtherLife(h.GetId(), time.Now())
	for _, p := range h.GetPools() {
		_, replicas := v.PoolProvisioned(h.GetId(), p.GetName())
		host.Replicas += replicas
		total, free, health := p.GetTotalCapacityGib(), p.GetFreeCapacityGib(), p.GetHealth()
		if m, ok := n.soft.Pool(h.GetId(), p.GetName()); ok {
			total, free, health = m.GetTotalCapacityGib(), m.GetFreeCapacityGib(), m.GetHealth()
		}
		f.Pools = append(f.Pools, metrics.PoolSample{
			Host: h.GetName(), Pool: p.GetName(), Size: total * gib, Free: free * gib,
			Reserve: total * gib * float64(p.GetReservedPercentage()) / 100, Healthy: health == "" || health == "ONLINE",
		})
	}
	f.Hosts = append(f.Hosts, host)
}

func (n *Node) sampleShare(f *metrics.Fleet, v *raftfsm.View, s *tarnv1.Share, now time.Time) {
	share := metrics.ShareSample{
		Share: s.GetId(), Name: s.GetName(), Project: s.GetProjectId(),
		Policy: policyName(s.GetReplicationType()), Epoch: s.GetFencing().GetEpoch(), LossBound: math.NaN(), Unknown: len(raftfsm.Undecided(s)),
	}
	if f := s.GetFencing(); f.GetFsidEpoch() != 0 && f.GetFsidEpoch() == f.GetLoss().GetEpochTo() {
		share.LossBound = f.GetLoss().GetKeptAge().AsDuration().Seconds()
	}
	for _, r := range v.ReplicasOfShare(s.GetId()) {
		name := r.GetHostId()
		if h, ok := v.Host(r.GetHostId()); ok {
			name = h.GetName()
		}
		seen := n.soft.Observation(r.GetId(), now)
		if seen.GetWritable() {
			share.Writers = append(share.Writers, name)
		}
		if r.GetId() == s.GetFencing().GetOwnerReplicaId() {
			share.PrimaryHost = name
		}
		if r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_UNSPECIFIED {
			f.Replicas = append(f.Replicas, sampleReplica(s, r, seen, name))
		}
	}
	f.Shares = append(f.Shares, share)
}

func sampleReplica(s *tarnv1.Share, r *tarnv1.Replica, seen *tarnv1.ReplicaObservation, host string) metrics.ReplicaSample {
	out := metrics.ReplicaSample{
		Share: s.GetId(), Replica: r.GetId(), Host: host, State: stateName(r.GetReplicaState()),
		Lag: math.NaN(), LagBytes: math.NaN(), LagSnapshots: math.NaN(), AckedSnapshot: math.NaN(),
		RPO: assignment.RPO(s).Seconds(),
	}
	if seen.GetLag() != nil {
		out.Lag = seen.GetLag().AsDuration().Seconds()
		out.LagSnapshots = float64(seen.GetLagSnapshots())
	}
	if seen.GetLag() != nil && seen.GetLagBytes() >= 0 {
		out.LagBytes = float64(seen.GetLagBytes())
	}
	if at := seen.GetHeadCreatedAt(); at != nil {
		out.AckedSnapshot = float64(at.AsTime().UnixMilli()) / 1000
	}
	return out
}

func policyName(t tarnv1.ReplicationType) string {
	switch t {
	case tarnv1.ReplicationType_REPLICATION_TYPE_WRITABLE:
		return "writable"
	case tarnv1.ReplicationType_REPLICATION_TYPE_READABLE:
		return "readable"
	case tarnv1.ReplicationType_REPLICATION_TYPE_DR:
		return "dr"
	}
	return "none"
}

func stateName(s tarnv1.ReplicaState) string {
	switch s {
	case tarnv1.ReplicaState_REPLICA_STATE_ACTIVE:
		return "active"
	case tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC:
		return "in_sync"
	case tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC:
		return "out_of_sync"
	}
	return "error"
}
