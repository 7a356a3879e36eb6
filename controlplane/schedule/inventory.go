package schedule

import (
	"math"
	"sort"

	tarnv1 "tarn/proto/tarn/v1"
)

// Usage is what the control plane has promised on a pool.
type Usage struct {
	// ProvisionedGiB is the sum of the sizes of the replicas there.
	ProvisionedGiB int64
	Replicas       int
}

// Delta changes what a pool holds: a placement that was made, or a replica that went.
type Delta struct {
	HostID   string
	Pool     string
	SizeGiB  int64
	Replicas int
}

// Inventory is all pools, indexed for placement. The zero value is not usable;
// see NewInventory. It is not safe for concurrent use: Place only reads, all
// other methods write.
//
// Pools of one zone, one replication domain and equal capabilities form a
// class; each class keeps its pools in the order in which it would give them
// away. A placement costs O(classes + log pools).
type Inventory struct {
	hosts map[string]*hostEntry
	sets  []*setEntry
}

type hostEntry struct {
	host  *tarnv1.Host
	pools []*poolEntry
}

type setEntry struct {
	caps     *capabilitySet
	classes  []*class
	byDomain map[string][]*class
}

type class struct {
	zone   string
	domain string
	pools  treap
}

type poolEntry struct {
	host     *tarnv1.Host
	pool     *tarnv1.Pool
	caps     *capabilitySet
	fullName string
	total    float64
	// free is below 0 when nobody knows.
	free  float64
	usage Usage

	// Computed from the above.
	fit     int64
	percent int

	class *class
	node  treapNode
}

// NewInventory returns an empty inventory.
func NewInventory() *Inventory {
	return &Inventory{hosts: make(map[string]*hostEntry)}
}

// PutHost adds a host or replaces what is known of it. usage answers for each
// of its pools what is promised there. The message is kept and must not change.
func (inv *Inventory) PutHost(h *tarnv1.Host, usage func(pool string) Usage) {
	inv.RemoveHost(h.GetId())
	entry := &hostEntry{host: h}
	for _, p := range h.GetPools() {
		e := &poolEntry{
			host: h, pool: p, total: p.GetTotalCapacityGib(), free: p.GetFreeCapacityGib(),
			fullName: PoolName(h.GetName(), h.GetBackend(), p.GetName()),
			usage:    usage(p.GetName()),
		}
		set := inv.set(newCapabilitySet(h, p))
		e.caps = set.caps
		e.measure()
		entry.pools = append(entry.pools, e)
		if stateRefusal(e) == "" {
			e.class = set.class(h.GetAvailabilityZone(), p.GetReplicationDomain())
			e.class.pools.insert(e)
		}
	}
	inv.hosts[h.GetId()] = entry
}

// RemoveHost forgets a host. Unknown ids are ignored.
func (inv *Inventory) RemoveHost(hostID string) {
	entry, ok := inv.hosts[hostID]
	if !ok {
		return
	}
	for _, e := range entry.pools {
		if e.class != nil {
			e.class.pools.remove(e)
		}
	}
	delete(inv.hosts, hostID)
}

// Apply charges a pool with a placement, or gives back what a removed replica
// held (negative numbers). Unknown pools are ignored.
func (inv *Inventory) Apply(d Delta) {
	e := inv.pool(PoolRef{HostID: d.HostID, Pool: d.Pool})
	if e == nil {
		return
	}
	e.reindex(func() {
		e.usage.ProvisionedGiB += d.SizeGiB
		e.usage.Replicas += d.Replicas
	})
}

// SetCapacity takes a fresh measurement of a pool, in GiB. A negative free is
// "unknown". Unknown pools are ignored.
func (inv *Inventory) SetCapacity(ref PoolRef, total, free float64) {
	e := inv.pool(ref)
	if e == nil || (e.total == total && e.free == free) {
		return
	}
	e.reindex(func() { e.total, e.free = total, free })
}

func (e *poolEntry) reindex(change func()) {
	if e.class != nil {
		e.class.pools.remove(e)
	}
	change()
	e.measure()
	if e.class != nil {
		e.class.pools.insert(e)
	}
}

func (inv *Inventory) pool(ref PoolRef) *poolEntry {
	entry, ok := inv.hosts[ref.HostID]
	if !ok {
		return nil
	}
	for _, e := range entry.pools {
		if e.pool.GetName() == ref.Pool {
			return e
		}
	}
	return nil
}

// all returns every pool in the order of its name.
func (inv *Inventory) all() []*poolEntry {
	var out []*poolEntry
	for _, h := range inv.hosts {
		out = append(out, h.pools...)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].fullName < out[j].fullName })
	return out
}

func (inv *Inventory) set(caps *capabilitySet) *setEntry {
	for _, s := range inv.sets {
		if s.caps.fingerprint == caps.fingerprint {
			return s
		}
	}
	s := &setEntry{caps: caps, byDomain: make(map[string][]*class)}
	inv.sets = append(inv.sets, s)
	return s
}

func (s *setEntry) class(zone, domain string) *class {
	for _, c := range s.byDomain[domain] {
		if c.zone == zone {
			return c
		}
	}
	c := &class{zone: zone, domain: domain}
	s.classes = append(s.classes, c)
	s.byDomain[domain] = append(s.byDomain[domain], c)
	return c
}

// measure computes the largest share that still fits and how much of the
// virtual capacity is free (manila semantics 5.3).
//
// tarn's datasets have quotas and no reservations, so the pool's own free space
// does not know what was promised: without thin provisioning the promises
// together may not exceed the pool either.
func (e *poolEntry) measure() {
	ratio := 1.0
	if e.pool.GetThinProvisioning() {
		ratio = e.pool.GetMaxOverSubscriptionRatio()
	}
	if e.total <= 0 || ratio < 1 {
		e.fit, e.percent = 0, 0
		return
	}
	reserved := e.total * float64(e.pool.GetReservedPercentage()) / 100
	promised := float64(e.usage.ProvisionedGiB)
	fit := e.total*ratio - promised
	if !e.pool.GetThinProvisioning() {
		fit -= reserved
	}
	if e.free >= 0 {
		fit = math.Min(fit, math.Floor(e.free-reserved)*ratio)
	}
	e.fit = int64(math.Max(0, math.Floor(fit)))
	e.percent = min(100, int(float64(e.fit)*100/(e.total*ratio)))
}
