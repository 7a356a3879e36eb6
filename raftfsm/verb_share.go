package raftfsm

import (
	"maps"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func (tx *txn) createShare(c *raftv1.CreateShare) (*tarnv1.Share, *Error) {
	share, replica := c.GetShare(), c.GetReplica()
	if err := checkNewShare(share, replica); err != nil {
		return nil, err
	}
	if old, exists := tx.s.share(share.GetId()); exists {
		if !sameShare(old, share) || !tx.sameManaged(share.GetId(), replica.GetManagedFrom()) {
			return nil, refuse(AlreadyExists, "id", "share %q exists with other content", share.GetId())
		}
		return old, nil
	}
	if _, taken := tx.s.replica(replica.GetId()); taken {
		return nil, refuse(AlreadyExists, "replica.id", "replica %q exists", replica.GetId())
	}
	if err := tx.inheritType(share); err != nil {
		return nil, err
	}
	host, pool, err := tx.placement(replica)
	if err != nil {
		return nil, err
	}
	if err := tx.checkManaged(replica, host); err != nil {
		return nil, err
	}
	if err := tx.checkCloneSource(share, host, pool); err != nil {
		return nil, err
	}
	if err := tx.checkQuota(share, shareUse(share).plus(replicaUse(share, 1))); err != nil {
		return nil, err
	}
	tx.storeNewShare(share, replica, host)
	return share, nil
}

func checkNewShare(s *tarnv1.Share, r *tarnv1.Replica) *Error {
	switch {
	case s.GetId() == "":
		return refuse(InvalidArgument, "id", "must be set")
	case s.GetProjectId() == "":
		return refuse(InvalidArgument, "project_id", "must be set")
	case s.GetSizeGib() < 1 && (s.GetSizeGib() < 0 || r.GetManagedFrom() == ""):
		return refuse(InvalidArgument, "size_gib", "is %d, must be 1 or more", s.GetSizeGib())
	case r.GetManagedFrom() != "" && s.GetSnapshotId() != "":
		return refuse(InvalidArgument, "snapshot_id", "a share starts from a snapshot or from a dataset, not both")
	case r.GetId() == "":
		return refuse(InvalidArgument, "replica.id", "must be set")
	case r.GetShareId() != "" && r.GetShareId() != s.GetId():
		return refuse(InvalidArgument, "replica.share_id", "names another share")
	}
	if err := checkNames(s.GetName(), s.GetDescription()); err != nil {
		return err
	}
	return checkMetadata(s.GetMetadata())
}

// sameShare says if a retried create asks for what exists. Where it is placed does
// not matter: the retry may have been placed anew. b leaves the size to a dataset
// that is taken over when it is 0.
func sameShare(a, b *tarnv1.Share) bool {
	return a.GetProjectId() == b.GetProjectId() && a.GetUserId() == b.GetUserId() &&
		a.GetName() == b.GetName() && a.GetDescription() == b.GetDescription() &&
		(a.GetSizeGib() == b.GetSizeGib() || b.GetSizeGib() == 0) && a.GetShareProto() == b.GetShareProto() &&
		a.GetShareTypeId() == b.GetShareTypeId() && a.GetSnapshotId() == b.GetSnapshotId() &&
		a.GetIsPublic() == b.GetIsPublic() && maps.Equal(a.GetMetadata(), b.GetMetadata())
}

// inheritType copies from the type what the share follows for life.
func (tx *txn) inheritType(s *tarnv1.Share) *Error {
	t, ok := tx.s.shareType(s.GetShareTypeId())
	if !ok {
		return missing("share_type_id", "share type", s.GetShareTypeId())
	}
	if len(s.GetExtraSpecs()) > 0 && !maps.Equal(s.GetExtraSpecs(), t.GetExtraSpecs()) {
		return refuse(Aborted, "share_type_id", "share type %q changed while the share was placed; retry", t.GetName())
	}
	s.ShareTypeId, s.ShareTypeName, s.ExtraSpecs = t.GetId(), t.GetName(), t.GetExtraSpecs()
	s.ReplicationType = replicationTypes[t.GetExtraSpecs()[specReplicationType]]
	return nil
}

// placement re-checks what the scheduler planned on: the host takes new replicas
// and has the pool.
func (tx *txn) placement(r *tarnv1.Replica) (*tarnv1.Host, *tarnv1.Pool, *Error) {
	h, ok := tx.s.host(r.GetHostId())
	if !ok {
		return nil, nil, refuse(FailedPrecondition, "host_id", "host %q is not registered; place again", r.GetHostId())
	}
	if h.GetAdminState() != tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED {
		return nil, nil, refuse(FailedPrecondition, "host_id", "host %s takes no new replicas, it is %s; place elsewhere",
			h.GetName(), adminStateWord(h.GetAdminState()))
	}
	if h.GetState() != tarnv1.HostState_HOST_STATE_UP {
		return nil, nil, refuse(FailedPrecondition, "host_id", "host %s is down; place elsewhere", h.GetName())
	}
	p, ok := poolOf(h, r.GetPool())
	if !ok {
		return nil, nil, refuse(FailedPrecondition, "pool", "host %s has no pool %q; place again", h.GetName(), r.GetPool())
	}
	return h, p, nil
}

// checkCloneSource requires that a share made from a snapshot lands where the
// snapshot can be cloned or pulled from.
func (tx *txn) checkCloneSource(s *tarnv1.Share, h *tarnv1.Host, p *tarnv1.Pool) *Error {
	if s.GetSnapshotId() == "" {
		return nil
	}
	snap, ok := tx.s.snapshot(s.GetSnapshotId())
	if !ok || snap.GetProjectId() != s.GetProjectId() {
		return missing("snapshot_id", "snapshot", s.GetSnapshotId())
	}
	source, _ := tx.s.share(snap.GetShareId())
	switch {
	case !source.GetCreateShareFromSnapshotSupport():
		return refuse(FailedPrecondition, "snapshot_id", "the type of share %s has no create_share_from_snapshot_support", source.GetId())
	case tx.s.snapshotStatus(snap) != tarnv1.Status_STATUS_AVAILABLE || snap.GetGuid() == 0:
		return refuse(FailedPrecondition, "snapshot_id", "snapshot %s is %s; wait until it is available",
			snap.GetId(), statusWord(tx.s.snapshotStatus(snap)))
	case s.GetSizeGib() < snap.GetSizeGib():
		return refuse(InvalidArgument, "size_gib", "is %d, must be at least the snapshot's %d", s.GetSizeGib(), snap.GetSizeGib())
	case !tx.reachable(snap, h, p):
		return refuse(FailedPrecondition, "pool", "no copy of snapshot %s is on pool %s of host %s nor in its replication domain; place again",
			snap.GetId(), p.GetName(), h.GetName())
	}
	return nil
}

func (tx *txn) reachable(snap *tarnv1.Snapshot, h *tarnv1.Host, p *tarnv1.Pool) bool {
	for i := range tx.s.instancesOf(snap.GetId()) {
		if i.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
			continue
		}
		r, _ := tx.s.replica(i.GetReplicaId())
		if r.GetHostId() == h.GetId() && r.GetPool() == p.GetName() {
			return true
		}
		if d := tx.s.domainOf(r); d != "" && d == p.GetReplicationDomain() {
			return true
		}
	}
	return false
}

