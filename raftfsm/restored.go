package raftfsm

import (
	"slices"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// A state that was restored from a backup may be older than what hosts have seen: a share
// was promoted since, and the owner that the state names was never told. Until all that
// the state knows of have said under which epoch their data are, nobody may write; see
// docs/design/0002-control-plane.md.

// Unsettled says that nobody may write the share, because its state was restored and
// somebody has newer data, or has not spoken yet.
func Unsettled(s *tarnv1.Share) bool {
	f := s.GetFencing()
	return f.GetNewerEpoch() != 0 || len(f.GetUnheardReplicaIds()) > 0 || len(Undecided(s)) > 0
}

func settle(f *tarnv1.Fencing) {
	f.UnheardReplicaIds, f.NewerEpoch, f.NewerReplicaId = nil, 0, ""
}

// unsettle asks for the word of every replica of every share.
func (s *state) unsettle() {
	own := &token{}
	for _, share := range slices.Collect(s.shares.all()) {
		if share.GetFencing() == nil {
			continue
		}
		next := proto.CloneOf(share)
		next.Fencing.UnheardReplicaIds = nil
		for _, r := range s.replicasInOrder(share.GetId()) {
			next.Fencing.UnheardReplicaIds = append(next.Fencing.UnheardReplicaIds, r.GetId())
		}
		mutable(own, &s.shares).put(next)
	}
}

// foundEpochs takes down what hosts said. An owner that has the newest epoch itself, when
// all others have spoken, goes on under the next one: the promotions that the state does
// not know of ended with it.
func (tx *txn) foundEpochs(t *raftv1.ShareTransition) bool {
	s, ok := tx.s.share(t.GetId())
	found := t.GetFound()
	f := s.GetFencing()
	if !ok || tx.s.index < RestoredGap || f.GetEpoch() != found.GetExpectedEpoch() {
		return false // what was never restored knows everything itself
	}
	next := changeShare(s)
	f = next.GetFencing()
	f.UnheardReplicaIds = slices.DeleteFunc(f.GetUnheardReplicaIds(), func(id string) bool {
		return slices.Contains(found.GetHeardReplicaIds(), id)
	})
	known := f.GetEpoch()
	if fencing(s) {
		known++ // the floor of a promotion that runs
	}
	if newer := found.GetNewerEpoch(); newer > known && newer >= f.GetNewerEpoch() {
		f.NewerEpoch, f.NewerReplicaId = newer, found.GetNewerReplicaId()
	}
	tx.takeDown(next, found.GetUnknown(), known)
	if f.GetNewerEpoch() != 0 && f.GetNewerReplicaId() == f.GetOwnerReplicaId() && len(f.GetUnheardReplicaIds()) == 0 && len(Undecided(next)) == 0 && !fencing(s) {
		f.Epoch = f.GetNewerEpoch()
		settle(f)
		f.Preparing = nil
		tx.nextEpoch(f, found.GetHeadGuid())
		f.UnknownReplicas = nil
	}
	tx.goOn(next)
	tx.saveShare(s, next)
	return true
}

// forget drops a replica that is gone from those who have to speak. Whoever deletes the
// newest copy has decided against it; that another has the same epoch is found anew.
func (tx *txn) forget(shareID, replicaID string) {
	s, ok := tx.s.share(shareID)
	if !ok || !Unsettled(s) {
		return
	}
	next := changeShare(s)
	f := next.GetFencing()
	f.UnheardReplicaIds = slices.DeleteFunc(f.GetUnheardReplicaIds(), func(id string) bool { return id == replicaID })
	if f.GetNewerReplicaId() == replicaID {
		f.NewerEpoch, f.NewerReplicaId = 0, ""
	}
	tx.goOn(next)
	tx.saveShare(s, next)
}
