package raftfsm

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// state is everything that the log decided up to index. Published states are immutable.
type state struct {
	index      uint64
	hash       [32]byte
	lastTime   time.Time
	clusterID  string
	minVersion uint32
	// leaseWait is 0 before the first leader of LeaseVersion has granted a lease.
	leaseWait time.Duration

	types     *table[tarnv1.ShareType]
	shares    *table[tarnv1.Share]
	replicas  *table[tarnv1.Replica]
	snapshots *table[tarnv1.Snapshot]
	instances *table[tarnv1.SnapshotInstance]
	rules     *table[tarnv1.AccessRule]
	quotas    *table[tarnv1.QuotaLimits]
	messages  *table[tarnv1.UserMessage]
	hosts     *table[tarnv1.Host]
	tokens    *table[raftv1.JoinToken]
	audit     *table[tarnv1.AuditRecord]
	users     *table[raftv1.UserRecord]
	outcomes  *table[raftv1.KeptOutcome]

	// Derived from the tables above in the same transaction, rebuilt by Restore.
	outcomeBytes int
	usage        *table[usageRow]
	pools        *table[poolRow]
	states       [stateCount]int
	watch        *table[hostWatch]

	// Closed when a later state is published.
	changed chan struct{}
}

// stateCount bounds the values of tarnv1.ReplicaState.
const stateCount = 5

// Secondary indexes, by position in their tables.
const (
	typeByName = 1

	shareByProject  = 1
	shareByType     = 2
	shareBySnapshot = 3

	replicaByShare = 1
	replicaByHost  = 2

	snapshotByShare   = 1
	snapshotByProject = 2

	instanceBySnapshot = 1
	instanceByReplica  = 2

	ruleByShare = 1

	messageByProject = 1
	messageBySubject = 2
	messageByExpiry  = 3

	hostByName = 1

	userByToken = 1
)

func newState() *state {
	own := &token{}
	s := &state{minVersion: baseVersion, changed: make(chan struct{})}
	s.initRecords(own)
	s.usage = newTable(own, index[usageRow]{less: usageLess})
	s.pools = newTable(own, index[poolRow]{less: poolLess})
	s.watch = newTable(own, index[hostWatch]{less: func(a, b *hostWatch) bool { return a.host < b.host }})
	return s
}

func (s *state) initRecords(own *token) {
	s.types = newTable(own,
		by((*tarnv1.ShareType).GetId),
		by((*tarnv1.ShareType).GetName))
	s.shares = newTable(own,
		by((*tarnv1.Share).GetId),
		by2((*tarnv1.Share).GetProjectId, (*tarnv1.Share).GetId),
		by2((*tarnv1.Share).GetShareTypeId, (*tarnv1.Share).GetId),
		sparse(by2((*tarnv1.Share).GetSnapshotId, (*tarnv1.Share).GetId),
			func(r *tarnv1.Share) bool { return r.GetSnapshotId() != "" }))
	s.replicas = newTable(own,
		by((*tarnv1.Replica).GetId),
		by2((*tarnv1.Replica).GetShareId, (*tarnv1.Replica).GetId),
		by2((*tarnv1.Replica).GetHostId, (*tarnv1.Replica).GetId))
	s.snapshots = newTable(own,
		by((*tarnv1.Snapshot).GetId),
		by2((*tarnv1.Snapshot).GetShareId, (*tarnv1.Snapshot).GetId),
		by2((*tarnv1.Snapshot).GetProjectId, (*tarnv1.Snapshot).GetId))
	s.instances = newTable(own,
		by((*tarnv1.SnapshotInstance).GetId),
		by2((*tarnv1.SnapshotInstance).GetSnapshotId, (*tarnv1.SnapshotInstance).GetReplicaId),
		by2((*tarnv1.SnapshotInstance).GetReplicaId, (*tarnv1.SnapshotInstance).GetId))
	s.rules = newTable(own,
		by((*tarnv1.AccessRule).GetId),
		by2((*tarnv1.AccessRule).GetShareId, (*tarnv1.AccessRule).GetId))
	s.quotas = newTable(own, index[tarnv1.QuotaLimits]{less: quotaLess})
	s.messages = newTable(own,
		by((*tarnv1.UserMessage).GetId),
		by2((*tarnv1.UserMessage).GetProjectId, (*tarnv1.UserMessage).GetId),
		index[tarnv1.UserMessage]{less: subjectLess},
		index[tarnv1.UserMessage]{less: expiryLess})
	s.hosts = newTable(own, by((*tarnv1.Host).GetId), by((*tarnv1.Host).GetName))
	s.tokens = newTable(own, by((*raftv1.JoinToken).GetHash))
	s.users = newTable(own,
		index[raftv1.UserRecord]{less: func(a, b *raftv1.UserRecord) bool { return a.GetUser().GetId() < b.GetUser().GetId() }},
		sparse(by((*raftv1.UserRecord).GetTokenHash), func(r *raftv1.UserRecord) bool { return r.GetTokenHash() != "" }))
	s.audit = newTable(own, index[tarnv1.AuditRecord]{less: auditLess})
	s.outcomes = newOutcomes(own)
}

func by[T any](key func(*T) string) index[T] {
	return index[T]{less: func(a, b *T) bool { return key(a) < key(b) }}
}

func by2[T any](k1, k2 func(*T) string) index[T] {
	return index[T]{less: func(a, b *T) bool {
		if x, y := k1(a), k1(b); x != y {
			return x < y
		}
		return k2(a) < k2(b)
	}}
}

func sparse[T any](ix index[T], member func(*T) bool) index[T] {
	ix.member = member
	return ix
}

func quotaLess(a, b *tarnv1.QuotaLimits) bool {
	if a.GetProjectId() != b.GetProjectId() {
		return a.GetProjectId() < b.GetProjectId()
	}
	if a.GetUserId() != b.GetUserId() {
		return a.GetUserId() < b.GetUserId()
	}
	return a.GetShareTypeId() < b.GetShareTypeId()
}

func subjectLess(a, b *tarnv1.UserMessage) bool {
	if a.GetResourceId() != b.GetResourceId() {
		return a.GetResourceId() < b.GetResourceId()
	}
	if a.GetDetailId() != b.GetDetailId() {
		return a.GetDetailId() < b.GetDetailId()
	}
	return a.GetId() < b.GetId()
}

func expiryLess(a, b *tarnv1.UserMessage) bool {
	if c := compareTime(a.GetExpiresAt(), b.GetExpiresAt()); c != 0 {
		return c < 0
	}
	return a.GetId() < b.GetId()
}

func compareTime(a, b *timestamppb.Timestamp) int {
	if a.GetSeconds() != b.GetSeconds() {
		if a.GetSeconds() < b.GetSeconds() {
			return -1
		}
		return 1
	}
	return int(a.GetNanos()) - int(b.GetNanos())
}
