package api

import (
	"fmt"

	"tarn/controlplane/schedule"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// drainBlockers says for each replica that is still on a draining host what has
// to happen before it can leave, one sentence each.
func drainBlockers(v *raftfsm.View, hostID string) []string {
	var out []string
	for r := range v.ReplicasOnHost(hostID) {
		share, ok := v.Share(r.GetShareId())
		if !ok {
			continue
		}
		for _, step := range schedule.PlanDrain(drainShare(v, share)) {
			if step.Leaving == r.GetId() {
				out = append(out, drainSentence(share, step))
			}
		}
	}
	return out
}

func drainShare(v *raftfsm.View, share *tarnv1.Share) schedule.DrainShare {
	out := schedule.DrainShare{
		ShareID:         share.GetId(),
		Name:            share.GetName(),
		ReplicationType: share.GetReplicationType(),
		Promoting:       share.GetFencing().GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING,
	}
	for _, r := range v.ReplicasOfShare(share.GetId()) {
		host, _ := v.Host(r.GetHostId())
		out.Replicas = append(out.Replicas, schedule.DrainReplica{
			ID:       r.GetId(),
			Replaces: r.GetMetadata()[schedule.ReplacesKey],
			Draining: host.GetAdminState() == tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING,
			Down:     host.GetState() == tarnv1.HostState_HOST_STATE_DOWN,
			Owner:    share.GetFencing().GetOwnerReplicaId() == r.GetId(),
			Status:   r.GetStatus(),
			State:    r.GetReplicaState(),
		})
	}
	return out
}

func drainSentence(share *tarnv1.Share, step schedule.DrainStep) string {
	var next string
	switch step.Action {
	case schedule.DrainWait:
		next = step.Reason
	case schedule.DrainCreate:
		next = "a replica elsewhere is about to be made"
	case schedule.DrainPromote:
		next = fmt.Sprintf("replica %s is about to be promoted", step.ReplicaID)
	case schedule.DrainDelete:
		next = "is about to be deleted here"
	}
	return fmt.Sprintf("share %s (%s), replica %s: %s", share.GetName(), share.GetId(), step.Leaving, next)
}
