package api

import (
	"errors"
	"sync"
	"time"

	"tarn/controlplane/observe"
	"tarn/controlplane/schedule"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

const (
	// inventoryAge is how old the picture of the pools may be. Placements made
	// meanwhile are in it; what others changed, the state machine checks.
	inventoryAge = time.Second
	maxPlacings  = 3
)

// placer keeps the scheduler's inventory. Safe for concurrent use.
type placer struct {
	state State
	soft  *observe.State

	mu    sync.Mutex
	inv   *schedule.Inventory
	built time.Time
}

func newPlacer(state State, soft *observe.State) *placer {
	return &placer{state: state, soft: soft}
}

// place chooses a pool and charges it, so that the next one sees it taken. A
// refusal is given only from a picture made for it.
func (p *placer) place(req *schedule.Request) (schedule.Placement, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := p.refresh(inventoryAge)
	chosen, err := schedule.Place(req, p.inv)
	if _, none := errors.AsType[*schedule.Failure](err); none && !fresh {
		p.refresh(0)
		chosen, err = schedule.Place(req, p.inv)
	}
	if err != nil {
		return schedule.Placement{}, err
	}
	p.inv.Apply(schedule.Delta{HostID: chosen.HostID, Pool: chosen.Pool, SizeGiB: req.SizeGiB, Replicas: 1})
	return chosen, nil
}

// forget makes the next placement start from a new picture.
func (p *placer) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inv = nil
}

// refresh rebuilds the inventory if it is older than age and the state or the
// measurements may have changed. It costs one pass over the hosts.
func (p *placer) refresh(age time.Duration) (rebuilt bool) {
	now := time.Now()
	if p.inv != nil && now.Sub(p.built) < age {
		return false
	}
	v := p.state.View()
	p.inv, p.built = schedule.NewInventory(), now
	for h := range v.Hosts() {
		p.inv.PutHost(h, usageOn(v, h))
		p.measure(h)
	}
	return true
}

func usageOn(v *raftfsm.View, h *tarnv1.Host) func(string) schedule.Usage {
	return func(pool string) schedule.Usage {
		gib, count := v.PoolProvisioned(h.GetId(), pool)
		return schedule.Usage{ProvisionedGiB: gib, Replicas: count}
	}
}

func (p *placer) measure(h *tarnv1.Host) {
	for _, pool := range h.GetPools() {
		if m, ok := p.soft.Pool(h.GetId(), pool.GetName()); ok {
			p.inv.SetCapacity(schedule.PoolRef{HostID: h.GetId(), Pool: pool.GetName()}, m.GetTotalCapacityGib(), m.GetFreeCapacityGib())
		}
	}
}

// conflicting tells whether the state machine refused a placement for a reason
// that another pool might not have.
func conflicting(err error) bool {
	e, ok := errors.AsType[*raftfsm.Error](err)
	return ok && (e.Code == raftfsm.FailedPrecondition || e.Code == raftfsm.Aborted)
}
