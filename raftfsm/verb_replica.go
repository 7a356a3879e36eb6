package raftfsm

import (
	"slices"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func (tx *txn) createReplica(c *raftv1.CreateReplica) (*tarnv1.Replica, *Error) {
	asked := c.GetReplica()
	if asked.GetId() == "" {
		return nil, refuse(InvalidArgument, "id", "must be set")
	}
	if old, exists := tx.s.replica(asked.GetId()); exists {
		if old.GetShareId() != asked.GetShareId() || old.GetManagedFrom() != asked.GetManagedFrom() {
			return nil, refuse(AlreadyExists, "id", "replica %q exists, of another share or from another dataset", asked.GetId())
		}
		return old, nil
	}
	s, ok := tx.s.share(asked.GetShareId())
	if !ok {
		return nil, missing("share_id", "share", asked.GetShareId())
	}
	if err := checkMetadata(asked.GetMetadata()); err != nil {
		return nil, err
	}
	if err := tx.checkReplicable(s); err != nil {
		return nil, err
	}
	if err := checkAdoption(s, asked); err != nil {
		return nil, err
	}
	host, pool, err := tx.placement(asked)
	if err != nil {
		return nil, err
	}
	if err := tx.checkReplicaPool(s, host, pool); err != nil {
		return nil, err
	}
	if err := tx.checkManaged(asked, host); err != nil {
		return nil, err
	}
	if err := tx.checkQuota(s, replicaUse(s, 1)); err != nil {
		return nil, err
	}
	if err := tx.addInstances(s, asked.GetId(), c.GetSnapshotInstanceIds()); err != nil {
		return nil, err
	}
	r := newReplica(asked, s, host, tx.now)
	r.ReplicaState = tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC
	r.CastRulesToReadonly = readable(s)
	tx.adopt(s, r)
	tx.putReplica(r)
	return r, nil
}

func readable(s *tarnv1.Share) bool {
	return s.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_READABLE
}

func writable(s *tarnv1.Share) bool {
	return s.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_WRITABLE
}

func (tx *txn) owner(s *tarnv1.Share) (*tarnv1.Replica, bool) {
	return tx.s.replica(s.GetFencing().GetOwnerReplicaId())
}

func (tx *txn) checkReplicable(s *tarnv1.Share) *Error {
	if s.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		return refuse(FailedPrecondition, "share_id", "the type of the share has no replication_type; its share cannot be replicated")
	}
	owner, ok := tx.owner(s)
	if !ok || owner.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
		return refuse(FailedPrecondition, "share_id", "the share's active replica is %s; add replicas when it is available",
			statusWord(owner.GetStatus()))
	}
	return nil
}

// checkReplicaPool keeps a share to one replica per pool and to one domain.
func (tx *txn) checkReplicaPool(s *tarnv1.Share, h *tarnv1.Host, p *tarnv1.Pool) *Error {
	for r := range tx.s.replicasOf(s.GetId()) {
		if r.GetHostId() == h.GetId() && r.GetPool() == p.GetName() {
			return refuse(FailedPrecondition, "pool", "replica %s of the share is on %s already; place elsewhere", r.GetId(), r.GetHost())
		}
	}
	owner, _ := tx.owner(s)
	want := tx.s.domainOf(owner)
	if want == "" || want != p.GetReplicationDomain() {
		return refuse(FailedPrecondition, "replication_domain", "pool %s is in replication domain %q, the active replica in %q; place in the same one",
			fullName(h, p.GetName()), p.GetReplicationDomain(), want)
	}
	if types := p.GetReplicationTypes(); len(types) > 0 && !slices.Contains(types, s.GetReplicationType()) {
		return refuse(FailedPrecondition, "replication_type", "pool %s does not offer the share's replication_type; place elsewhere",
			fullName(h, p.GetName()))
	}
	return nil
}

// addInstances gives a new replica one instance per existing snapshot.
func (tx *txn) addInstances(s *tarnv1.Share, replicaID string, ids map[string]string) *Error {
	for _, snap := range slices.Collect(tx.s.snapshotsOf(s.GetId())) {
		if snap.GetDeleting() {
			continue
		}
		id := ids[snap.GetId()]
		if id == "" {
			return refuse(Aborted, "snapshot_instance_ids", "snapshot %s was made meanwhile; read the share again and retry", snap.GetId())
		}
		if err := tx.addInstance(id, snap, replicaID); err != nil {
			return err
		}
	}
	return nil
}

