package raftfsm

import (
	"slices"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// The log's commands have versions. A cluster is at the version that all its members
// can apply (View.CommandVersion), which SetCommandVersion raises and nothing lowers;
// a command that needs more is not proposed, see VersionOf. So a cluster whose nodes
// are upgraded one by one goes on, and a node that is too old never meets what it
// would have to stop at.
//
// A new version is due for a new verb, and for whatever makes Apply treat an old
// command in another way. It is not due for a new field that Apply only stores: older
// nodes keep fields that they do not know.
const (
	// baseVersion is where every new log starts.
	baseVersion = 1
	// CommandVersion is the newest version of Command that this build understands.
	// 2: taking over and giving back, purge orders, outcomes in the state's hash, audit
	// records, users, keys of join tokens, automatic failover, attestations and consents
	// that are checked.
	// 3: a forced promotion whose owner stopped by its own word can be cancelled; a
	// command under a key that was seen before has the first one's outcome; planned
	// promotions are prepared; forced ones can need two people; a restored state finds
	// promotions that it does not know of.
	// 4: how long a planned promotion may take outlasts the leader; a restored state learns
	// of replicas that it does not know; users that ended make room for others.
	// 5: the log says how long to wait for leases; access rules of a share and its lineage are
	// bounded; a replica that has to compare everything is not in_sync meanwhile.
	// 6: the leader does not take back a promotion that somebody has forced meanwhile.
	CommandVersion = 6
	// AuditVersion is the first version that keeps audit records and the keys of join
	// tokens: below it commands come without.
	AuditVersion = 2
	// KeyVersion is the first version that looks at the keys of requests: below it
	// commands come without.
	KeyVersion = 3
	// CatchUpVersion is the first version in which a planned promotion can be prepared.
	CatchUpVersion = 3
	// FoundVersion is the first version in which a restored state learns of newer epochs.
	FoundVersion = 3
	// SecondVersion is the first version in which a forced promotion can need two people.
	SecondVersion = 3
	// UnknownVersion is the first version in which a restored state learns of replicas that
	// it does not know.
	UnknownVersion = 4
	// WaitVersion is the first version in which the state has how long a planned promotion
	// may take.
	WaitVersion = 4
	// RoomVersion is the first version in which users that ended make room for others.
	RoomVersion = 4
	// LeaseVersion is the first version in which the log says how long to wait for leases.
	LeaseVersion = 5
	// RulesVersion is the first version that bounds the access rules of a share.
	RulesVersion = 5
	// LineageVersion is the first version that bounds the lineage of a share.
	LineageVersion = 5
	// ResyncVersion is the first version in which a resync ends in_sync at once.
	ResyncVersion = 5
	// UnlessForcedVersion is the first version in which a cancel can spare a promotion that
	// somebody has forced.
	UnlessForcedVersion = 6
)

// VersionOf returns the version of the cluster that the command needs. A verb that
// nobody has thought about needs the newest.
func VersionOf(cmd *raftv1.Command) uint32 {
	switch v := cmd.GetVerb().(type) {
	case *raftv1.Command_SetCommandVersion:
		return v.SetCommandVersion.GetVersion()
	case *raftv1.Command_Transitions:
		if n := foundVersion(v.Transitions.GetShares()); n != 0 {
			return n
		}
		if len(v.Transitions.GetPurges()) > 0 {
			return 2
		}
		return 1
	case *raftv1.Command_PromoteReplica:
		c := v.PromoteReplica
		if c.GetWait() != nil {
			return WaitVersion
		}
		if c.GetCatchUp() || c.GetSecondRequired() {
			return max(CatchUpVersion, SecondVersion)
		}
		if c.GetAutomatic() || c.GetAttestation() != "" || c.GetConsent().GetHeadGuid() != 0 || len(c.GetConsent().GetLostGuids()) > 0 {
			return 2
		}
		return 1
	case *raftv1.Command_CancelPromotion:
		if v.CancelPromotion.GetUnlessForced() {
			return UnlessForcedVersion
		}
		return 1
	case *raftv1.Command_CommitProof:
		if slices.ContainsFunc(v.CommitProof.GetLoss().GetLostSnapshots(), (*tarnv1.LostSnapshot).GetReplicated) {
			return 2
		}
		return 1
	case *raftv1.Command_CreateShare:
		if v.CreateShare.GetReplica().GetManagedFrom() != "" {
			return 2
		}
		return 1
	case *raftv1.Command_CreateSnapshot:
		if v.CreateSnapshot.GetSnapshot().GetManagedFrom() != "" {
			return 2
		}
		return 1
	}
	switch {
	case firstVersion(cmd):
		return 1
	case secondVersion(cmd):
		return 2
	case cmd.GetDismissUnknownReplica() != nil:
		return UnknownVersion
	}
	return CommandVersion
}

// foundVersion is what the news of a restored state need; 0 for none.
func foundVersion(shares []*raftv1.ShareTransition) (version uint32) {
	for _, t := range shares {
		switch {
		case len(t.GetFound().GetUnknown()) > 0:
			return UnknownVersion
		case t.GetFound() != nil:
			version = FoundVersion
		}
	}
	return version
}

// firstVersion tells whether the verb was there from the beginning, with the meaning
// that it has now.
func firstVersion(cmd *raftv1.Command) bool {
	switch cmd.GetVerb().(type) {
	case *raftv1.Command_PutShareType, *raftv1.Command_DeleteShareType,
		*raftv1.Command_UpdateShare, *raftv1.Command_DeleteShare, *raftv1.Command_ResizeShare, *raftv1.Command_ResetShareStatus,
		*raftv1.Command_CreateReplica, *raftv1.Command_UpdateReplicaMetadata, *raftv1.Command_DeleteReplica,
		*raftv1.Command_ResyncReplica,
		*raftv1.Command_ResetReplicaStatus, *raftv1.Command_ResetReplicaState,
		*raftv1.Command_UpdateSnapshot, *raftv1.Command_DeleteSnapshot, *raftv1.Command_ResetSnapshotStatus,
		*raftv1.Command_AllowAccess, *raftv1.Command_UpdateAccess, *raftv1.Command_DenyAccess,
		*raftv1.Command_PutQuota, *raftv1.Command_ResetQuota, *raftv1.Command_DeleteMessage,
		*raftv1.Command_RegisterHost, *raftv1.Command_SetHostAdminState, *raftv1.Command_RemoveHost,
		*raftv1.Command_PutJoinToken, *raftv1.Command_UseJoinToken,
		*raftv1.Command_CommitDemotion, *raftv1.Command_CommitSeal, *raftv1.Command_Activate,
		*raftv1.Command_CheckHash, *raftv1.Command_InitCluster:
		return true
	}
	return false
}

// secondVersion tells the same of the verbs that came with version 2.
func secondVersion(cmd *raftv1.Command) bool {
	switch cmd.GetVerb().(type) {
	case *raftv1.Command_UnmanageReplica, *raftv1.Command_UnmanageShare, *raftv1.Command_UnmanageSnapshot,
		*raftv1.Command_PurgeDivergentCopy, *raftv1.Command_PutUser, *raftv1.Command_RevokeUser:
		return true
	}
	return false
}

// setCommandVersion raises what all members can apply; it never falls.
func (tx *txn) setCommandVersion(c *raftv1.SetCommandVersion) {
	tx.s.minVersion = max(tx.s.minVersion, c.GetVersion())
}
