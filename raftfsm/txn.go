package raftfsm

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// txn is one command at work on a copy of the state. Dropping it undoes everything.
// Records are replaced, never changed: what was published stays as it was.
type txn struct {
	s   *state
	own *token
	// now is the state's time, shared by all records this command stamps.
	now *timestamppb.Timestamp

	touchedShares map[string]struct{}
	touchedHosts  map[string]struct{}
	wake          []chan struct{}
	// items of a batch whose guard did not hold.
	dropped int
}

func begin(base *state) *txn {
	next := *base
	return &txn{
		s: &next, own: &token{},
		now:           timestamppb.New(base.lastTime),
		touchedShares: map[string]struct{}{},
		touchedHosts:  map[string]struct{}{},
	}
}

func (tx *txn) putType(t *tarnv1.ShareType) {
	t.Revision = tx.s.index
	mutable(tx.own, &tx.s.types).put(t)
}

// putShare stores a share and moves usage from what it was to what it is.
func (tx *txn) putShare(next *tarnv1.Share) {
	next.Revision = tx.s.index
	tx.storeShare(next)
}

func (tx *txn) storeShare(next *tarnv1.Share) {
	old, existed := mutable(tx.own, &tx.s.shares).put(next)
	n := int64(0)
	if existed {
		n = int64(tx.s.countReplicas(next.GetId()))
		tx.resizePools(next, sizeOf(next)-sizeOf(old))
	}
	delta := shareUse(next).plus(replicaUse(next, n)).minus(shareUse(old)).minus(replicaUse(old, n))
	tx.addUse(next.GetProjectId(), next.GetUserId(), next.GetShareTypeId(), delta)
	tx.touchShare(next.GetId())
}

func (tx *txn) resizePools(s *tarnv1.Share, grow int64) {
	if grow == 0 {
		return
	}
	for r := range tx.s.replicasOf(s.GetId()) {
		tx.addPool(r.GetHostId(), r.GetPool(), grow, 0)
	}
}

// removeShare takes the record away; its replicas must be gone already.
func (tx *txn) removeShare(s *tarnv1.Share) {
	mutable(tx.own, &tx.s.shares).remove(s)
	tx.addUse(s.GetProjectId(), s.GetUserId(), s.GetShareTypeId(), amounts{}.minus(shareUse(s)))
}

// putReplica stores a replica of an existing share.
func (tx *txn) putReplica(next *tarnv1.Replica) {
	next.Revision = tx.s.index
	tx.storeReplica(next)
}

func (tx *txn) storeReplica(next *tarnv1.Replica) {
	old, existed := mutable(tx.own, &tx.s.replicas).put(next)
	if existed {
		tx.s.states[stateOf(old)]--
	} else {
		tx.countReplica(next, 1)
	}
	tx.s.states[stateOf(next)]++
	tx.touchShare(next.GetShareId())
	tx.touchHost(next.GetHostId())
}

func (tx *txn) dropReplica(r *tarnv1.Replica) {
	mutable(tx.own, &tx.s.replicas).remove(r)
	tx.s.states[stateOf(r)]--
	tx.countReplica(r, -1)
	tx.touchShare(r.GetShareId())
	tx.touchHost(r.GetHostId())
}

func (tx *txn) countReplica(r *tarnv1.Replica, n int64) {
	s, ok := tx.s.share(r.GetShareId())
	if !ok {
		return
	}
	tx.addPool(r.GetHostId(), r.GetPool(), n*sizeOf(s), int(n))
	tx.addUse(s.GetProjectId(), s.GetUserId(), s.GetShareTypeId(), replicaUse(s, n))
}

func stateOf(r *tarnv1.Replica) int {
	if st := int(r.GetReplicaState()); st > 0 && st < stateCount {
		return st
	}
	return 0
}

func (tx *txn) putSnapshot(next *tarnv1.Snapshot) {
	next.Revision = tx.s.index
	tx.storeSnapshot(next)
}

func (tx *txn) storeSnapshot(next *tarnv1.Snapshot) {
	old, _ := mutable(tx.own, &tx.s.snapshots).put(next)
	tx.useSnapshot(next, snapshotUse(next).minus(snapshotUse(old)))
	tx.touchShare(next.GetShareId())
}

func (tx *txn) dropSnapshot(s *tarnv1.Snapshot) {
	mutable(tx.own, &tx.s.snapshots).remove(s)
	tx.useSnapshot(s, amounts{}.minus(snapshotUse(s)))
	tx.touchShare(s.GetShareId())
}

func (tx *txn) useSnapshot(s *tarnv1.Snapshot, delta amounts) {
	share, _ := tx.s.share(s.GetShareId())
	tx.addUse(s.GetProjectId(), s.GetUserId(), share.GetShareTypeId(), delta)
}

func (tx *txn) putInstance(next *tarnv1.SnapshotInstance) {
	mutable(tx.own, &tx.s.instances).put(next)
	tx.touchShare(next.GetShareId())
}

func (tx *txn) dropInstance(i *tarnv1.SnapshotInstance) {
	mutable(tx.own, &tx.s.instances).remove(i)
	tx.touchShare(i.GetShareId())
}

func (tx *txn) putRule(next *tarnv1.AccessRule) {
	mutable(tx.own, &tx.s.rules).put(next)
	tx.touchShare(next.GetShareId())
}

func (tx *txn) dropRule(r *tarnv1.AccessRule) {
	mutable(tx.own, &tx.s.rules).remove(r)
	tx.touchShare(r.GetShareId())
}

func (tx *txn) putHost(next *tarnv1.Host) {
	next.Revision = tx.s.index
	tx.storeHost(next)
}

func (tx *txn) storeHost(next *tarnv1.Host) {
	old, existed := mutable(tx.own, &tx.s.hosts).put(next)
	if !existed {
		tx.touchHost(next.GetId())
	}
	if old.GetAddress() != next.GetAddress() {
		tx.touchPeersOf(next)
	}
}

func (tx *txn) putToken(t *raftv1.JoinToken) { mutable(tx.own, &tx.s.tokens).put(t) }

// changeShare returns a copy to edit. The extra specs are never edited and many
// shares have equal ones, so the copy keeps sharing them.
func changeShare(s *tarnv1.Share) *tarnv1.Share {
	specs := s.GetExtraSpecs()
	next := proto.CloneOf(s)
	next.ExtraSpecs = specs
	return next
}

func (tx *txn) changeReplica(r *tarnv1.Replica) *tarnv1.Replica {
	next := proto.CloneOf(r)
	next.UpdatedAt = tx.now
	return next
}
