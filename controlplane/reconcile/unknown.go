package reconcile

import (
	"fmt"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	"tarn/controlplane/observe"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// restoredPatience is how long a restored state waits for hosts before shares are settled
// without their word on what they have of replicas that it does not know. A host that has
// such a one and comes later stops the share again.
const restoredPatience = 30 * time.Second

// told reports that every host has said what it has of replicas that the state does not
// know, or is given up on. Hosts that are not in the state need a moment, too: they
// register anew.
func (r *round) told() bool {
	led := r.obs.Now.Sub(r.obs.Since)
	if led >= restoredPatience || r.view.CommandVersion() < raftfsm.UnknownVersion {
		return true
	}
	if led < r.obs.ReportInterval {
		return false
	}
	for h := range r.view.Hosts() {
		// What it looked for before it heard of the restore is no answer.
		revision, _ := r.view.HostRevision(h.GetId())
		if seen := r.obs.Hosts[h.GetId()]; seen == nil || !seen.OrphansTold || seen.OrphansAt < revision {
			return false
		}
	}
	return true
}

// unknown is what hosts have of replicas of the share that the state does not know, with
// data of an epoch above known, and that is not taken down yet. It is possible only after
// a restore: nobody else is believed to know more than the state.
func (r *round) unknown(s *shareFacts, known uint64) []*tarnv1.UnknownReplica {
	if !r.view.Restored() || r.view.CommandVersion() < raftfsm.UnknownVersion {
		return nil
	}
	var out []*tarnv1.UnknownReplica
	for _, u := range r.strangers()[s.GetId()] {
		if u.GetEpoch() > known && u.GetEpoch() <= lastEpoch && !takenDown(s.Share, u) {
			out = append(out, u)
		}
	}
	return out
}

func takenDown(s *tarnv1.Share, u *tarnv1.UnknownReplica) bool {
	list := s.GetFencing().GetUnknownReplicas()
	for _, have := range list {
		if have.GetReplicaId() == u.GetReplicaId() {
			return true
		}
	}
	return len(list) >= raftfsm.MaxUnknown
}

// strangers are all datasets of unknown replicas by share, in the order of the hosts.
func (r *round) strangers() map[string][]*tarnv1.UnknownReplica {
	if r.looked {
		return r.strange
	}
	r.looked, r.strange = true, make(map[string][]*tarnv1.UnknownReplica)
	for u := range Unknown(r.view, r.obs) {
		r.strange[u.GetShareId()] = append(r.strange[u.GetShareId()], u)
	}
	return r.strange
}

// undecided says which replicas that the state does not know have newer data.
func (r *round) undecided(s *shareFacts, detail bool) string {
	list := raftfsm.Undecided(s.Share)
	if len(list) == 0 {
		return ""
	}
	u := list[0]
	for _, next := range list {
		if next.GetEpoch() > u.GetEpoch() || next.GetEpoch() == u.GetEpoch() && next.GetPrimary() {
			u = next
		}
	}
	where := ""
	if host, ok := r.view.Host(u.GetHostId()); ok && detail {
		where = " on host " + host.GetName()
	}
	return fmt.Sprintf("an operator: the state was restored from a backup of epoch %d, and replica %s%s, which it does not know, has data of epoch %d; `tarn replica unknown adopt %s` makes it one again, and `tarn replica unknown dismiss %s` goes on without it",
		s.fencing.GetEpoch(), u.GetReplicaId(), where, u.GetEpoch(), u.GetReplicaId(), u.GetReplicaId())
}

// Unknown walks the datasets that hosts of the state have of replicas that it does not
// have on them, host by host in the order of their ids.
func Unknown(view *raftfsm.View, observed *observe.Snapshot) iter.Seq[*tarnv1.UnknownReplica] {
	return func(yield func(*tarnv1.UnknownReplica) bool) {
		for h := range view.Hosts() {
			seen := observed.Hosts[h.GetId()]
			if seen == nil {
				continue
			}
			for _, told := range seen.Unknown {
				if r, ok := view.Replica(told.GetReplicaId()); ok && r.GetHostId() == h.GetId() {
					continue // Its assignment is on its way.
				}
				u := proto.CloneOf(told)
				u.HostId, u.Host = h.GetId(), h.GetName()+"@"+h.GetBackend()+"#"+u.GetPool()
				u.FoundAt, u.DismissedBy = nil, ""
				if !yield(u) {
					return
				}
			}
		}
	}
}
