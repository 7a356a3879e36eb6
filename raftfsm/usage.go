package raftfsm

import tarnv1 "tarn/proto/tarn/v1"

// Quota keys (manila semantics 1.10).
const (
	QuotaShares            = "shares"
	QuotaGigabytes         = "gigabytes"
	QuotaSnapshots         = "snapshots"
	QuotaSnapshotGigabytes = "snapshot_gigabytes"
	QuotaShareReplicas     = "share_replicas"
	QuotaReplicaGigabytes  = "replica_gigabytes"
	QuotaPerShareGigabytes = "per_share_gigabytes"
)

// usageKeys are the counted keys in the order of amounts.
var usageKeys = [...]string{
	QuotaShares, QuotaGigabytes, QuotaSnapshots, QuotaSnapshotGigabytes, QuotaShareReplicas, QuotaReplicaGigabytes,
}

// amounts counts by usageKeys.
type amounts [len(usageKeys)]int64

const (
	useShares = iota
	useGigabytes
	useSnapshots
	useSnapshotGigabytes
	useReplicas
	useReplicaGigabytes
)

func (a amounts) plus(b amounts) amounts {
	for i := range a {
		a[i] += b[i]
	}
	return a
}

func (a amounts) minus(b amounts) amounts {
	for i := range a {
		a[i] -= b[i]
	}
	return a
}

// usageRow is what a project uses: in all, or narrowed to one user or one share type.
type usageRow struct {
	project, user, shareType string
	used                     amounts
}

func usageLess(a, b *usageRow) bool {
	if a.project != b.project {
		return a.project < b.project
	}
	if a.user != b.user {
		return a.user < b.user
	}
	return a.shareType < b.shareType
}

// poolRow is what replicas promise of one pool.
type poolRow struct {
	host, pool string
	gib        int64
	replicas   int
}

func poolLess(a, b *poolRow) bool {
	if a.host != b.host {
		return a.host < b.host
	}
	return a.pool < b.pool
}

// sizeOf is the size that a share counts with: while it is resized, the larger one.
func sizeOf(s *tarnv1.Share) int64 { return max(s.GetSizeGib(), s.GetPendingSizeGib()) }

func shareUse(s *tarnv1.Share) amounts {
	if s == nil {
		return amounts{}
	}
	return amounts{useShares: 1, useGigabytes: sizeOf(s)}
}

// replicaUse is what n replicas of a share count. A share whose type has no
// replication_type has a replica too, but Manila's replica quotas do not see it.
func replicaUse(s *tarnv1.Share, n int64) amounts {
	if s.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		return amounts{}
	}
	return amounts{useReplicas: n, useReplicaGigabytes: n * sizeOf(s)}
}

func snapshotUse(s *tarnv1.Snapshot) amounts {
	if s == nil {
		return amounts{}
	}
	return amounts{useSnapshots: 1, useSnapshotGigabytes: s.GetSizeGib()}
}

// addUse counts delta for the project, for the user in it and for the share type in it.
func (tx *txn) addUse(project, user, shareType string, delta amounts) {
	if delta == (amounts{}) {
		return
	}
	tx.bump(usageRow{project: project, used: delta})
	if user != "" {
		tx.bump(usageRow{project: project, user: user, used: delta})
	}
	if shareType != "" {
		tx.bump(usageRow{project: project, shareType: shareType, used: delta})
	}
}

func (tx *txn) bump(row usageRow) {
	t := mutable(tx.own, &tx.s.usage)
	if old, ok := t.get(&row); ok {
		row.used = row.used.plus(old.used)
	}
	if row.used == (amounts{}) {
		t.remove(&row)
		return
	}
	t.put(&row)
}

func (tx *txn) addPool(host, pool string, gib int64, replicas int) {
	row := poolRow{host: host, pool: pool, gib: gib, replicas: replicas}
	t := mutable(tx.own, &tx.s.pools)
	if old, ok := t.get(&row); ok {
		row.gib += old.gib
		row.replicas += old.replicas
	}
	if row.gib == 0 && row.replicas == 0 {
		t.remove(&row)
		return
	}
	t.put(&row)
}

// used returns what a scope uses; zero when nothing is recorded.
func (s *state) used(project, user, shareType string) amounts {
	if row, ok := s.usage.get(&usageRow{project: project, user: user, shareType: shareType}); ok {
		return row.used
	}
	return amounts{}
}
