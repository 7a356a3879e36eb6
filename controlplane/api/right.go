package api

import (
	"time"

	"tarn/controlplane/consensus"
	"tarn/controlplane/reconcile"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// printShareAlone is for answers about one share: it also says who may write it.
func (c *core) printShareAlone(v *raftfsm.View, who caller, stored *tarnv1.Share) *tarnv1.Share {
	out := printShare(v, who, stored)
	if stored.GetFencing() == nil {
		return out
	}
	out.Fencing.Right = c.right(v, who, stored)
	return out
}

// right puts together who may write a share, under which epoch and by which proof.
// Of the lease only the leader can say something.
func (c *core) right(v *raftfsm.View, who caller, share *tarnv1.Share) *tarnv1.WriteRight {
	f := share.GetFencing()
	out := &tarnv1.WriteRight{Epoch: f.GetEpoch()}
	owner, ok := v.Replica(f.GetOwnerReplicaId())
	if !ok {
		return out
	}
	host, _ := v.Host(owner.GetHostId())
	out.FenceClass = host.GetFenceClass()
	if seen, ok := c.Soft.Host(host.GetId()); ok && seen.FenceClass != tarnv1.FenceClass_FENCE_CLASS_UNSPECIFIED {
		out.FenceClass = min(out.GetFenceClass(), seen.FenceClass)
	}
	now := time.Now()
	leads := c.leading() == nil
	if f.GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_ACTIVE {
		if leads {
			out.WaitingFor = c.waitingFor(v, who, share, now)
		}
		return out
	}
	out.ReplicaId, out.AvailabilityZone = owner.GetId(), owner.GetAvailabilityZone()
	if who.isOperator() {
		out.Host = host.GetName()
	}
	if lineage := f.GetLineage(); len(lineage) > 0 {
		out.Since = lineage[len(lineage)-1].GetAt()
	}
	out.Proof = f.GetProof()
	if leads {
		out.State = c.writeState(v, owner, now)
		out.WaitingFor = c.waitingFor(v, who, share, now)
	}
	return out
}

// waitingFor looks at what was heard only of a share that waits at all: a snapshot of that
// is as large as the cluster.
func (c *core) waitingFor(v *raftfsm.View, who caller, share *tarnv1.Share, now time.Time) string {
	f := share.GetFencing()
	preparing := f.GetPreparing() != nil && !f.GetPreparing().GetCancelled()
	if f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_ACTIVE && !raftfsm.Unsettled(share) && !preparing {
		return ""
	}
	return reconcile.WaitingFor(c.Policy, v, c.Soft.Snapshot(now, c.Leases), share, who.isOperator())
}

func (c *core) writeState(v *raftfsm.View, owner *tarnv1.Replica, now time.Time) tarnv1.WriteState {
	switch {
	case c.Leases.Expired(owner.GetHostId(), c.Policy.Wait(v), now):
		return tarnv1.WriteState_WRITE_STATE_EXPIRED
	case c.Soft.Observation(owner.GetId(), now).GetWritable():
		return tarnv1.WriteState_WRITE_STATE_SERVING
	}
	return tarnv1.WriteState_WRITE_STATE_LEASED
}

// leading refuses on followers. A hint is enough where nothing is promised.
func (c *core) leading() error {
	if id, addr, term := c.Cluster.Leader(); id != c.NodeID {
		return &consensus.NotLeaderError{LeaderID: id, LeaderAddr: addr, Term: term}
	}
	return nil
}
