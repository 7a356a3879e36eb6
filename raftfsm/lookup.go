package raftfsm

import (
	"iter"
	"slices"
	"strings"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func (s *state) shareType(id string) (*tarnv1.ShareType, bool) {
	return s.types.get(&tarnv1.ShareType{Id: id})
}

func (s *state) typeNamed(name string) (*tarnv1.ShareType, bool) {
	return first(s.types.from(typeByName, &tarnv1.ShareType{Name: name},
		func(t *tarnv1.ShareType) bool { return t.GetName() == name }))
}

func (s *state) share(id string) (*tarnv1.Share, bool) { return s.shares.get(&tarnv1.Share{Id: id}) }

func (s *state) sharesOfProject(project string) iter.Seq[*tarnv1.Share] {
	return s.shares.from(shareByProject, &tarnv1.Share{ProjectId: project},
		func(r *tarnv1.Share) bool { return r.GetProjectId() == project })
}

func (s *state) sharesOfType(id string) iter.Seq[*tarnv1.Share] {
	return s.shares.from(shareByType, &tarnv1.Share{ShareTypeId: id},
		func(r *tarnv1.Share) bool { return r.GetShareTypeId() == id })
}

func (s *state) clonesOf(snapshotID string) iter.Seq[*tarnv1.Share] {
	return s.shares.from(shareBySnapshot, &tarnv1.Share{SnapshotId: snapshotID},
		func(r *tarnv1.Share) bool { return r.GetSnapshotId() == snapshotID })
}

func (s *state) replica(id string) (*tarnv1.Replica, bool) {
	return s.replicas.get(&tarnv1.Replica{Id: id})
}

func (s *state) replicasOf(shareID string) iter.Seq[*tarnv1.Replica] {
	return s.replicas.from(replicaByShare, &tarnv1.Replica{ShareId: shareID},
		func(r *tarnv1.Replica) bool { return r.GetShareId() == shareID })
}

func (s *state) replicasOn(hostID string) iter.Seq[*tarnv1.Replica] {
	return s.replicas.from(replicaByHost, &tarnv1.Replica{HostId: hostID},
		func(r *tarnv1.Replica) bool { return r.GetHostId() == hostID })
}

// replicasInOrder lists a share's replicas, oldest first.
func (s *state) replicasInOrder(shareID string) []*tarnv1.Replica {
	return slices.SortedStableFunc(s.replicasOf(shareID), func(a, b *tarnv1.Replica) int {
		if c := compareTime(a.GetCreatedAt(), b.GetCreatedAt()); c != 0 {
			return c
		}
		return strings.Compare(a.GetId(), b.GetId())
	})
}

func (s *state) countReplicas(shareID string) int {
	n := 0
	for range s.replicasOf(shareID) {
		n++
	}
	return n
}

func (s *state) snapshot(id string) (*tarnv1.Snapshot, bool) {
	return s.snapshots.get(&tarnv1.Snapshot{Id: id})
}

func (s *state) snapshotsOf(shareID string) iter.Seq[*tarnv1.Snapshot] {
	return s.snapshots.from(snapshotByShare, &tarnv1.Snapshot{ShareId: shareID},
		func(r *tarnv1.Snapshot) bool { return r.GetShareId() == shareID })
}

func (s *state) snapshotsOfProject(project string) iter.Seq[*tarnv1.Snapshot] {
	return s.snapshots.from(snapshotByProject, &tarnv1.Snapshot{ProjectId: project},
		func(r *tarnv1.Snapshot) bool { return r.GetProjectId() == project })
}

func (s *state) instance(id string) (*tarnv1.SnapshotInstance, bool) {
	return s.instances.get(&tarnv1.SnapshotInstance{Id: id})
}

func (s *state) instancesOf(snapshotID string) iter.Seq[*tarnv1.SnapshotInstance] {
	return s.instances.from(instanceBySnapshot, &tarnv1.SnapshotInstance{SnapshotId: snapshotID},
		func(r *tarnv1.SnapshotInstance) bool { return r.GetSnapshotId() == snapshotID })
}

func (s *state) instancesOn(replicaID string) iter.Seq[*tarnv1.SnapshotInstance] {
	return s.instances.from(instanceByReplica, &tarnv1.SnapshotInstance{ReplicaId: replicaID},
		func(r *tarnv1.SnapshotInstance) bool { return r.GetReplicaId() == replicaID })
}

func (s *state) instanceOn(snapshotID, replicaID string) (*tarnv1.SnapshotInstance, bool) {
	pivot := &tarnv1.SnapshotInstance{SnapshotId: snapshotID, ReplicaId: replicaID}
	return first(s.instances.from(instanceBySnapshot, pivot, func(r *tarnv1.SnapshotInstance) bool {
		return r.GetSnapshotId() == snapshotID && r.GetReplicaId() == replicaID
	}))
}

func (s *state) rule(id string) (*tarnv1.AccessRule, bool) {
	return s.rules.get(&tarnv1.AccessRule{Id: id})
}

func (s *state) rulesOf(shareID string) iter.Seq[*tarnv1.AccessRule] {
	return s.rules.from(ruleByShare, &tarnv1.AccessRule{ShareId: shareID},
		func(r *tarnv1.AccessRule) bool { return r.GetShareId() == shareID })
}

func (s *state) message(id string) (*tarnv1.UserMessage, bool) {
	return s.messages.get(&tarnv1.UserMessage{Id: id})
}

func (s *state) messagesOfProject(project string) iter.Seq[*tarnv1.UserMessage] {
	return s.messages.from(messageByProject, &tarnv1.UserMessage{ProjectId: project},
		func(r *tarnv1.UserMessage) bool { return r.GetProjectId() == project })
}

func (s *state) host(id string) (*tarnv1.Host, bool) { return s.hosts.get(&tarnv1.Host{Id: id}) }

func (s *state) hostNamed(name string) (*tarnv1.Host, bool) {
	return first(s.hosts.from(hostByName, &tarnv1.Host{Name: name},
		func(h *tarnv1.Host) bool { return h.GetName() == name }))
}

func (s *state) joinToken(hash string) (*raftv1.JoinToken, bool) {
	return s.tokens.get(&raftv1.JoinToken{Hash: hash})
}

func (s *state) limits(project, user, shareType string) (*tarnv1.QuotaLimits, bool) {
	return s.quotas.get(&tarnv1.QuotaLimits{ProjectId: project, UserId: user, ShareTypeId: shareType})
}

func poolOf(h *tarnv1.Host, name string) (*tarnv1.Pool, bool) {
	for _, p := range h.GetPools() {
		if p.GetName() == name {
			return p, true
		}
	}
	return nil, false
}
