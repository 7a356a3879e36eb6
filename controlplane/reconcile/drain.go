package reconcile

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/observe"
	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// DrainBlockers says what the drain of a host waits for, one sentence per
// replica, in the order of the shares. Empty when the host is not draining.
func DrainBlockers(policy Policy, view *raftfsm.View, observed *observe.Snapshot, hostID string) []string {
	r := &round{policy: policy, view: view, obs: observed, now: observed.Now, ids: func() string { return "" }, batch: &raftv1.Transitions{}}
	if h, ok := view.Host(hostID); !ok || !draining(h) {
		return nil
	}
	var out []string
	for _, shareID := range r.sharesOn(hostID) {
		for _, step := range r.drainPlan(shareID) {
			if leaving, ok := view.Replica(step.Leaving); !ok || leaving.GetHostId() != hostID {
				continue
			}
			switch step.Action {
			case schedule.DrainWait:
				out = append(out, step.Reason)
			case schedule.DrainCreate:
				if _, err := r.placeFor(step.Leaving); err != nil {
					out = append(out, fmt.Sprintf("replica %s has nowhere to go: %v", step.Leaving, err))
				}
			}
		}
	}
	return out
}

func draining(h *tarnv1.Host) bool {
	return h.GetAdminState() == tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING
}

// drains proposes the next step for every replica on a draining host.
func (r *round) drains() {
	shares := make(map[string]struct{})
	for h := range r.view.Hosts() {
		if draining(h) {
			for _, id := range r.sharesOn(h.GetId()) {
				shares[id] = struct{}{}
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(shares)) {
		for _, step := range r.drainPlan(id) {
			r.drainStep(id, step)
		}
	}
}

func (r *round) sharesOn(hostID string) []string {
	seen := make(map[string]struct{})
	for rep := range r.view.ReplicasOnHost(hostID) {
		seen[rep.GetShareId()] = struct{}{}
	}
	return slices.Sorted(maps.Keys(seen))
}

func (r *round) drainPlan(shareID string) []schedule.DrainStep {
	share, ok := r.view.Share(shareID)
	if !ok {
		return nil
	}
	f := share.GetFencing()
	plan := schedule.DrainShare{
		ShareID: shareID, Name: share.GetName(), ReplicationType: share.GetReplicationType(),
		Promoting: raftfsm.Unsettled(share) || f.GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_ACTIVE || f.GetPreparing() != nil && !f.GetPreparing().GetCancelled(),
	}
	for _, rep := range r.view.ReplicasOfShare(shareID) {
		h, _ := r.view.Host(rep.GetHostId())
		plan.Replicas = append(plan.Replicas, schedule.DrainReplica{
			ID: rep.GetId(), Replaces: rep.GetMetadata()[schedule.ReplacesKey], Draining: draining(h),
			Down: h.GetState() != tarnv1.HostState_HOST_STATE_UP, Owner: f.GetOwnerReplicaId() == rep.GetId(),
			Status: rep.GetStatus(), State: rep.GetReplicaState(), Keyless: schedule.Encrypted(share.GetExtraSpecs()) && !r.keyed(rep),
		})
	}
	steps := schedule.PlanDrain(plan)
	for i := range steps {
		if steps[i].Action == schedule.DrainPromote && r.pausing(f) {
			steps[i] = schedule.DrainStep{Leaving: steps[i].Leaving, Reason: fmt.Sprintf(
				"share %s (%s) waits: its write permission changed less than %s ago", share.GetName(), shareID, r.policy.DrainPause)}
		}
	}
	return steps
}

// keyed reports that the replica's host has said that it has the key.
func (r *round) keyed(rep *tarnv1.Replica) bool {
	seen := r.obs.Replica(rep)
	return seen != nil && seen.Report.GetKeyState() == tarnv1.KeyState_KEY_STATE_AVAILABLE
}

// pausing keeps a drain from promoting again and again when the owner does not
// come to rest: a cancelled promotion leaves an entry in the lineage.
func (r *round) pausing(f *tarnv1.Fencing) bool {
	l := f.GetLineage()
	return len(l) > 1 && r.within(l[len(l)-1].GetAt(), r.policy.DrainPause)
}

func (r *round) drainStep(shareID string, step schedule.DrainStep) {
	switch step.Action {
	case schedule.DrainCreate:
		r.replace(shareID, step.ReplicaID)
	case schedule.DrainPromote:
		share, _ := r.view.Share(shareID)
		r.propose(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
			Id: step.ReplicaID, OpId: r.ids(), Mode: tarnv1.PromotionMode_PROMOTION_MODE_PLANNED,
			ExpectedEpoch: share.GetFencing().GetEpoch(), CatchUp: catchUp(r.view),
		}}})
	case schedule.DrainDelete:
		rep, _ := r.view.Replica(step.ReplicaID)
		r.propose(&raftv1.Command{Verb: &raftv1.Command_DeleteReplica{DeleteReplica: &raftv1.DeleteReplica{
			Id: step.ReplicaID, ExpectedRevision: rep.GetRevision(),
		}}})
	}
}

