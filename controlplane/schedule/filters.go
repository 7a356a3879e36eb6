package schedule

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

// Names of the filters, in the order in which they are asked.
const (
	FilterOnlyHost     = "only_host"
	FilterState        = "state"
	FilterZone         = "zone"
	FilterDomain       = "replication_domain"
	FilterOnePerPool   = "one_per_pool"
	FilterCapabilities = "capabilities"
	FilterCapacity     = "capacity"
	FilterSnapshot     = "snapshot"
)

// search is one placement: the request and what was looked up once for it.
type search struct {
	*Request
	zones []string
	// domain of the active replica's pool.
	domain string
	// snapshotDomains are the domains of the pools that hold the snapshot.
	snapshotDomains []string
	specs           []spec
}

type spec struct{ key, capability, want string }

func (inv *Inventory) newSearch(r *Request) *search {
	s := &search{Request: r, zones: r.allowedZones(), specs: r.matchedSpecs()}
	if r.Active != nil {
		if e := inv.pool(*r.Active); e != nil {
			s.domain = e.pool.GetReplicationDomain()
		}
	}
	for _, ref := range r.SnapshotPools {
		if e := inv.pool(ref); e != nil && e.pool.GetReplicationDomain() != "" {
			s.snapshotDomains = append(s.snapshotDomains, e.pool.GetReplicationDomain())
		}
	}
	return s
}

func (r *Request) matchedSpecs() []spec {
	specs := make([]spec, 0, len(r.ExtraSpecs)+1)
	if Encrypted(r.ExtraSpecs) {
		specs = append(specs, spec{key: specEncryption, capability: specEncryption, want: "<is> true"})
	}
	protocol := false
	for key, want := range r.ExtraSpecs {
		capability := matchedKey(key)
		if capability == "" || (capability == specBackendName && r.derived()) {
			continue
		}
		protocol = protocol || capability == specProtocol
		specs = append(specs, spec{key: key, capability: capability, want: want})
	}
	if !protocol {
		specs = append(specs, spec{specProtocol, specProtocol, "<in> " + r.proto()})
	}
	if len(specs) > 1 {
		sort.Slice(specs, func(i, j int) bool { return specs[i].key < specs[j].key })
	}
	return specs
}

// refuse asks every filter in order; it returns the first that refuses, and its reason.
func (s *search) refuse(e *poolEntry) (filter, reason string) {
	for _, f := range []struct {
		name string
		ask  func(*poolEntry) string
	}{
		{FilterOnlyHost, s.onlyHost}, {FilterState, stateRefusal}, {FilterZone, s.zone},
		{FilterDomain, s.domainRefusal}, {FilterOnePerPool, s.onePerPool},
		{FilterCapabilities, s.capabilities}, {FilterCapacity, s.capacity}, {FilterSnapshot, s.snapshot},
	} {
		if reason := f.ask(e); reason != "" {
			return f.name, reason
		}
	}
	return "", ""
}

func (s *search) onlyHost(e *poolEntry) string {
	switch s.OnlyHost {
	case "", e.fullName, e.host.GetId(), e.host.GetName(), e.host.GetName() + "@" + e.host.GetBackend():
		return ""
	}
	return fmt.Sprintf("the request asks for %q only", s.OnlyHost)
}

func stateRefusal(e *poolEntry) string {
	switch {
	case e.host.GetState() != tarnv1.HostState_HOST_STATE_UP:
		return "the host is down: its agent has not reported for too long"
	case e.host.GetAdminState() == tarnv1.HostAdminState_HOST_ADMIN_STATE_DISABLED:
		return "the host is disabled: " + orNone(e.host.GetDisabledReason())
	case e.host.GetAdminState() == tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING:
		return "the host is being drained: " + orNone(e.host.GetDisabledReason())
	}
	switch e.pool.GetHealth() {
	case "", "ONLINE", "DEGRADED":
		return ""
	}
	return "the pool is " + e.pool.GetHealth()
}

func orNone(reason string) string {
	if reason == "" {
		return "no reason given"
	}
	return reason
}

func (s *search) zone(e *poolEntry) string { return s.zoneRefusal(e.host.GetAvailabilityZone()) }

