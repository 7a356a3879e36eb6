package raftfsm

import (
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// View is the state at one index: immutable, safe for concurrent use, and cheap
// to hold. The records it returns are shared by all readers: change a clone, never
// them. Sequences are in the order of ids unless they say otherwise.
type View struct{ s *state }

// Index of the last command in the view; 0 for an empty state.
func (v *View) Index() uint64 { return v.s.index }

// Time is the state's clock: the latest time a proposer stamped, never falling.
func (v *View) Time() time.Time { return v.s.lastTime }

// Hash chains all commands up to Index; for CheckHash.
func (v *View) Hash() []byte { h := v.s.hash; return h[:] }

// CommandVersion is what every member of the cluster can apply; commands that need
// more are not proposed.
func (v *View) CommandVersion() uint32 { return v.s.minVersion }

// LeaseWait is how long after its last possible grant a lease may still be held, by
// whichever leader it was granted; 0 where no leader of LeaseVersion has said so.
func (v *View) LeaseWait() time.Duration { return v.s.leaseWait }

// Restored reports that the state was once put back from a backup: such a log begins
// RestoredGap above it, which no other one ever reaches.
func (v *View) Restored() bool { return v.s.index >= RestoredGap }

// ClusterID is empty until InitCluster.
func (v *View) ClusterID() string { return v.s.clusterID }

// Changed is closed when a later state than this view exists.
func (v *View) Changed() <-chan struct{} { return v.s.changed }

// HostRevision is the raft index of the last change that can alter what the host is
// assigned: its replicas, their shares, siblings, rules, snapshots and sources. It never
// falls, and after a restore it may be higher than on other nodes, so compare with <=.
// The channel is closed by the next such change.
func (v *View) HostRevision(hostID string) (revision uint64, changed <-chan struct{}) {
	if w, ok := v.s.watch.get(&hostWatch{host: hostID}); ok {
		return w.revision, w.changed
	}
	return 0, v.s.changed
}

// ShareType returns the type with the id.
func (v *View) ShareType(id string) (*tarnv1.ShareType, bool) { return v.s.shareType(id) }

// ShareTypeByName returns the type with the name.
func (v *View) ShareTypeByName(name string) (*tarnv1.ShareType, bool) { return v.s.typeNamed(name) }

// ShareTypes yields every share type.
func (v *View) ShareTypes() iter.Seq[*tarnv1.ShareType] { return v.s.types.all() }

// Share returns the share with the id, as stored; ProjectShare fills the rest.
func (v *View) Share(id string) (*tarnv1.Share, bool) { return v.s.share(id) }

// Shares yields every share.
func (v *View) Shares() iter.Seq[*tarnv1.Share] { return v.s.shares.all() }

// SharesOfProject yields the project's shares.
func (v *View) SharesOfProject(project string) iter.Seq[*tarnv1.Share] {
	return v.s.sharesOfProject(project)
}

// SharesOfType yields the shares made with the type.
func (v *View) SharesOfType(id string) iter.Seq[*tarnv1.Share] { return v.s.sharesOfType(id) }

// SharesFromSnapshot yields the shares that were made from the snapshot.
func (v *View) SharesFromSnapshot(id string) iter.Seq[*tarnv1.Share] { return v.s.clonesOf(id) }

// Replica returns the replica with the id.
func (v *View) Replica(id string) (*tarnv1.Replica, bool) { return v.s.replica(id) }

// Replicas yields every replica.
func (v *View) Replicas() iter.Seq[*tarnv1.Replica] { return v.s.replicas.all() }

// ReplicasOfShare lists the share's replicas, oldest first, in a fresh slice.
func (v *View) ReplicasOfShare(shareID string) []*tarnv1.Replica { return v.s.replicasInOrder(shareID) }

// ReplicasOnHost yields what the host holds, all pools.
func (v *View) ReplicasOnHost(hostID string) iter.Seq[*tarnv1.Replica] { return v.s.replicasOn(hostID) }

// Snapshot returns the snapshot with the id.
func (v *View) Snapshot(id string) (*tarnv1.Snapshot, bool) { return v.s.snapshot(id) }

// Snapshots yields every snapshot.
func (v *View) Snapshots() iter.Seq[*tarnv1.Snapshot] { return v.s.snapshots.all() }

// SnapshotsOfProject yields the project's snapshots.
func (v *View) SnapshotsOfProject(project string) iter.Seq[*tarnv1.Snapshot] {
	return v.s.snapshotsOfProject(project)
}

// SnapshotsOfShare yields the share's snapshots.
func (v *View) SnapshotsOfShare(shareID string) iter.Seq[*tarnv1.Snapshot] {
	return v.s.snapshotsOf(shareID)
}

// SnapshotStatus is the status that ProjectSnapshot sets, without the copy.
func (v *View) SnapshotStatus(snap *tarnv1.Snapshot) tarnv1.Status { return v.s.snapshotStatus(snap) }

// SnapshotInstance returns the instance with the id.
func (v *View) SnapshotInstance(id string) (*tarnv1.SnapshotInstance, bool) { return v.s.instance(id) }

// InstanceOn returns the instance of the snapshot on the replica.
func (v *View) InstanceOn(snapshotID, replicaID string) (*tarnv1.SnapshotInstance, bool) {
	return v.s.instanceOn(snapshotID, replicaID)
}

// SnapshotInstances yields every snapshot instance.
func (v *View) SnapshotInstances() iter.Seq[*tarnv1.SnapshotInstance] { return v.s.instances.all() }

// InstancesOfSnapshot yields the snapshot's instances, by replica id.
func (v *View) InstancesOfSnapshot(id string) iter.Seq[*tarnv1.SnapshotInstance] {
	return v.s.instancesOf(id)
}

// InstancesOfReplica yields the instances on the replica.
func (v *View) InstancesOfReplica(id string) iter.Seq[*tarnv1.SnapshotInstance] {
	return v.s.instancesOn(id)
}

// AccessRule returns the rule with the id, denied ones included.
func (v *View) AccessRule(id string) (*tarnv1.AccessRule, bool) { return v.s.rule(id) }

// AccessRulesOfShare yields the share's rules, denied ones included.
func (v *View) AccessRulesOfShare(shareID string) iter.Seq[*tarnv1.AccessRule] {
	return v.s.rulesOf(shareID)
}

// Host returns the host with the id.
func (v *View) Host(id string) (*tarnv1.Host, bool) { return v.s.host(id) }

// HostByName returns the host with the name.
func (v *View) HostByName(name string) (*tarnv1.Host, bool) { return v.s.hostNamed(name) }

// Hosts yields every host.
func (v *View) Hosts() iter.Seq[*tarnv1.Host] { return v.s.hosts.all() }

// Message returns the user message with the id.
func (v *View) Message(id string) (*tarnv1.UserMessage, bool) { return v.s.message(id) }

// Messages yields every user message.
func (v *View) Messages() iter.Seq[*tarnv1.UserMessage] { return v.s.messages.all() }

// MessagesOfProject yields the project's messages.
func (v *View) MessagesOfProject(project string) iter.Seq[*tarnv1.UserMessage] {
	return v.s.messagesOfProject(project)
}

// JoinToken returns the token by the hash of its secret, expired and used ones included.
func (v *View) JoinToken(hash string) (*raftv1.JoinToken, bool) { return v.s.joinToken(hash) }

// ProjectShare returns a clone of share with its output-only fields set from this view.
func (v *View) ProjectShare(share *tarnv1.Share) *tarnv1.Share { return v.s.projectShare(share) }

// ShareStatus is the status that ProjectShare sets, without the copy.
func (v *View) ShareStatus(share *tarnv1.Share) tarnv1.Status { return v.s.shareStatus(share) }

// ProjectSnapshot returns a clone with the aggregate status.
func (v *View) ProjectSnapshot(snap *tarnv1.Snapshot) *tarnv1.Snapshot {
	out := proto.CloneOf(snap)
	out.Status = v.s.snapshotStatus(snap)
	return out
}

// ProjectRule returns a clone with the rule's state, the worst over its replicas.
func (v *View) ProjectRule(rule *tarnv1.AccessRule) *tarnv1.AccessRule {
	out := proto.CloneOf(rule)
	out.State = v.s.ruleState(rule)
	return out
}

// ProjectReplica returns a clone whose export locations carry its state and zone.
// Observations are the caller's to add.
func (v *View) ProjectReplica(r *tarnv1.Replica) *tarnv1.Replica {
	out := proto.CloneOf(r)
	out.ExportLocations, out.Observed = projectExports(r), nil
	if s, ok := v.s.share(r.GetShareId()); ok {
		out.Status = shownReplica(s, r)
	}
	return out
}

// ProjectHost returns a clone with what replicas promise of its pools. The allocated
// capacity is as of registration.
func (v *View) ProjectHost(h *tarnv1.Host) *tarnv1.Host { return v.s.projectHost(h) }