// replace adds a replica elsewhere that takes the place of one that leaves. When
// there is no room the drain waits; DrainBlockers says so.
func (r *round) replace(shareID, leaving string) {
	place, err := r.placeFor(leaving)
	if err != nil {
		return
	}
	share, _ := r.view.Share(shareID)
	rep := &tarnv1.Replica{
		Id: r.ids(), ShareId: shareID, ProjectId: share.GetProjectId(), Status: tarnv1.Status_STATUS_CREATING,
		ReplicaState: tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC, AvailabilityZone: place.Zone,
		Host: place.FullName, HostId: place.HostID, Pool: place.Pool, CreatedAt: timestamppb.New(r.now),
		Metadata:            map[string]string{schedule.ReplacesKey: leaving},
		CastRulesToReadonly: share.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_READABLE,
	}
	instances := make(map[string]string)
	for snap := range r.view.SnapshotsOfShare(shareID) {
		if !snap.GetDeleting() {
			instances[snap.GetId()] = r.ids()
		}
	}
	r.inventory().Apply(schedule.Delta{HostID: place.HostID, Pool: place.Pool, SizeGiB: share.GetSizeGib(), Replicas: 1})
	r.propose(&raftv1.Command{Verb: &raftv1.Command_CreateReplica{CreateReplica: &raftv1.CreateReplica{
		Replica: rep, SnapshotInstanceIds: instances,
	}}})
}

func (r *round) placeFor(leaving string) (schedule.Placement, error) {
	old, _ := r.view.Replica(leaving)
	share, _ := r.view.Share(old.GetShareId())
	req := &schedule.Request{
		SizeGiB: max(share.GetSizeGib(), share.GetPendingSizeGib()), ShareProto: share.GetShareProto(),
		ExtraSpecs: share.GetExtraSpecs(), ReplicationType: share.GetReplicationType(),
	}
	for _, rep := range r.view.ReplicasOfShare(share.GetId()) {
		if rep.GetId() == share.GetFencing().GetOwnerReplicaId() {
			req.Active = &schedule.PoolRef{HostID: rep.GetHostId(), Pool: rep.GetPool()}
		}
		zone := rep.GetAvailabilityZone()
		if rep.GetId() == leaving {
			zone = "" // Its zone is about to be free: prefer to stay in it.
		}
		req.Existing = append(req.Existing, schedule.Existing{HostID: rep.GetHostId(), Pool: rep.GetPool(), Zone: zone})
	}
	return r.stayOrMove(req, old.GetAvailabilityZone())
}

// stayOrMove keeps a replica's zone if there is room in it.
func (r *round) stayOrMove(req *schedule.Request, zone string) (schedule.Placement, error) {
	req.AvailabilityZone = zone
	if place, err := schedule.Place(req, r.inventory()); err == nil {
		return place, nil
	}
	req.AvailabilityZone = ""
	return schedule.Place(req, r.inventory())
}

func (r *round) inventory() *schedule.Inventory {
	if r.inv == nil {
		r.inv = Inventory(r.view, r.obs)
	}
	return r.inv
}

// Inventory builds the scheduler's picture of the cluster: what the hosts
// registered, what is promised on them, and what their pools last reported. It
// costs O(hosts); observed may be nil.
func Inventory(view *raftfsm.View, observed *observe.Snapshot) *schedule.Inventory {
	inv := schedule.NewInventory()
	for h := range view.Hosts() {
		inv.PutHost(h, func(pool string) schedule.Usage {
			gib, n := view.PoolProvisioned(h.GetId(), pool)
			return schedule.Usage{ProvisionedGiB: gib, Replicas: n}
		})
		if observed == nil || observed.Hosts[h.GetId()] == nil {
			continue
		}
		for name, p := range observed.Hosts[h.GetId()].Pools {
			inv.SetCapacity(schedule.PoolRef{HostID: h.GetId(), Pool: name}, p.GetTotalCapacityGib(), p.GetFreeCapacityGib())
		}
	}
	return inv
}
