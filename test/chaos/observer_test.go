package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
)

// observer asks the API what there is, all the time, and keeps what the past was.
type observer struct {
	arena *arena

	mu       sync.Mutex
	replicas map[string]*tarnv1.Replica
	shares   map[string]*tarnv1.Share
	// owners of each share by epoch, and losses by the epoch that they led to.
	owners map[string]map[uint64]*tarnv1.LineageEntry
	losses map[string]map[uint64]*tarnv1.Fencing
	// finals are the snapshots that ended the writes of an epoch by its owner's word.
	finals map[string]map[uint64]uint64
	// snapshots that were available once.
	available map[string]*tarnv1.Snapshot
	broken    []error
	asked     int
	answered  int
}

func newObserver(a *arena) *observer {
	return &observer{
		arena: a, replicas: map[string]*tarnv1.Replica{}, shares: map[string]*tarnv1.Share{},
		owners: map[string]map[uint64]*tarnv1.LineageEntry{}, losses: map[string]map[uint64]*tarnv1.Fencing{},
		finals: map[string]map[uint64]uint64{}, available: map[string]*tarnv1.Snapshot{},
	}
}

// run looks several times a second until ctx ends.
func (o *observer) run(ctx context.Context) {
	for wait(ctx, 150*time.Millisecond) {
		o.mu.Lock()
		o.asked++
		o.mu.Unlock()
		if o.look(ctx) == nil {
			o.mu.Lock()
			o.answered++
			o.mu.Unlock()
		}
	}
}

// look takes one linearizable look at everything.
func (o *observer) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	shares, err := o.arena.api.Shares.ListShares(ctx, &tarnv1.ListSharesRequest{})
	if err != nil {
		return err
	}
	replicas, err := o.arena.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{})
	if err != nil {
		return err
	}
	snapshots, err := o.arena.api.Snapshots.ListSnapshots(ctx, &tarnv1.ListSnapshotsRequest{})
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range shares.GetShares() {
		o.noteShare(s)
	}
	for _, r := range replicas.GetReplicas() {
		o.replicas[r.GetId()] = r
	}
	for _, s := range snapshots.GetSnapshots() {
		if s.GetStatus() == tarnv1.Status_STATUS_AVAILABLE && !s.GetDeleting() {
			o.available[s.GetId()] = s
		}
	}
	return nil
}

// noteShare checks that the past stays what it was: epochs only rise (I2), and each
// has a proof that ended the one before (I3).
func (o *observer) noteShare(s *tarnv1.Share) {
	id, f := s.GetId(), s.GetFencing()
	before := o.shares[id].GetFencing()
	o.shares[id] = s
	if f.GetEpoch() < before.GetEpoch() {
		o.broken = append(o.broken, fmt.Errorf("I2: share %s fell from epoch %d to %d", id, before.GetEpoch(), f.GetEpoch()))
	}
	if o.owners[id] == nil {
		o.owners[id], o.losses[id], o.finals[id] = map[uint64]*tarnv1.LineageEntry{}, map[uint64]*tarnv1.Fencing{}, map[uint64]uint64{}
	}
	if f.GetFinalGuid() != 0 && f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING {
		o.finals[id][f.GetEpoch()] = f.GetFinalGuid()
	}
	for _, l := range f.GetLineage() {
		if old := o.owners[id][l.GetEpoch()]; old != nil && !proto.Equal(old, l) {
			o.broken = append(o.broken, fmt.Errorf("I2: share %s: epoch %d was %v, is %v", id, l.GetEpoch(), old, l))
		}
		o.owners[id][l.GetEpoch()] = l
	}
	if f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_ACTIVE && o.losses[id][f.GetEpoch()] == nil {
		o.losses[id][f.GetEpoch()] = f
		o.noteActivation(id, f)
	}
}

func (o *observer) noteActivation(id string, f *tarnv1.Fencing) {
	last := o.owners[id][f.GetEpoch()]
	former := o.owners[id][f.GetEpoch()-1]
	if last.GetOwnerReplicaId() != f.GetOwnerReplicaId() {
		o.broken = append(o.broken, fmt.Errorf("I2: share %s: epoch %d is of %s, its lineage says %s", id, f.GetEpoch(), f.GetOwnerReplicaId(), last.GetOwnerReplicaId()))
	}
	if former != nil && former.GetOwnerReplicaId() != f.GetOwnerReplicaId() && f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED {
		o.broken = append(o.broken, fmt.Errorf("I3: share %s: epoch %d began without a proof", id, f.GetEpoch()))
	}
	planned := f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED && f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_DEMOTE_ACK
	final, known := o.finals[id][f.GetEpoch()-1]
	if planned && known && former.GetOwnerReplicaId() != f.GetOwnerReplicaId() && last.GetBaseGuid() != final {
		o.broken = append(o.broken, fmt.Errorf("I6: share %s: epoch %d goes on from %d, the demotion ended with %d", id, f.GetEpoch(), last.GetBaseGuid(), final))
	}
}

func (o *observer) replica(id string) *tarnv1.Replica {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.replicas[id]
}

func (o *observer) share(id string) *tarnv1.Share {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.shares[id]
}

// owner is the replica that owns the share, and copies are the others.
func (o *observer) owner(share string) (owner *tarnv1.Replica, copies []*tarnv1.Replica) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id := o.shares[share].GetFencing().GetOwnerReplicaId()
	for _, r := range o.replicas {
		switch {
		case r.GetShareId() != share:
		case r.GetId() == id:
			owner = r
		default:
			copies = append(copies, r)
		}
	}
	return owner, copies
}

// failures are the broken invariants so far; asking forgets them.
func (o *observer) failures() []error {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.broken
	o.broken = nil
	return out
}
