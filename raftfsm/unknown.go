package raftfsm

import (
	"slices"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// A replica that was made after the backup that a state was restored from, and promoted
// since, is in no record of the state. Its host tells of its dataset all the same. Such a
// one is adopted, as the replica that it is, or dismissed; until then nobody may write.

// MaxUnknown bounds what a share keeps of them: hosts name them, and one may be hostile.
const MaxUnknown = 16

// Undecided are the unknown replicas of a share that nobody has decided about.
func Undecided(s *tarnv1.Share) []*tarnv1.UnknownReplica {
	return slices.DeleteFunc(slices.Clone(s.GetFencing().GetUnknownReplicas()), func(u *tarnv1.UnknownReplica) bool { return u.GetDismissedBy() != "" })
}

func unknownOf(s *tarnv1.Share, replicaID string) *tarnv1.UnknownReplica {
	for _, u := range s.GetFencing().GetUnknownReplicas() {
		if u.GetReplicaId() == replicaID {
			return u
		}
	}
	return nil
}

// takeDown keeps what hosts have of replicas that the state does not know, above known.
func (tx *txn) takeDown(next *tarnv1.Share, found []*tarnv1.UnknownReplica, known uint64) {
	f := next.GetFencing()
	for _, u := range found {
		_, exists := tx.s.replica(u.GetReplicaId())
		if exists || u.GetReplicaId() == "" || u.GetEpoch() <= known || unknownOf(next, u.GetReplicaId()) != nil || len(f.GetUnknownReplicas()) >= MaxUnknown {
			continue
		}
		f.UnknownReplicas = append(f.UnknownReplicas, &tarnv1.UnknownReplica{
			ReplicaId: u.GetReplicaId(), ShareId: next.GetId(), HostId: u.GetHostId(), Pool: u.GetPool(), Dataset: u.GetDataset(),
			Epoch: u.GetEpoch(), Primary: u.GetPrimary(), UsedBytes: u.GetUsedBytes(), FoundAt: tx.now,
		})
	}
}

// farthest is the highest epoch that a share was under as far as is known.
func farthest(f *tarnv1.Fencing) uint64 {
	n := f.GetEpoch()
	for _, u := range f.GetUnknownReplicas() {
		n = max(n, u.GetEpoch())
	}
	return n
}

// dismissUnknown takes down that the share goes on without one, and lets it go on if that
// was the last thing that it waited for.
func (tx *txn) dismissUnknown(c *raftv1.DismissUnknownReplica, actor string) (*tarnv1.Share, *Error) {
	s, ok := tx.s.share(c.GetShareId())
	if !ok {
		return nil, missing("share_id", "share", c.GetShareId())
	}
	u := unknownOf(s, c.GetReplicaId())
	switch {
	case u == nil:
		return nil, refuse(FailedPrecondition, "replica_id", "the share waits for no decision about replica %s", c.GetReplicaId())
	case u.GetDismissedBy() != "":
		return s, nil
	}
	if actor == "" {
		actor = "somebody"
	}
	next := changeShare(s)
	unknownOf(next, c.GetReplicaId()).DismissedBy = actor
	tx.goOn(next)
	return tx.saveShare(s, next), nil
}

// goOn lets a share whose unknown replicas are all dismissed go on with its owner, above
// every epoch that they have seen, when nothing else is open.
func (tx *txn) goOn(next *tarnv1.Share) {
	f := next.GetFencing()
	if len(f.GetUnknownReplicas()) == 0 || Unsettled(next) || fencing(next) {
		return
	}
	owner, _ := tx.owner(next)
	f.Preparing = nil
	tx.nextEpoch(f, owner.GetHeadGuid())
	f.UnknownReplicas = nil
}

// decided drops the unknown replicas that a promotion was begun in the knowledge of: it has
// ended above all of them. One that was found meanwhile is still to be decided about.
func decided(f *tarnv1.Fencing) {
	f.UnknownReplicas = slices.DeleteFunc(f.GetUnknownReplicas(), func(u *tarnv1.UnknownReplica) bool {
		return u.GetDismissedBy() != "" || u.GetFoundAt().AsTime().Before(f.GetStartedAt().AsTime())
	})
}

// checkAdoption: an unknown replica can only be made one where it lies.
func checkAdoption(s *tarnv1.Share, asked *tarnv1.Replica) *Error {
	u := unknownOf(s, asked.GetId())
	if u == nil || u.GetHostId() == asked.GetHostId() && u.GetPool() == asked.GetPool() && asked.GetManagedFrom() == "" {
		return nil
	}
	return refuse(FailedPrecondition, "id", "replica %s lies on pool %s of another host; adopt it there", asked.GetId(), u.GetPool())
}

// adopt makes a new record that of an unknown replica: it has its data already, and the
// share waits for its word like for that of the others.
func (tx *txn) adopt(s *tarnv1.Share, r *tarnv1.Replica) {
	if unknownOf(s, r.GetId()) == nil {
		return
	}
	r.Status, r.LaunchedAt = tarnv1.Status_STATUS_AVAILABLE, tx.now
	next := changeShare(s)
	f := next.GetFencing()
	f.UnknownReplicas = slices.DeleteFunc(f.GetUnknownReplicas(), func(u *tarnv1.UnknownReplica) bool { return u.GetReplicaId() == r.GetId() })
	f.UnheardReplicaIds = append(f.GetUnheardReplicaIds(), r.GetId())
	tx.saveShare(s, next)
}
