package assignment

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/schedule"
	tarnv1 "tarn/proto/tarn/v1"
)

// Bounds of the snapshot cadence.
const (
	minCadence = time.Second
	maxCadence = 5 * time.Minute
)

// facts is all that the assignments of one share's replicas follow from.
type facts struct {
	share    *tarnv1.Share
	replicas []*tarnv1.Replica
	// snapshots of the share, oldest first.
	snapshots []*tarnv1.Snapshot
	rules     []*tarnv1.AccessRule
	// guests are replicas of other shares that are being made from a snapshot of this one.
	guests []*tarnv1.Replica
	clone  *tarnv1.CloneSource
	host   func(id string) (*tarnv1.Host, bool)
	// holds reports that a replica has a record of a snapshot.
	holds func(replicaID, snapshotID string) bool
}

// RPO returns the lag that a share promises.
func RPO(share *tarnv1.Share) time.Duration {
	if d := share.GetRpo().AsDuration(); d > 0 {
		return d
	}
	return schedule.DefaultRPO
}

// Cadence returns how often the active host snapshots a share that changes: a
// quarter of its RPO, 1 s to 5 min. 1 s while a promotion is prepared.
func Cadence(share *tarnv1.Share) time.Duration {
	if p := share.GetFencing().GetPreparing(); p != nil && !p.GetCancelled() {
		return minCadence
	}
	return min(max(RPO(share)/4, minCadence), maxCadence)
}

// role decides what a replica may do. It is the only place that says ACTIVE.
func role(share *tarnv1.Share, r *tarnv1.Replica) tarnv1.Role {
	f := share.GetFencing()
	owner := f.GetOwnerReplicaId() == r.GetId()
	switch {
	case r.GetStatus() == tarnv1.Status_STATUS_DELETING, r.GetStatus() == tarnv1.Status_STATUS_ERROR_DELETING:
		return tarnv1.Role_ROLE_DELETING
	case unmanaging(r):
		return tarnv1.Role_ROLE_RELEASING
	case f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_ACTIVE && owner:
		return tarnv1.Role_ROLE_ACTIVE
	case f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_ACTIVE:
		return tarnv1.Role_ROLE_SECONDARY
	case f.GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_FENCING || owner || sealing(f, r):
		return tarnv1.Role_ROLE_FENCED
	}
	return tarnv1.Role_ROLE_SECONDARY
}

// unmanaging reports a replica whose dataset is to be given back.
func unmanaging(r *tarnv1.Replica) bool {
	switch r.GetStatus() {
	case tarnv1.Status_STATUS_UNMANAGE_STARTING, tarnv1.Status_STATUS_UNMANAGE_ERROR,
		tarnv1.Status_STATUS_MANAGE_ERROR_UNMANAGE_STARTING:
		return true
	}
	return false
}

// sealing reports that r is the target of a forced promotion.
func sealing(f *tarnv1.Fencing, r *tarnv1.Replica) bool {
	return f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING &&
		f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_FORCED && f.GetTargetReplicaId() == r.GetId()
}

func (f *facts) assignment(r *tarnv1.Replica) *tarnv1.Assignment {
	fencing := f.share.GetFencing()
	a := &tarnv1.Assignment{
		ReplicaId: r.GetId(), ShareId: r.GetShareId(), ShareName: f.share.GetName(), Pool: r.GetPool(),
		Role: role(f.share, r), Epoch: fencing.GetEpoch(), SizeGib: wantedSize(f.share, r),
		Rpo: durationpb.New(RPO(f.share)), Cadence: durationpb.New(Cadence(f.share)),
		Options:          &tarnv1.ReplicationOptions{RateLimit: schedule.RateLimit(f.share.GetExtraSpecs())},
		Lineage:          fencing.GetLineage(),
		ResyncGeneration: r.GetResyncGeneration(),
		ProtectedGuids:   f.protected(),
		ReplicationType:  f.share.GetReplicationType(),
		Established:      r.GetLaunchedAt() != nil,
		Encrypted:        schedule.Encrypted(f.share.GetExtraSpecs()),
		Keep:             schedule.Keep(f.share.GetExtraSpecs()),
		ManagedFrom:      r.GetManagedFrom(),
	}
	if a.Role == tarnv1.Role_ROLE_DELETING || a.Role == tarnv1.Role_ROLE_RELEASING {
		return a
	}
	a.Snapshots, a.RemovedSnapshots = f.wanted(r)
	a.Exports = f.exports(r, a.Role)
	f.promotion(a, r)
	a.Peers = f.peers(r)
	if isBeingCloned(f.share, r) {
		a.CloneSource = f.clone
	}
	if a.Role == tarnv1.Role_ROLE_SECONDARY {
		a.Source = f.source(fencing.GetOwnerReplicaId())
	}
	return a
}

// promotion fills in what the two sides of a running promotion have to know.
func (f *facts) promotion(a *tarnv1.Assignment, r *tarnv1.Replica) {
	fencing := f.share.GetFencing()
	if fencing.GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_FENCING {
		return
	}
	switch r.GetId() {
	case fencing.GetOwnerReplicaId():
		a.OpId = fencing.GetOpId()
	case fencing.GetTargetReplicaId():
		a.OpId = fencing.GetOpId()
		a.Seal = sealing(fencing, r)
		if !a.Seal {
			a.FinalGuid = fencing.GetFinalGuid()
		}
	}
}