func (tx *txn) addInstance(id string, snap *tarnv1.Snapshot, replicaID string) *Error {
	if _, taken := tx.s.instance(id); taken {
		return refuse(AlreadyExists, "instance_ids", "snapshot instance %q exists", id)
	}
	tx.putInstance(&tarnv1.SnapshotInstance{
		Id: id, SnapshotId: snap.GetId(), ShareId: snap.GetShareId(), ReplicaId: replicaID,
		Status: instanceBegins(snap), Progress: "0%", CreatedAt: tx.now,
	})
	return nil
}

func (tx *txn) updateReplicaMetadata(c *raftv1.UpdateReplicaMetadata) (*tarnv1.Replica, *Error) {
	old, ok := tx.s.replica(c.GetId())
	if !ok {
		return nil, missing("id", "replica", c.GetId())
	}
	metadata, err := editMetadata(old.GetMetadata(), c.GetSetMetadata(), c.GetUnsetMetadata(), c.GetReplaceMetadata())
	if err != nil {
		return nil, err
	}
	next := proto.CloneOf(old)
	next.Metadata = metadata
	return tx.saveReplica(old, next), nil
}

// saveReplica stores next unless nothing changed.
func (tx *txn) saveReplica(old, next *tarnv1.Replica) *tarnv1.Replica {
	if proto.Equal(old, next) {
		return old
	}
	next.UpdatedAt = tx.now
	tx.putReplica(next)
	return next
}

// deleteReplica marks a replica; the record goes when its host has confirmed, or
// at once with force. The last active replica never goes this way, forced or not.
func (tx *txn) deleteReplica(c *raftv1.DeleteReplica) (*tarnv1.Replica, *Error) {
	r, ok := tx.s.replica(c.GetId())
	if !ok {
		return nil, missing("id", "replica", c.GetId())
	}
	if want := c.GetExpectedRevision(); want != 0 && want != r.GetRevision() {
		return nil, stale("replica", c.GetId(), r.GetRevision(), want)
	}
	s, _ := tx.s.share(r.GetShareId())
	if err := tx.checkReplicaDeletable(s, r, c.GetForce()); err != nil {
		return nil, err
	}
	tx.passOwnership(s, r)
	return tx.condemn(r, c.GetForce()), nil
}

func (tx *txn) checkReplicaDeletable(s *tarnv1.Share, r *tarnv1.Replica, force bool) *Error {
	f := s.GetFencing()
	switch {
	case s.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED:
		return refuse(FailedPrecondition, "id", "the share is not replicated; delete the share instead")
	case f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING && f.GetTargetReplicaId() == r.GetId():
		return refuse(FailedPrecondition, "id", "the replica is being promoted; wait or cancel the promotion first")
	case f.GetOwnerReplicaId() == r.GetId() && tx.heir(s, r) == nil:
		return refuse(FailedPrecondition, "id", "this is the last active replica; promote another one first, or delete the share")
	case !force && (managing(r.GetStatus()) || unmanaging(r.GetStatus())):
		return refuse(FailedPrecondition, "status", "replica is %s; unmanage it instead: deleting it would destroy the dataset",
			statusWord(r.GetStatus()))
	}
	return nil
}

// heir is another replica of a writable share that can carry its write permission.
func (tx *txn) heir(s *tarnv1.Share, except *tarnv1.Replica) *tarnv1.Replica {
	if !writable(s) {
		return nil
	}
	for _, r := range tx.s.replicasInOrder(s.GetId()) {
		if r.GetId() != except.GetId() && r.GetStatus() == tarnv1.Status_STATUS_AVAILABLE &&
			r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
			return r
		}
	}
	return nil
}

// passOwnership moves the epoch of a writable share away from a replica that goes.
func (tx *txn) passOwnership(s *tarnv1.Share, r *tarnv1.Replica) {
	if s.GetFencing().GetOwnerReplicaId() != r.GetId() {
		return
	}
	heir := tx.heir(s, r)
	next := changeShare(s)
	next.Fencing.OwnerReplicaId = heir.GetId()
	tx.nextEpoch(next.GetFencing(), heir.GetHeadGuid())
	tx.saveShare(s, next)
}

// condemn marks a replica deleting, or removes it with force.
func (tx *txn) condemn(r *tarnv1.Replica, force bool) *tarnv1.Replica {
	if force {
		tx.removeReplica(r)
		return r
	}
	if r.GetStatus() == tarnv1.Status_STATUS_DELETING {
		return r
	}
	next := tx.changeReplica(r)
	next.Status = tarnv1.Status_STATUS_DELETING
	tx.putReplica(next)
	return next
}

