package api

import (
	"context"
	"fmt"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/assignment"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// maxProblems bounds how many sentences a status has.
const maxProblems = 50

// GetStatus implements tarnv1connect.OperatorServiceHandler. People of a project
// see the counts of their project; agents and control nodes see no counts.
func (s *operators) GetStatus(ctx context.Context, req *tarnv1.GetStatusRequest) (*tarnv1.ClusterStatus, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	leader, addr, term := s.Cluster.Leader()
	out := &tarnv1.ClusterStatus{
		ClusterId: s.ClusterID, LeaderId: leader, LeaderAddress: addr, Term: term,
		AppliedIndex: v.Index(), AnsweredBy: s.NodeID, Version: s.Version,
	}
	who := callerFrom(ctx)
	t := tally{core: s.core, view: v, out: out, operator: who.isOperator()}
	switch who.grant {
	case operator:
		t.machines()
		t.shares(v.Shares())
	case reader, member:
		t.shares(v.SharesOfProject(who.project))
	}
	return out, nil
}

// tally fills a status.
type tally struct {
	*core
	view *raftfsm.View
	out  *tarnv1.ClusterStatus
	// operator may read what agents say in their own words.
	operator bool
}

func (t *tally) problem(format string, args ...any) {
	if len(t.out.Problems) < maxProblems {
		t.out.Problems = append(t.out.Problems, fmt.Sprintf(format, args...))
	}
}

func (t *tally) machines() {
	if list, err := (&operators{core: t.core}).raftServers(); err == nil {
		t.out.RaftServers = list.GetServers()
	}
	if t.out.LeaderId == "" {
		t.problem("no node leads: changes wait until a majority of the control plane is up")
	}
	t.out.CommandVersion = t.view.CommandVersion()
	if wait := t.view.LeaseWait(); wait != 0 {
		t.out.LeaseWait = durationpb.New(wait)
	}
	for _, who := range t.Behind() {
		t.problem("%s: until it is upgraded or removed the cluster stays at command version %d", who, t.out.CommandVersion)
	}
	for h := range t.view.Hosts() {
		switch {
		case h.GetState() == tarnv1.HostState_HOST_STATE_DOWN:
			t.out.HostsDown++
			t.problem("host %s is down: start its agent, or promote replicas elsewhere with force", h.GetName())
		default:
			t.out.HostsUp++
		}
		if h.GetAdminState() != tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED {
			t.out.HostsDisabled++
		}
	}
}

func (t *tally) shares(all iter.Seq[*tarnv1.Share]) {
	now := time.Now()
	for s := range all {
		t.share(s)
		for _, r := range t.view.ReplicasOfShare(s.GetId()) {
			t.replica(s, r, now)
		}
	}
}

func (t *tally) share(s *tarnv1.Share) {
	t.out.Shares++
	if n := len(raftfsm.Undecided(s)); n > 0 {
		t.problem("share %s (%s): after the restore a host has newer data of it in %d replicas that the state does not know, and nobody may write: tarn replica unknown list", s.GetName(), s.GetId(), n)
	}
	if p := s.GetFencing().GetPreparing(); s.GetFencing().GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING || p != nil && !p.GetCancelled() {
		t.out.PromotionsRunning++
	}
	switch t.view.ShareStatus(s) {
	case tarnv1.Status_STATUS_AVAILABLE:
		t.out.SharesAvailable++
	case tarnv1.Status_STATUS_ERROR, tarnv1.Status_STATUS_ERROR_DELETING:
		t.out.SharesError++
		t.problem("share %s (%s) is in error", s.GetName(), s.GetId())
	case tarnv1.Status_STATUS_MANAGE_ERROR:
		t.out.SharesError++
		t.problem("share %s (%s) cannot be managed as it is; its replica's error says why", s.GetName(), s.GetId())
	case tarnv1.Status_STATUS_UNMANAGE_ERROR:
		t.out.SharesError++
		t.problem("share %s (%s) cannot be unmanaged as it is; its replica's error says why", s.GetName(), s.GetId())
	}
}

func (t *tally) replica(s *tarnv1.Share, r *tarnv1.Replica, now time.Time) {
	t.out.Replicas++
	switch r.GetReplicaState() {
	case tarnv1.ReplicaState_REPLICA_STATE_ACTIVE:
		t.out.ReplicasActive++
		return
	case tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC:
		t.out.ReplicasInSync++
	case tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC:
		t.out.ReplicasOutOfSync++
	case tarnv1.ReplicaState_REPLICA_STATE_ERROR:
		t.out.ReplicasError++
		e := r.GetError()
		if !t.operator {
			e = forUsers(e)
		}
		t.problem("replica %s of share %s is in error: %s", r.GetId(), s.GetName(), e.GetMessage())
	case tarnv1.ReplicaState_REPLICA_STATE_UNSPECIFIED:
		return
	}
	seen := t.Soft.Observation(r.GetId(), now)
	if seen.GetLag() == nil {
		return
	}
	lag := seen.GetLag().AsDuration()
	if lag > t.out.GetWorstLag().AsDuration() {
		t.out.WorstLag, t.out.WorstLagReplicaId = durationpb.New(lag), r.GetId()
	}
	if rpo := assignment.RPO(s); lag > rpo {
		t.out.MissedRpo++
		t.problem("replica %s of share %s lags %s, its type promises %s", r.GetId(), s.GetName(), lag.Round(time.Millisecond), rpo)
	}
}
