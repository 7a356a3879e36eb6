package schedule

import tarnv1 "tarn/proto/tarn/v1"

// Place chooses a pool. It does not change the inventory: charge the placement
// with Inventory.Apply once it is committed. When no pool will do the error is
// a *Failure that says for each why.
func Place(r *Request, inv *Inventory) (Placement, error) {
	s := inv.newSearch(r)
	best := inv.best(s)
	if best.pool == nil {
		return Placement{}, inv.failure(s)
	}
	return best.placement(), nil
}

// candidate is a pool with its score for this request.
type candidate struct {
	pool  *poolEntry
	score Score
}

// better is the total order of candidates: anti-affinity first, then room, then
// company, then the name so that ties are broken the same way everywhere.
func (c candidate) better(o candidate) bool {
	switch {
	case o.pool == nil:
		return true
	case c.score.SnapshotElsewhere != o.score.SnapshotElsewhere:
		return !c.score.SnapshotElsewhere
	case c.score.ZoneReplicas != o.score.ZoneReplicas:
		return c.score.ZoneReplicas < o.score.ZoneReplicas
	case c.score.HostReplicas != o.score.HostReplicas:
		return c.score.HostReplicas < o.score.HostReplicas
	}
	return c.pool.before(o.pool)
}

func (s *search) candidate(e *poolEntry) candidate {
	return candidate{pool: e, score: Score{
		SnapshotElsewhere: len(s.SnapshotPools) > 0 && !s.holdsSnapshot(e),
		ZoneReplicas:      s.zoneReplicas(e.host.GetAvailabilityZone()),
		HostReplicas:      s.hostReplicas(e.host.GetId()),
		FreePercent:       e.percent,
		Replicas:          e.usage.Replicas,
	}}
}

func (c candidate) placement() Placement {
	e := c.pool
	return Placement{
		HostID: e.host.GetId(), Pool: e.pool.GetName(), FullName: e.fullName,
		Zone: e.host.GetAvailabilityZone(), Domain: e.pool.GetReplicationDomain(), Score: c.score,
	}
}

func (inv *Inventory) best(s *search) candidate {
	switch {
	case s.OnlyHost != "" || s.perPool():
		return scan(s, inv.all())
	case len(s.SnapshotPools) > 0:
		if c := scan(s, inv.snapshotPools(s)); c.pool != nil {
			return c
		}
	}
	var best candidate
	for _, set := range inv.sets {
		if s.setRefusal(set.caps) == "" {
			best = s.bestOfSet(set, best)
		}
	}
	return best
}

func (inv *Inventory) snapshotPools(s *search) []*poolEntry {
	var pools []*poolEntry
	for _, ref := range s.SnapshotPools {
		if e := inv.pool(ref); e != nil {
			pools = append(pools, e)
		}
	}
	return pools
}

func (s *search) bestOfSet(set *setEntry, best candidate) candidate {
	classes := set.classes
	if s.Active != nil && s.ReplicationType != tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		classes = set.byDomain[s.domain]
	}
	for _, c := range classes {
		if !s.classFits(c) || (best.pool != nil && s.zoneReplicas(c.zone) > best.score.ZoneReplicas) {
			continue
		}
		if found := s.bestOfClass(c); found.pool != nil && found.better(best) {
			best = found
		}
	}
	return best
}

func (s *search) classFits(c *class) bool {
	if c.pools.root == nil || c.pools.root.node.maxFit < s.SizeGiB {
		return false
	}
	if len(s.SnapshotPools) > 0 && !contains(s.snapshotDomains, c.domain) {
		return false
	}
	if s.AvailabilityZone != "" && c.zone != s.AvailabilityZone {
		return false
	}
	return (len(s.zones) == 0 || contains(s.zones, c.zone)) && s.replicatesIn(c.domain) == ""
}

// bestOfClass takes the first pool in the class's order that is on a host
// without a replica of the share, else the one with the fewest.
func (s *search) bestOfClass(c *class) candidate {
	var best candidate
	c.pools.walk(s.SizeGiB, func(e *poolEntry) bool {
		if s.onPool(e.host.GetId(), e.pool.GetName()) {
			return true
		}
		if found := s.candidate(e); found.better(best) {
			best = found
		}
		return best.score.HostReplicas > 0
	})
	return best
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}