// removeReplica takes the record, its snapshot instances and what hung on them. With
// the owner goes the share: only the deletion of a share condemns an owner.
func (tx *txn) removeReplica(r *tarnv1.Replica) {
	for _, i := range slices.Collect(tx.s.instancesOn(r.GetId())) {
		tx.removeInstance(i)
	}
	tx.dropReplica(r)
	s, ok := tx.s.share(r.GetShareId())
	if !ok {
		return
	}
	if s.GetFencing().GetOwnerReplicaId() != r.GetId() {
		tx.purgeRules(s)
		tx.forget(s.GetId(), r.GetId())
		return
	}
	for _, rule := range slices.Collect(tx.s.rulesOf(s.GetId())) {
		tx.dropRule(rule)
	}
	// Snapshots are in the dataset that is gone. A share that is deleted has none left; one
	// whose replica was only reset to such a status by hand may.
	for _, snap := range slices.Collect(tx.s.snapshotsOf(s.GetId())) {
		tx.dropSnapshot(snap)
	}
	tx.removeShare(s)
}

func (tx *txn) resyncReplica(c *raftv1.ResyncReplica) (*tarnv1.Replica, *Error) {
	r, ok := tx.s.replica(c.GetId())
	if !ok {
		return nil, missing("id", "replica", c.GetId())
	}
	s, _ := tx.s.share(r.GetShareId())
	if s.GetFencing().GetOwnerReplicaId() == r.GetId() {
		return r, nil
	}
	if leaving(r.GetStatus()) {
		return nil, refuse(FailedPrecondition, "id", "the replica is %s", statusWord(r.GetStatus()))
	}
	next := tx.changeReplica(r)
	next.ResyncGeneration++
	target := fencing(s) && s.GetFencing().GetTargetReplicaId() == r.GetId()
	if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC && !target && tx.s.minVersion >= ResyncVersion {
		// The leader's next round would say so, and whoever waits for the resync could look before.
		next.ReplicaState = tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC
	}
	tx.putReplica(next)
	return next, nil
}

func (tx *txn) resetReplicaStatus(c *raftv1.ResetReplicaStatus) (*tarnv1.Replica, *Error) {
	r, ok := tx.s.replica(c.GetId())
	if !ok {
		return nil, missing("id", "replica", c.GetId())
	}
	s, _ := tx.s.share(r.GetShareId())
	if err := tx.checkResetStatus(s, r, c.GetStatus()); err != nil {
		return nil, err
	}
	next := proto.CloneOf(r)
	next.Status = c.GetStatus()
	return tx.saveReplica(r, next), nil
}

func (tx *txn) resetReplicaState(c *raftv1.ResetReplicaState) (*tarnv1.Replica, *Error) {
	r, ok := tx.s.replica(c.GetId())
	if !ok {
		return nil, missing("id", "replica", c.GetId())
	}
	switch c.GetReplicaState() {
	case tarnv1.ReplicaState_REPLICA_STATE_ACTIVE:
		return nil, refuse(FailedPrecondition, "replica_state", "cannot be reset to active; promote the replica instead")
	case tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC, tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC, tarnv1.ReplicaState_REPLICA_STATE_ERROR:
	default:
		return nil, refuse(InvalidArgument, "replica_state", "must be one of in_sync, out_of_sync, error")
	}
	s, _ := tx.s.share(r.GetShareId())
	if err := checkSecondary(s, r); err != nil {
		return nil, err
	}
	next := proto.CloneOf(r)
	next.ReplicaState = c.GetReplicaState()
	if next.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC && !tx.mayBeInSync(next) {
		return nil, refuse(FailedPrecondition, "replica_state",
			"cannot be in_sync before the replica is available and holds every available snapshot; resync it instead")
	}
	return tx.saveReplica(r, next), nil
}

func checkSecondary(s *tarnv1.Share, r *tarnv1.Replica) *Error {
	if s.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		return refuse(FailedPrecondition, "id", "the share is not replicated; it has no replica_state")
	}
	if r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE || s.GetFencing().GetOwnerReplicaId() == r.GetId() {
		return refuse(FailedPrecondition, "replica_state", "the state of the active replica cannot be reset; promote another replica first")
	}
	return nil
}