// domainOf is the replication domain of the pool that a replica is on.
func (s *state) domainOf(r *tarnv1.Replica) string {
	h, _ := s.host(r.GetHostId())
	p, _ := poolOf(h, r.GetPool())
	return p.GetReplicationDomain()
}

func (tx *txn) storeNewShare(s *tarnv1.Share, r *tarnv1.Replica, h *tarnv1.Host) {
	s.CreatedAt, s.UpdatedAt = tx.now, nil
	s.PendingSizeGib, s.AccessRevision = 0, 0
	s.ResizeStatus = tarnv1.Status_STATUS_AVAILABLE
	clearShareOutput(s)
	s.Fencing = &tarnv1.Fencing{
		Epoch: 1, Phase: tarnv1.FencingPhase_FENCING_PHASE_ACTIVE, OwnerReplicaId: r.GetId(),
		Lineage: []*tarnv1.LineageEntry{{Epoch: 1, OwnerReplicaId: r.GetId(), At: tx.now}},
	}
	tx.putShare(s)
	first := newReplica(r, s, h, tx.now)
	if s.GetReplicationType() != tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		first.ReplicaState = tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
	}
	if s.GetSnapshotId() != "" {
		first.Status = tarnv1.Status_STATUS_CREATING_FROM_SNAPSHOT
	}
	tx.putReplica(first)
}

// newReplica is a replica as it begins: what the request may choose and nothing else.
func newReplica(asked *tarnv1.Replica, s *tarnv1.Share, h *tarnv1.Host, now *timestamppb.Timestamp) *tarnv1.Replica {
	r := &tarnv1.Replica{
		Id: asked.GetId(), ShareId: s.GetId(), ProjectId: s.GetProjectId(),
		Status: tarnv1.Status_STATUS_CREATING, AvailabilityZone: h.GetAvailabilityZone(),
		Host: fullName(h, asked.GetPool()), HostId: h.GetId(), Pool: asked.GetPool(),
		CreatedAt: now, Metadata: asked.GetMetadata(), ManagedFrom: asked.GetManagedFrom(),
	}
	if r.GetManagedFrom() != "" {
		r.Status = tarnv1.Status_STATUS_MANAGE_STARTING
	}
	return r
}

