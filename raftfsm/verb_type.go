package raftfsm

import (
	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// specReplicationType is the extra spec that makes a type's shares replicated.
const specReplicationType = "replication_type"

// replicationTypes are the values of the extra spec (manila semantics 1.6).
var replicationTypes = map[string]tarnv1.ReplicationType{
	"":         tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED,
	"writable": tarnv1.ReplicationType_REPLICATION_TYPE_WRITABLE,
	"readable": tarnv1.ReplicationType_REPLICATION_TYPE_READABLE,
	"dr":       tarnv1.ReplicationType_REPLICATION_TYPE_DR,
}

func (tx *txn) putShareType(c *raftv1.PutShareType) (*tarnv1.ShareType, *Error) {
	next := c.GetShareType()
	if err := checkType(next); err != nil {
		return nil, err
	}
	old, exists := tx.s.shareType(next.GetId())
	switch {
	case exists && c.GetExpectedRevision() == 0:
		if !sameType(old, next) {
			return nil, refuse(AlreadyExists, "id", "share type %q exists with other content", next.GetId())
		}
		return old, nil
	case !exists && c.GetExpectedRevision() != 0:
		return nil, missing("id", "share type", next.GetId())
	case exists && old.GetRevision() != c.GetExpectedRevision():
		return nil, stale("share type", next.GetId(), old.GetRevision(), c.GetExpectedRevision())
	}
	if other, taken := tx.s.typeNamed(next.GetName()); taken && other.GetId() != next.GetId() {
		return nil, refuse(AlreadyExists, "name", "another share type is named %q; choose another name", next.GetName())
	}
	tx.storeType(old, next)
	return next, nil
}

func checkType(t *tarnv1.ShareType) *Error {
	if t.GetId() == "" {
		return refuse(InvalidArgument, "id", "must be set")
	}
	if t.GetName() == "" {
		return refuse(InvalidArgument, "name", "must have 1 to %d bytes", maxName)
	}
	if err := checkNames(t.GetName(), t.GetDescription()); err != nil {
		return err
	}
	if _, ok := replicationTypes[t.GetExtraSpecs()[specReplicationType]]; !ok {
		return refuse(InvalidArgument, "extra_specs["+specReplicationType+"]",
			"%q is not one of writable, readable, dr", t.GetExtraSpecs()[specReplicationType])
	}
	return nil
}

func sameType(a, b *tarnv1.ShareType) bool {
	x, y := proto.CloneOf(a), proto.CloneOf(b)
	for _, t := range []*tarnv1.ShareType{x, y} {
		t.CreatedAt, t.UpdatedAt, t.Revision = nil, nil, 0
	}
	return proto.Equal(x, y)
}

// storeType keeps at most one default type.
func (tx *txn) storeType(old, next *tarnv1.ShareType) {
	next.CreatedAt, next.UpdatedAt = tx.now, nil
	if old != nil {
		next.CreatedAt, next.UpdatedAt = old.GetCreatedAt(), tx.now
	}
	if next.GetIsDefault() {
		tx.unsetDefault(next.GetId())
	}
	tx.putType(next)
}

func (tx *txn) unsetDefault(except string) {
	var others []*tarnv1.ShareType
	for t := range tx.s.types.all() {
		if t.GetIsDefault() && t.GetId() != except {
			others = append(others, t)
		}
	}
	for _, t := range others {
		t = proto.CloneOf(t)
		t.IsDefault, t.UpdatedAt = false, tx.now
		tx.putType(t)
	}
}

func (tx *txn) deleteShareType(c *raftv1.DeleteShareType) *Error {
	t, ok := tx.s.shareType(c.GetId())
	if !ok {
		return missing("id", "share type", c.GetId())
	}
	if s, used := first(tx.s.sharesOfType(t.GetId())); used {
		return refuse(FailedPrecondition, "id", "share type %q is in use, by share %s for one; delete its shares first",
			t.GetName(), s.GetId())
	}
	mutable(tx.own, &tx.s.types).remove(t)
	tx.dropLimitsOfType(t.GetId())
	return nil
}

func (tx *txn) dropLimitsOfType(id string) {
	var gone []*tarnv1.QuotaLimits
	for q := range tx.s.quotas.all() {
		if q.GetShareTypeId() == id {
			gone = append(gone, q)
		}
	}
	for _, q := range gone {
		mutable(tx.own, &tx.s.quotas).remove(q)
	}
}

func (tx *txn) initCluster(c *raftv1.InitCluster) *Error {
	switch tx.s.clusterID {
	case c.GetClusterId():
		if c.GetClusterId() == "" {
			return refuse(InvalidArgument, "cluster_id", "must be set")
		}
	case "":
		tx.s.clusterID = c.GetClusterId()
	default:
		return refuse(AlreadyExists, "cluster_id", "this cluster is %s already", tx.s.clusterID)
	}
	return nil
}
