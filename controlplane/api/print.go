package api

import (
	"errors"
	"time"

	"tarn/controlplane/reconcile"
	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// The print functions make answers of stored records: a clone with the projected
// fields, without what only operators may see.

func printShare(v *raftfsm.View, who caller, s *tarnv1.Share) *tarnv1.Share {
	out := v.ProjectShare(s)
	out.ExportLocations = visibleLocations(who, out.GetExportLocations())
	if !who.isOperator() {
		out.Host = ""
		if f := out.GetFencing(); f != nil {
			f.ProofDetail, f.Attestation = "", ""
			for _, u := range f.GetUnknownReplicas() {
				u.HostId, u.Host, u.Pool, u.Dataset, u.DismissedBy = "", "", "", "", ""
			}
			if f.GetSecond() != nil {
				f.Second.AskedBy, f.Second.GivenBy = "", ""
			}
		}
	}
	return out
}

func (c *core) printReplica(v *raftfsm.View, who caller, r *tarnv1.Replica) *tarnv1.Replica {
	out := v.ProjectReplica(r)
	out.Observed = c.Soft.Observation(r.GetId(), time.Now())
	out.ExportLocations = visibleLocations(who, out.GetExportLocations())
	if !who.isOperator() {
		hideHost(out)
	}
	return out
}

// hideHost blanks whatever names machines and pools.
func hideHost(r *tarnv1.Replica) {
	r.Host, r.HostId, r.Pool, r.ManagedFrom = "", "", "", ""
	r.Error = forUsers(r.GetError())
	if r.GetObserved() != nil {
		r.Observed.Mountpoint, r.Observed.KeyFile = "", ""
		r.Observed.Error = forUsers(r.Observed.GetError())
	}
	for i, d := range r.GetDivergentCopies() {
		r.DivergentCopies[i] = &tarnv1.DivergentCopy{Epoch: d.GetEpoch(), UsedBytes: d.GetUsedBytes(), CreatedAt: d.GetCreatedAt()}
	}
}

// forUsers is an error without the agent's own words, which may name datasets and hosts.
func forUsers(e *tarnv1.ReplicaError) *tarnv1.ReplicaError {
	if e == nil {
		return nil
	}
	return &tarnv1.ReplicaError{Code: e.GetCode(), Message: reconcile.Sentence(e), Since: e.GetSince(), Retrying: e.GetRetrying()}
}

func visibleLocations(who caller, all []*tarnv1.ExportLocation) []*tarnv1.ExportLocation {
	if who.isOperator() {
		return all
	}
	var visible []*tarnv1.ExportLocation
	for _, l := range all {
		if !l.GetIsAdminOnly() {
			visible = append(visible, l)
		}
	}
	return visible
}

func printInstance(who caller, i *tarnv1.SnapshotInstance) *tarnv1.SnapshotInstance {
	if who.isOperator() || i.GetProviderLocation() == "" {
		return i
	}
	return &tarnv1.SnapshotInstance{
		Id: i.GetId(), SnapshotId: i.GetSnapshotId(), ShareId: i.GetShareId(), ReplicaId: i.GetReplicaId(),
		Status: i.GetStatus(), Progress: i.GetProgress(), CreatedAt: i.GetCreatedAt(), UpdatedAt: i.GetUpdatedAt(),
	}
}

// putInto writes a placement into the replica of a creating command.
func putInto(cmd *raftv1.Command, p schedule.Placement) error {
	var r *tarnv1.Replica
	switch verb := cmd.GetVerb().(type) {
	case *raftv1.Command_CreateShare:
		r = verb.CreateShare.GetReplica()
	case *raftv1.Command_CreateReplica:
		r = verb.CreateReplica.GetReplica()
	}
	if r == nil {
		return errors.New("command places no replica")
	}
	r.HostId, r.Pool, r.Host, r.AvailabilityZone = p.HostID, p.Pool, p.FullName, p.Zone
	return nil
}
