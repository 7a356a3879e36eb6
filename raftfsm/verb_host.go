package raftfsm

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// registerHost stores what an agent says of itself. What operators decide about the
// host stays as it is.
func (tx *txn) registerHost(c *raftv1.RegisterHost) (*tarnv1.Host, *Error) {
	next := c.GetHost()
	if err := checkHost(next); err != nil {
		return nil, err
	}
	if other, taken := tx.s.hostNamed(next.GetName()); taken && other.GetId() != next.GetId() {
		return nil, refuse(AlreadyExists, "name", "host %s is named %q; give this one another name", other.GetId(), next.GetName())
	}
	old, exists := tx.s.host(next.GetId())
	next.AdminState, next.DisabledReason = tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED, ""
	next.CreatedAt, next.UpdatedAt = tx.now, nil
	next.State, next.Purges = tarnv1.HostState_HOST_STATE_UP, nil
	clearHostOutput(next)
	if !exists {
		tx.putHost(next)
		return next, nil
	}
	if err := tx.checkHostChange(old, next); err != nil {
		return nil, err
	}
	next.AdminState, next.DisabledReason = old.GetAdminState(), old.GetDisabledReason()
	next.CreatedAt, next.UpdatedAt, next.Revision = old.GetCreatedAt(), old.GetUpdatedAt(), old.GetRevision()
	next.Purges = old.GetPurges()
	tx.keepUsedPools(old, next)
	return tx.saveHost(old, next), nil
}

func (tx *txn) saveHost(old, next *tarnv1.Host) *tarnv1.Host {
	if proto.Equal(old, next) {
		return old
	}
	next.UpdatedAt = tx.now
	tx.putHost(next)
	return next
}

func clearHostOutput(h *tarnv1.Host) {
	h.LastReportAt, h.ReplicaCount, h.DrainBlockers, h.FenceClassNow, h.FenceTrouble = nil, 0, nil, 0, ""
	for _, p := range h.GetPools() {
		p.ProvisionedCapacityGib, p.AllocatedCapacityGib, p.FullName = 0, 0, ""
	}
}

func checkHost(h *tarnv1.Host) *Error {
	for _, f := range []struct{ field, value string }{
		{"id", h.GetId()}, {"name", h.GetName()}, {"backend", h.GetBackend()}, {"availability_zone", h.GetAvailabilityZone()},
	} {
		if f.value == "" || len(f.value) > maxName || strings.ContainsAny(f.value, "@#") {
			return refuse(InvalidArgument, f.field, "must have 1 to %d bytes without @ and #", maxName)
		}
	}
	seen := map[string]bool{}
	for _, p := range h.GetPools() {
		if p.GetName() == "" || strings.ContainsAny(p.GetName(), "@#") || seen[p.GetName()] {
			return refuse(InvalidArgument, "pools", "pool name %q must be unique on the host, not empty, without @ and #", p.GetName())
		}
		seen[p.GetName()] = true
	}
	return nil
}

// checkHostChange refuses what would make the records of a host's replicas untrue.
func (tx *txn) checkHostChange(old, next *tarnv1.Host) *Error {
	r, used := first(tx.s.replicasOn(old.GetId()))
	if !used {
		return nil
	}
	for _, f := range []struct{ field, was, is string }{
		{"name", old.GetName(), next.GetName()}, {"backend", old.GetBackend(), next.GetBackend()},
		{"availability_zone", old.GetAvailabilityZone(), next.GetAvailabilityZone()},
	} {
		if f.was != f.is {
			return refuse(FailedPrecondition, f.field, "cannot change from %q to %q while the host holds replicas, %s for one; drain the host first",
				f.was, f.is, r.GetId())
		}
	}
	return tx.checkDomains(old, next)
}

func (tx *txn) checkDomains(old, next *tarnv1.Host) *Error {
	for r := range tx.s.replicasOn(old.GetId()) {
		was, _ := poolOf(old, r.GetPool())
		is, present := poolOf(next, r.GetPool())
		if !present || was.GetReplicationDomain() == is.GetReplicationDomain() || tx.s.countReplicas(r.GetShareId()) < 2 {
			continue
		}
		return refuse(FailedPrecondition, "replication_domain", "pool %s cannot leave domain %q while share %s has replicas in it",
			r.GetPool(), was.GetReplicationDomain(), r.GetShareId())
	}
	return nil
}