func (s *search) zoneRefusal(zone string) string {
	if s.AvailabilityZone != "" && zone != s.AvailabilityZone {
		return fmt.Sprintf("it is in zone %q, the request asks for %q", zone, s.AvailabilityZone)
	}
	if len(s.zones) > 0 && !slices.Contains(s.zones, zone) {
		return fmt.Sprintf("it is in zone %q, the share type allows %s", zone, strings.Join(s.zones, ", "))
	}
	return ""
}

func (s *search) domainRefusal(e *poolEntry) string {
	return s.replicatesIn(e.pool.GetReplicationDomain())
}

func (s *search) replicatesIn(domain string) string {
	switch {
	case s.ReplicationType == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED:
		return ""
	case domain == "":
		return "the pool has no replication_domain, so nothing can replicate from or to it"
	case s.Active == nil || domain == s.domain:
		return ""
	case s.domain == "":
		return "the pool of the active replica is unknown or has no replication_domain"
	}
	return fmt.Sprintf("it is in replication domain %q, the active replica in %q", domain, s.domain)
}

func (s *search) onePerPool(e *poolEntry) string {
	if s.onPool(e.host.GetId(), e.pool.GetName()) {
		return "the share already has a replica on this pool"
	}
	return ""
}

func (s *search) capabilities(e *poolEntry) string {
	if reason := s.setRefusal(e.caps); reason != "" {
		return reason
	}
	for _, sp := range s.specs {
		switch sp.capability {
		case specPoolName:
			if !matches(e.pool.GetName(), sp.want) {
				return specReason(sp, e.pool.GetName(), true)
			}
		case specDomain:
			if !matches(e.pool.GetReplicationDomain(), sp.want) {
				return specReason(sp, e.pool.GetReplicationDomain(), true)
			}
		}
	}
	return ""
}

// perPool reports that a spec asks for what differs within a class, so that
// only a scan of all pools can answer.
func (s *search) perPool() bool {
	return slices.ContainsFunc(s.specs, func(sp spec) bool {
		return sp.capability == specPoolName || sp.capability == specDomain
	})
}

func (s *search) setRefusal(caps *capabilitySet) string {
	if t := s.ReplicationType; t != 0 && !caps.replicates(t) {
		if t == tarnv1.ReplicationType_REPLICATION_TYPE_WRITABLE {
			return "writable replication needs a synchronous engine and none is configured on this host"
		}
		return fmt.Sprintf("the pool does not offer replication_type %s", replicationTypeName(t))
	}
	for _, sp := range s.specs {
		if sp.capability == specPoolName || sp.capability == specDomain {
			continue
		}
		if have, known := caps.value(sp.capability); !known || !matches(have, sp.want) {
			return specReason(sp, have, known)
		}
	}
	return ""
}

func specReason(sp spec, have string, known bool) string {
	if !known {
		return fmt.Sprintf("the share type asks for %s = %q, the pool does not advertise it", sp.key, sp.want)
	}
	return fmt.Sprintf("the share type asks for %s = %q, the pool has %q", sp.key, sp.want, have)
}

func (s *search) capacity(e *poolEntry) string {
	switch {
	case s.InPlace, e.fit >= s.SizeGiB:
		return ""
	case e.total <= 0:
		return "the pool has not reported its capacity"
	case e.pool.GetThinProvisioning() && e.pool.GetMaxOverSubscriptionRatio() < 1:
		return "thin_provisioning needs a max_over_subscription_ratio of 1 or more"
	}
	return fmt.Sprintf("%d GiB asked for, room for %d (total %.0f, free %.0f, reserve %d %%, promised %d)",
		s.SizeGiB, e.fit, e.total, e.free, e.pool.GetReservedPercentage(), e.usage.ProvisionedGiB)
}

func (s *search) snapshot(e *poolEntry) string {
	if len(s.SnapshotPools) == 0 || s.holdsSnapshot(e) ||
		slices.Contains(s.snapshotDomains, e.pool.GetReplicationDomain()) {
		return ""
	}
	return "the snapshot is neither on this pool nor in its replication domain"
}

func (s *search) holdsSnapshot(e *poolEntry) bool {
	return slices.Contains(s.SnapshotPools, PoolRef{HostID: e.host.GetId(), Pool: e.pool.GetName()})
}