// wantedSize is the dataset's quota. A shrink is tried on the active replica
// alone, because only its data say if it fits.
func wantedSize(share *tarnv1.Share, r *tarnv1.Replica) int64 {
	pending := share.GetPendingSizeGib()
	switch {
	case pending == 0:
		return share.GetSizeGib()
	case share.GetResizeStatus() == tarnv1.Status_STATUS_EXTENDING:
		return pending
	case share.GetResizeStatus() == tarnv1.Status_STATUS_SHRINKING && share.GetFencing().GetOwnerReplicaId() == r.GetId():
		return pending
	}
	return share.GetSizeGib()
}

func (f *facts) wanted(r *tarnv1.Replica) (keep, remove []*tarnv1.WantedSnapshot) {
	for _, s := range f.snapshots {
		if !f.holds(r.GetId(), s.GetId()) {
			continue
		}
		w := &tarnv1.WantedSnapshot{SnapshotId: s.GetId(), Guid: s.GetGuid(), ManagedFrom: s.GetManagedFrom(), Release: s.GetUnmanaging()}
		if s.GetDeleting() {
			remove = append(remove, w)
		} else {
			keep = append(keep, w)
		}
	}
	return keep, remove
}

func (f *facts) exports(r *tarnv1.Replica, role tarnv1.Role) *tarnv1.Exports {
	e := &tarnv1.Exports{
		Revision: f.share.GetAccessRevision(), Fsid: r.GetId(), Squash: schedule.Squash(f.share.GetExtraSpecs()),
	}
	readOnly := false
	switch role {
	case tarnv1.Role_ROLE_ACTIVE:
		e.Fsid = Fsid(f.share)
	case tarnv1.Role_ROLE_SECONDARY:
		if f.share.GetReplicationType() != tarnv1.ReplicationType_REPLICATION_TYPE_READABLE {
			return e
		}
		readOnly = true
	default:
		return e
	}
	for _, rule := range f.rules {
		if rule.GetDenied() {
			continue
		}
		level := rule.GetAccessLevel()
		if readOnly {
			level = tarnv1.AccessLevel_ACCESS_LEVEL_RO
		}
		e.Rules = append(e.Rules, &tarnv1.ExportRule{AccessRuleId: rule.GetId(), AccessTo: rule.GetAccessTo(), AccessLevel: level})
	}
	return e
}

// Fsid is the file system id of a share's writable export: the share's id, so
// that handles survive a planned move, or another one from a failover that lost
// data on, so that clients notice (reliability 3.11). Secondaries export under
// their replica's id.
func Fsid(share *tarnv1.Share) string {
	epoch := share.GetFencing().GetFsidEpoch()
	if epoch == 0 {
		return share.GetId()
	}
	space, err := uuid.Parse(share.GetId())
	if err != nil {
		space = uuid.NewSHA1(uuid.NameSpaceOID, []byte(share.GetId()))
	}
	return uuid.NewSHA1(space, binary.BigEndian.AppendUint64(nil, epoch)).String()
}

// peers may pull from r: the other replicas from the owner, and those that are
// made from one of the share's snapshots from whoever holds it.
func (f *facts) peers(r *tarnv1.Replica) []*tarnv1.Peer {
	pulling := f.guests
	if f.share.GetFencing().GetOwnerReplicaId() == r.GetId() {
		pulling = append(slices.Clone(f.replicas), f.guests...)
	}
	var peers []*tarnv1.Peer
	for _, p := range pulling {
		if p.GetId() != r.GetId() && p.GetStatus() != tarnv1.Status_STATUS_DELETING && !unmanaging(p) {
			peers = append(peers, &tarnv1.Peer{ReplicaId: p.GetId(), HostId: p.GetHostId()})
		}
	}
	return peers
}

func (f *facts) source(replicaID string) *tarnv1.Source {
	for _, r := range f.replicas {
		if r.GetId() == replicaID {
			return sourceOf(r, f.host)
		}
	}
	return nil
}

func sourceOf(r *tarnv1.Replica, host func(string) (*tarnv1.Host, bool)) *tarnv1.Source {
	h, ok := host(r.GetHostId())
	if !ok {
		return nil
	}
	return &tarnv1.Source{ReplicaId: r.GetId(), HostId: h.GetId(), Address: h.GetAddress()}
}

// protected are the snapshots that some replica is known to stand on: bases of
// increments to come and of the share's history.
func (f *facts) protected() []uint64 {
	var guids []uint64
	for _, r := range f.replicas {
		guids = append(guids, r.GetHeadGuid())
	}
	fencing := f.share.GetFencing()
	for _, l := range fencing.GetLineage() {
		guids = append(guids, l.GetBaseGuid())
	}
	guids = append(guids, fencing.GetFinalGuid(), fencing.GetSealedGuid())
	slices.Sort(guids)
	guids = slices.Compact(guids)
	if len(guids) > 0 && guids[0] == 0 {
		guids = guids[1:]
	}
	return guids
}