// poolMissing is the health of a pool that holds replicas but that its host does not
// see any more.
const poolMissing = "MISSING"

func (tx *txn) keepUsedPools(old, next *tarnv1.Host) {
	for _, p := range old.GetPools() {
		if _, still := poolOf(next, p.GetName()); still || !tx.poolUsed(old.GetId(), p.GetName()) {
			continue
		}
		gone := proto.CloneOf(p)
		gone.Health, gone.FreeCapacityGib = poolMissing, 0
		next.Pools = append(next.Pools, gone)
	}
}

func (tx *txn) poolUsed(host, pool string) bool {
	_, used := tx.s.pools.get(&poolRow{host: host, pool: pool})
	return used
}

func (tx *txn) setHostAdminState(c *raftv1.SetHostAdminState) (*tarnv1.Host, *Error) {
	old, ok := tx.s.host(c.GetId())
	if !ok {
		return nil, missing("id", "host", c.GetId())
	}
	if adminStateWord(c.GetAdminState()) == "unspecified" {
		return nil, refuse(InvalidArgument, "admin_state", "must be one of enabled, disabled, draining")
	}
	next := proto.CloneOf(old)
	next.AdminState, next.DisabledReason = c.GetAdminState(), c.GetReason()
	return tx.saveHost(old, next), nil
}

func (tx *txn) removeHost(c *raftv1.RemoveHost) *Error {
	h, ok := tx.s.host(c.GetId())
	if !ok {
		return missing("id", "host", c.GetId())
	}
	if r, used := first(tx.s.replicasOn(h.GetId())); used {
		return refuse(FailedPrecondition, "id", "host %s holds replicas, %s for one; drain it first", h.GetName(), r.GetId())
	}
	mutable(tx.own, &tx.s.hosts).remove(h)
	tx.touchHost(h.GetId())
	return nil
}

// putJoinToken stores a token and forgets the expired ones.
func (tx *txn) putJoinToken(c *raftv1.PutJoinToken) (*raftv1.JoinToken, *Error) {
	t := c.GetToken()
	switch {
	case t.GetHash() == "":
		return nil, refuse(InvalidArgument, "hash", "must be set")
	case t.GetRole() == "":
		return nil, refuse(InvalidArgument, "role", "must be set")
	case t.GetUsedBy() != "":
		return nil, refuse(InvalidArgument, "used_by", "is set by the use of the token")
	}
	if old, exists := tx.s.joinToken(t.GetHash()); exists {
		if !proto.Equal(old, t) {
			return nil, refuse(AlreadyExists, "hash", "the token exists")
		}
		return old, nil
	}
	for _, old := range slices.Collect(tx.s.tokens.all()) {
		if tx.expired(old) {
			mutable(tx.own, &tx.s.tokens).remove(old)
		}
	}
	tx.putToken(t)
	return t, nil
}

func (tx *txn) expired(t *raftv1.JoinToken) bool {
	return t.GetExpiresAt() != nil && compareTime(t.GetExpiresAt(), tx.now) <= 0
}

// useJoinToken spends a token on one key of one node. The same node may ask again for
// that key: its answer may have been lost. Whoever found the token has another key.
func (tx *txn) useJoinToken(c *raftv1.UseJoinToken) (*raftv1.JoinToken, *Error) {
	t, ok := tx.s.joinToken(c.GetHash())
	switch {
	case !ok:
		return nil, refuse(NotFound, "hash", "the join token does not exist")
	case c.GetNodeId() == "":
		return nil, refuse(InvalidArgument, "node_id", "must be set")
	case tx.expired(t):
		return nil, refuse(FailedPrecondition, "hash", "the join token has expired; make a new one")
	case t.GetUsedBy() == c.GetNodeId() && t.GetUsedKey() == c.GetKeyHash():
		return t, nil
	case t.GetUsedBy() != "":
		return nil, refuse(FailedPrecondition, "hash", "the join token was used by node %s; make a new one", t.GetUsedBy())
	}
	next := proto.CloneOf(t)
	next.UsedBy, next.UsedKey = c.GetNodeId(), c.GetKeyHash()
	tx.putToken(next)
	return next, nil
}