// fullName is host@backend#pool.
func fullName(h *tarnv1.Host, pool string) string {
	return h.GetName() + "@" + h.GetBackend() + "#" + pool
}

func clearShareOutput(s *tarnv1.Share) {
	s.Status, s.AvailabilityZone, s.Host, s.HasReplicas = 0, "", "", false
	s.AccessRulesStatus, s.Progress, s.ExportLocations = 0, "", nil
}

func (tx *txn) updateShare(c *raftv1.UpdateShare) (*tarnv1.Share, *Error) {
	old, ok := tx.s.share(c.GetId())
	if !ok {
		return nil, missing("id", "share", c.GetId())
	}
	if want := c.GetExpectedRevision(); want != 0 && want != old.GetRevision() {
		return nil, stale("share", c.GetId(), old.GetRevision(), want)
	}
	if err := checkNames(c.GetName(), c.GetDescription()); err != nil {
		return nil, err
	}
	metadata, err := editMetadata(old.GetMetadata(), c.GetSetMetadata(), c.GetUnsetMetadata(), c.GetReplaceMetadata())
	if err != nil {
		return nil, err
	}
	next := changeShare(old)
	next.Metadata = metadata
	if c.Name != nil {
		next.Name = c.GetName()
	}
	if c.Description != nil {
		next.Description = c.GetDescription()
	}
	if c.IsPublic != nil {
		next.IsPublic = c.GetIsPublic()
	}
	return tx.saveShare(old, next), nil
}

// saveShare stores next unless nothing changed: a retry must not raise the revision.
func (tx *txn) saveShare(old, next *tarnv1.Share) *tarnv1.Share {
	if proto.Equal(old, next) {
		return old
	}
	next.UpdatedAt = tx.now
	tx.putShare(next)
	return next
}

// deleteShare marks the last replica; the record goes when its host has confirmed.
func (tx *txn) deleteShare(c *raftv1.DeleteShare) (*tarnv1.Share, *Error) {
	s, ok := tx.s.share(c.GetId())
	if !ok {
		return nil, missing("id", "share", c.GetId())
	}
	if want := c.GetExpectedRevision(); want != 0 && want != s.GetRevision() {
		return nil, stale("share", c.GetId(), s.GetRevision(), want)
	}
	if err := tx.checkShareDeletable(s, c.GetForce()); err != nil {
		return nil, err
	}
	for _, r := range tx.s.replicasInOrder(s.GetId()) {
		tx.condemn(r, c.GetForce())
	}
	return s, nil
}

func (tx *txn) checkShareDeletable(s *tarnv1.Share, force bool) *Error {
	if n := tx.s.countReplicas(s.GetId()); n > 1 {
		return refuse(FailedPrecondition, "id", "share has %d replicas; delete all but the active one first", n)
	}
	if snap, has := first(tx.s.snapshotsOf(s.GetId())); has {
		return refuse(FailedPrecondition, "id", "share has snapshots, %s for one; delete them first", snap.GetId())
	}
	if s.GetFencing().GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING {
		return refuse(FailedPrecondition, "id", "a promotion of the share is running; wait or cancel it first")
	}
	if st := tx.s.shareStatus(s); !force && (managing(st) || unmanaging(st)) {
		return refuse(FailedPrecondition, "status", "share is %s; unmanage it instead: deleting it would destroy the dataset", statusWord(st))
	}
	if st := tx.s.shareStatus(s); !force && !deletable(st) {
		return refuse(FailedPrecondition, "status", "share is %s; wait until it is available, or force the deletion", statusWord(st))
	}
	return nil
}

// deletable are the resting statuses, and deleting itself: asking twice is no error.
func deletable(st tarnv1.Status) bool {
	switch st {
	case tarnv1.Status_STATUS_AVAILABLE, tarnv1.Status_STATUS_ERROR, tarnv1.Status_STATUS_DELETING,
		tarnv1.Status_STATUS_ERROR_DELETING, tarnv1.Status_STATUS_EXTENDING_ERROR, tarnv1.Status_STATUS_SHRINKING_ERROR,
		tarnv1.Status_STATUS_SHRINKING_POSSIBLE_DATA_LOSS_ERROR, tarnv1.Status_STATUS_REVERTING_ERROR:
		return true
	}
	return false
}
