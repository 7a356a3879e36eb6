package raftfsm

import (
	"slices"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// maxPurges bounds the orders that wait on one host.
const maxPurges = 64

// purgeDivergentCopy records that a host may destroy a copy, who said so, when and
// why. The order goes when the host has confirmed. Asking again answers the order
// that stands.
func (tx *txn) purgeDivergentCopy(c *raftv1.PurgeDivergentCopy, actor string) (*tarnv1.PurgeOrder, *Error) {
	asked := c.GetOrder()
	switch {
	case asked.GetGuid() == 0:
		return nil, refuse(InvalidArgument, "guid", "must be set")
	case asked.GetDataset() == "":
		return nil, refuse(InvalidArgument, "dataset", "must be set")
	case len(asked.GetReason()) > maxDescription:
		return nil, refuse(InvalidArgument, "reason", "has %d bytes, %d are allowed", len(asked.GetReason()), maxDescription)
	}
	host, ok := tx.s.host(asked.GetHostId())
	if !ok {
		return nil, missing("host_id", "host", asked.GetHostId())
	}
	if old, stands := orderFor(host, asked.GetGuid()); stands {
		return old, nil
	}
	if r, ok := tx.s.replica(asked.GetReplicaId()); ok && r.GetHostId() == host.GetId() && !hasCopy(r, asked.GetGuid()) {
		return nil, refuse(NotFound, "guid", "replica %s has no divergent copy of GUID %d; list them again", r.GetId(), asked.GetGuid())
	}
	if len(host.GetPurges()) >= maxPurges {
		return nil, refuse(FailedPrecondition, "guid", "%d purges wait on host %s already; let it do them first", maxPurges, host.GetName())
	}
	order := &tarnv1.PurgeOrder{
		HostId: host.GetId(), Guid: asked.GetGuid(), Dataset: asked.GetDataset(), ShareId: asked.GetShareId(),
		ReplicaId: asked.GetReplicaId(), RequestedBy: actor, RequestedAt: tx.now, Reason: asked.GetReason(),
	}
	next := proto.CloneOf(host)
	next.Purges = append(next.Purges, order)
	tx.saveHost(host, next)
	tx.touchHost(host.GetId())
	return order, nil
}

func orderFor(h *tarnv1.Host, guid uint64) (*tarnv1.PurgeOrder, bool) {
	for _, o := range h.GetPurges() {
		if o.GetGuid() == guid {
			return o, true
		}
	}
	return nil, false
}

func hasCopy(r *tarnv1.Replica, guid uint64) bool {
	return slices.ContainsFunc(r.GetDivergentCopies(), func(d *tarnv1.DivergentCopy) bool { return d.GetGuid() == guid })
}

// endPurge takes an order back: the host has confirmed that nothing is left. The
// copy is not listed with its replica any more either.
func (tx *txn) endPurge(t *raftv1.PurgeTransition) bool {
	host, ok := tx.s.host(t.GetHostId())
	order, stands := orderFor(host, t.GetGuid())
	if !ok || !stands {
		return false
	}
	next := proto.CloneOf(host)
	next.Purges = slices.DeleteFunc(next.Purges, func(o *tarnv1.PurgeOrder) bool { return o.GetGuid() == t.GetGuid() })
	if len(next.Purges) == 0 {
		next.Purges = nil
	}
	tx.saveHost(host, next)
	tx.touchHost(host.GetId())
	if r, ok := tx.s.replica(order.GetReplicaId()); ok && r.GetHostId() == host.GetId() && hasCopy(r, t.GetGuid()) {
		left := tx.changeReplica(r)
		left.DivergentCopies = slices.DeleteFunc(left.DivergentCopies, func(d *tarnv1.DivergentCopy) bool { return d.GetGuid() == t.GetGuid() })
		tx.putReplica(left)
	}
	return true
}
