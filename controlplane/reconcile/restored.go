package reconcile

import (
	"fmt"
	"slices"
	"strings"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// spoken is what a host said of the epoch that a replica's data are under.
type spoken struct {
	replica *tarnv1.Replica
	report  *tarnv1.ReplicaReport
	epoch   uint64
}

// lastEpoch is above what any share ever gets to. A host that names more is broken or
// hostile, and the epoch after its own would not be a higher one.
const lastEpoch = 1 << 48

// speaks returns it; false while the host does not know: it is silent, or its pool is not
// there, or the dataset was renamed, which is retried, or what it says cannot be. One that
// is missing, or was not made yet, has no newer data.
func speaks(rep *tarnv1.Replica, report *tarnv1.ReplicaReport) (spoken, bool) {
	s := spoken{replica: rep, report: report, epoch: report.GetObservedEpoch()}
	missing := report.GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_MISSING && !report.GetError().GetRetrying()
	switch {
	case report == nil || s.epoch > lastEpoch:
		return s, false
	case report.GetHeadGuid() != 0:
		return s, true
	case report.GetGone(), missing, report.GetError() == nil && rep.GetLaunchedAt() == nil:
		s.epoch = 0
		return s, true
	}
	return s, false
}

// restored notes what the hosts of a restored share say, and which of them has seen an
// epoch that the state does not know. That is possible only after a restore: epochs are
// committed before a host hears of them. While a promotion runs, its sides have their
// floor one above.
func (r *round) restored(s *shareFacts) {
	if s.fencing == nil || r.view.CommandVersion() < raftfsm.FoundVersion {
		return
	}
	var newest *spoken
	var heard []string
	for _, rep := range s.replicas {
		said, ok := speaks(rep, s.report(rep.GetId()))
		if !ok {
			continue
		}
		if slices.Contains(s.fencing.GetUnheardReplicaIds(), rep.GetId()) && r.told() {
			heard = append(heard, rep.GetId())
		}
		if newest == nil || s.newer(&said, newest) {
			newest = &said
		}
	}
	known := s.fencing.GetEpoch()
	if s.fenced() {
		known++
	}
	found := &raftv1.FoundEpochs{ExpectedEpoch: s.fencing.GetEpoch(), HeardReplicaIds: heard}
	if newest != nil && newest.epoch > known {
		found.NewerEpoch, found.NewerReplicaId, found.HeadGuid = newest.epoch, newest.replica.GetId(), newest.report.GetHeadGuid()
	}
	found.Unknown = r.unknown(s, known)
	if len(heard) > 0 || len(found.GetUnknown()) > 0 || s.news(found) {
		r.found(s, found)
	}
}

// newer says that a has to be taken for the last owner rather than b: by its epoch, then
// because it is one by its marks, then because the state names it.
func (s *shareFacts) newer(a, b *spoken) bool {
	switch active := tarnv1.Role_ROLE_ACTIVE; {
	case a.epoch != b.epoch:
		return a.epoch > b.epoch
	case (a.report.GetObservedRole() == active) != (b.report.GetObservedRole() == active):
		return a.report.GetObservedRole() == active
	}
	return a.replica.GetId() == s.owner()
}

// news says that the state does not have this yet, or can go on by it.
func (s *shareFacts) news(found *raftv1.FoundEpochs) bool {
	switch {
	case found.GetNewerEpoch() == 0:
		return false
	case found.GetNewerEpoch() > s.fencing.GetNewerEpoch():
		return true
	case found.GetNewerEpoch() < s.fencing.GetNewerEpoch():
		return false
	}
	return found.GetNewerReplicaId() != s.fencing.GetNewerReplicaId() ||
		found.GetNewerReplicaId() == s.owner() && !s.fenced() && len(s.fencing.GetUnheardReplicaIds()) == 0 && len(raftfsm.Undecided(s.Share)) == 0
}

func (r *round) found(s *shareFacts, found *raftv1.FoundEpochs) {
	r.batch.Shares = append(r.batch.Shares, &raftv1.ShareTransition{Id: s.GetId(), Found: found})
	if len(found.GetUnknown()) > 0 {
		r.complain(s, shareResource(s), actionPromote, detailDriver,
			"The control plane was restored from a backup, and a host has newer data of this share, in a replica that the backup does not know. Nobody may write until the operator has decided about it.")
	}
	if found.GetNewerEpoch() > s.fencing.GetNewerEpoch() && found.GetNewerReplicaId() != s.owner() {
		r.complain(s, shareResource(s), actionPromote, detailDriver,
			"The control plane was restored from a backup that is older than a promotion of this share. Another replica than the active one has its newest data, so that nobody may write. Ask the operator to promote that replica by force.")
	}
}

// unsettled says what a restored share waits for, and what an operator can do.
func (r *round) unsettled(s *shareFacts, detail bool) string {
	f := s.fencing
	if text := r.undecided(s, detail); text != "" {
		return text
	}
	if f.GetNewerEpoch() != 0 && f.GetNewerReplicaId() != s.owner() {
		return fmt.Sprintf("an operator: the state was restored from a backup of epoch %d, and replica %s has data of epoch %d; promote that one with --force",
			f.GetEpoch(), r.called(s, f.GetNewerReplicaId(), detail), f.GetNewerEpoch())
	}
	var names []string
	for _, id := range f.GetUnheardReplicaIds() {
		names = append(names, r.called(s, id, detail))
	}
	if !r.told() {
		return "every host to say what it has, after the restore; " + restoredPatience.String() + " at the most"
	}
	if len(names) == 0 {
		return "the leader to take up what the hosts said after the restore"
	}
	return "the word of every host after the restore, whether it has newer data: not yet of replica " + strings.Join(names, ", ") +
		"; start their hosts, or, if they are lost for good, delete these replicas with --force"
}

// called names a replica; its host is for operators.
func (r *round) called(s *shareFacts, id string, detail bool) string {
	for _, rep := range s.replicas {
		if rep.GetId() != id {
			continue
		}
		text := id + " in zone " + rep.GetAvailabilityZone()
		if host, ok := r.view.Host(rep.GetHostId()); ok && detail {
			text += " on host " + host.GetName()
		}
		return text
	}
	return id
}
