package assignment

import (
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// Entitled splits the shares for which a host asks a lease into those that it may
// write under the state of view and those that it may not: only a share's owner, on
// the host that has it, under the share's epoch, and nobody while the share is
// fencing (reliability 3.3), or after a restore not settled. Each comes back as it was asked for.
//
// It judges one state. That this is the newest one, and that the grant was noted
// before it was read, is the caller's to see to (see observe.Leases.Grant).
func Entitled(view *raftfsm.View, hostID string, shares []*tarnv1.LeaseShare) (granted, revoked []*tarnv1.LeaseShare) {
	for _, wanted := range shares {
		if mayServe(view, hostID, wanted) {
			granted = append(granted, wanted)
		} else {
			revoked = append(revoked, wanted)
		}
	}
	return granted, revoked
}

func mayServe(view *raftfsm.View, hostID string, wanted *tarnv1.LeaseShare) bool {
	share, ok := view.Share(wanted.GetShareId())
	if !ok {
		return false
	}
	r, ok := view.Replica(wanted.GetReplicaId())
	if !ok || r.GetHostId() != hostID {
		return false
	}
	f := share.GetFencing()
	return f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_ACTIVE && !raftfsm.Unsettled(share) &&
		f.GetOwnerReplicaId() == r.GetId() && f.GetEpoch() == wanted.GetEpoch()
}
