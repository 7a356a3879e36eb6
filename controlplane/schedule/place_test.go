package schedule

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	tarnv1 "tarn/proto/tarn/v1"
)

const (
	readable = tarnv1.ReplicationType_REPLICATION_TYPE_READABLE
	dr       = tarnv1.ReplicationType_REPLICATION_TYPE_DR
	writable = tarnv1.ReplicationType_REPLICATION_TYPE_WRITABLE
)

// host builds an enabled host with one pool "p0" of 1000 GiB that offers readable and dr.
func host(id, zone, domain string, edit ...func(*tarnv1.Host)) *tarnv1.Host {
	h := &tarnv1.Host{
		Id: id, Name: id, Backend: "zfs", AvailabilityZone: zone,
		State:      tarnv1.HostState_HOST_STATE_UP,
		AdminState: tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED,
		Pools: []*tarnv1.Pool{{
			Name: "p0", ReplicationDomain: domain, TotalCapacityGib: 1000, FreeCapacityGib: 1000,
			ReplicationTypes: []tarnv1.ReplicationType{readable, dr},
			ThinProvisioning: true, MaxOverSubscriptionRatio: 1, Health: "ONLINE",
		}},
	}
	for _, f := range edit {
		f(h)
	}
	return h
}

func inventory(hosts ...*tarnv1.Host) *Inventory {
	inv := NewInventory()
	for _, h := range hosts {
		inv.PutHost(h, func(string) Usage { return Usage{} })
	}
	return inv
}

func TestRefusals(t *testing.T) {
	cases := []struct {
		name   string
		host   func(*tarnv1.Host)
		req    Request
		filter string
		reason string
	}{
		{"only host", nil, Request{OnlyHost: "other"}, FilterOnlyHost, `asks for "other" only`},
		{"down", func(h *tarnv1.Host) { h.State = tarnv1.HostState_HOST_STATE_DOWN }, Request{}, FilterState, "is down"},
		{"disabled", func(h *tarnv1.Host) {
			h.AdminState, h.DisabledReason = tarnv1.HostAdminState_HOST_ADMIN_STATE_DISABLED, "new disks"
		}, Request{}, FilterState, "new disks"},
		{"draining", func(h *tarnv1.Host) { h.AdminState = tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING }, Request{}, FilterState, "drained"},
		{"pool health", func(h *tarnv1.Host) { h.Pools[0].Health = "SUSPENDED" }, Request{}, FilterState, "SUSPENDED"},
		{"zone", nil, Request{AvailabilityZone: "z9"}, FilterZone, `asks for "z9"`},
		{"zones of the type", nil, Request{ExtraSpecs: map[string]string{"availability_zones": "z8, z9"}}, FilterZone, "allows z8, z9"},
		{"no domain", func(h *tarnv1.Host) { h.Pools[0].ReplicationDomain = "" }, Request{ReplicationType: readable}, FilterDomain, "no replication_domain"},
		{"other domain", nil, Request{ReplicationType: readable, Active: &PoolRef{"b", "p0"}}, FilterDomain, `active replica in "d2"`},
		{"unknown active", nil, Request{ReplicationType: readable, Active: &PoolRef{"gone", "p0"}}, FilterDomain, "unknown"},
		{"one per pool", nil, Request{ReplicationType: readable, Active: &PoolRef{"a", "p0"}, Existing: []Existing{{"a", "p0", "z1"}}}, FilterOnePerPool, "already"},
		{"writable", nil, Request{ReplicationType: writable}, FilterCapabilities, "synchronous engine"},
		{"type not offered", func(h *tarnv1.Host) { h.Pools[0].ReplicationTypes = nil }, Request{ReplicationType: dr}, FilterCapabilities, "replication_type dr"},
		{"capability absent", nil, Request{ExtraSpecs: map[string]string{"dedupe": "True"}}, FilterCapabilities, "does not advertise"},
		{"share servers", nil, Request{ExtraSpecs: map[string]string{"driver_handles_share_servers": "True"}}, FilterCapabilities, "driver_handles_share_servers"},
		{"protocol", nil, Request{ShareProto: "CIFS"}, FilterCapabilities, "storage_protocol"},
		{"pool name", nil, Request{ExtraSpecs: map[string]string{"pool_name": "p7"}}, FilterCapabilities, "pool_name"},
		{"encryption", nil, Request{ExtraSpecs: map[string]string{"tarn:encryption": "on"}}, FilterCapabilities, "tarn:encryption"},
		{"too large", nil, Request{SizeGiB: 1001}, FilterCapacity, "room for 1000"},
		{"reserve", func(h *tarnv1.Host) { h.Pools[0].ReservedPercentage = 10 }, Request{SizeGiB: 901}, FilterCapacity, "reserve 10 %"},
		{"ratio", func(h *tarnv1.Host) { h.Pools[0].MaxOverSubscriptionRatio = 0.5 }, Request{SizeGiB: 1}, FilterCapacity, "max_over_subscription_ratio"},
		{"no capacity", func(h *tarnv1.Host) { h.Pools[0].TotalCapacityGib = 0 }, Request{SizeGiB: 1}, FilterCapacity, "not reported"},
		{"snapshot elsewhere", nil, Request{SnapshotPools: []PoolRef{{"b", "p0"}}, AvailabilityZone: "z1"}, FilterSnapshot, "neither on this pool"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			edit := c.host
			if edit == nil {
				edit = func(*tarnv1.Host) {}
			}
			down := func(h *tarnv1.Host) { h.State = tarnv1.HostState_HOST_STATE_DOWN }
			inv := inventory(host("a", "z1", "d1", edit), host("b", "z2", "d2", down))
			_, err := Place(&c.req, inv)
			var f *Failure
			if !errors.As(err, &f) || len(f.Refusals) != 2 {
				t.Fatalf("got %v, want a refusal for each of two pools", err)
			}
			r := f.Refusals[0]
			if r.GetPool() != "a@zfs#p0" || r.GetFilter() != c.filter || !strings.Contains(r.GetReason(), c.reason) {
				t.Errorf("got %v, want filter %s with %q", r, c.filter, c.reason)
			}
		})
	}
}

func TestPlaceSpreads(t *testing.T) {
	half := func(h *tarnv1.Host) { h.Pools[0].FreeCapacityGib = 500 }
	second := func(h *tarnv1.Host) {
		h.Pools = append(h.Pools, &tarnv1.Pool{
			Name: "p1", ReplicationDomain: "d", ReplicationTypes: []tarnv1.ReplicationType{readable},
			TotalCapacityGib: 1000, FreeCapacityGib: 1000, Health: "ONLINE",
		})
	}
	inv := inventory(host("a", "z1", "d", second), host("b", "z1", "d", half), host("c", "z2", "d", half))
	at := func(id, pool, zone string) Existing { return Existing{id, pool, zone} }
	cases := []struct {
		name string
		req  Request
		want string
	}{
		{"first share: room", Request{ReplicationType: readable}, "a@zfs#p0"},
		{"replica: other zone though fuller", Request{Existing: []Existing{at("a", "p0", "z1")}}, "c@zfs#p0"},
		{"third: other host though fuller", Request{Existing: []Existing{at("a", "p0", "z1"), at("c", "p0", "z2"), at("x", "p0", "z2")}}, "b@zfs#p0"},
		{"fourth: other pool of a host", Request{AvailabilityZone: "z1", Existing: []Existing{at("a", "p0", "z1"), at("b", "p0", "z1")}}, "a@zfs#p1"},
		{"only host", Request{OnlyHost: "b@zfs#p0"}, "b@zfs#p0"},
		{"snapshot is cloned in place", Request{SnapshotPools: []PoolRef{{"c", "p0"}}}, "c@zfs#p0"},
		{"snapshot's pool full: same domain", Request{SizeGiB: 600, SnapshotPools: []PoolRef{{"c", "p0"}}}, "a@zfs#p0"},
		{"pool name", Request{ExtraSpecs: map[string]string{"pool_name": "p1"}}, "a@zfs#p1"},
	}
	for _, c := range cases {
		if len(c.req.Existing) > 0 {
			c.req.ReplicationType, c.req.Active = readable, &PoolRef{"a", "p0"}
		}
		got, err := Place(&c.req, inv)
		if err != nil || got.FullName != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.name, got.FullName, err, c.want)
		}
	}
}

func TestApplyChargesThePool(t *testing.T) {
	inv := inventory(host("a", "z1", "d"), host("b", "z1", "d"))
	req := &Request{SizeGiB: 400}
	var got []string
	for range 4 {
		p, err := Place(req, inv)
		if err != nil {
			t.Fatal(err)
		}
		inv.Apply(Delta{p.HostID, p.Pool, req.SizeGiB, 1})
		got = append(got, p.HostID)
	}
	if strings.Join(got, "") != "abab" {
		t.Errorf("placed on %v, want a and b in turn", got)
	}
	if _, err := Place(req, inv); err == nil {
		t.Error("a fifth share of 400 GiB fits on two pools of 1000 GiB")
	}
	inv.Apply(Delta{"b", "p0", -400, -1})
	if p, err := Place(req, inv); err != nil || p.HostID != "b" {
		t.Errorf("got %v, %v; want b, where a share went", p, err)
	}
	inv.SetCapacity(PoolRef{"b", "p0"}, 1000, 10)
	if p, err := Place(req, inv); err == nil {
		t.Errorf("got %v on a pool with 10 GiB free", p)
	}
}

// TestThickPoolsCountPromises: datasets have quotas, not reservations, so the
// free space of a thick pool alone would let it be promised twice.
func TestThickPoolsCountPromises(t *testing.T) {
	thick := func(h *tarnv1.Host) { h.Pools[0].ThinProvisioning = false }
	inv := NewInventory()
	inv.PutHost(host("a", "z1", "d", thick), func(string) Usage { return Usage{ProvisionedGiB: 900, Replicas: 9} })
	if _, err := Place(&Request{SizeGiB: 101}, inv); err == nil {
		t.Error("101 GiB placed where 900 of 1000 are promised")
	}
	if _, err := Place(&Request{SizeGiB: 100}, inv); err != nil {
		t.Error(err)
	}
}

// TestIndexAgreesWithScan holds the index to the plain scan: the same pool, or
// no pool for both, over random inventories and random changes.
func TestIndexAgreesWithScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inv := NewInventory()
		n := rapid.IntRange(0, 12).Draw(t, "hosts")
		for i := range n {
			drawHost(t, inv, i)
		}
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "op") {
			case 0:
				drawHost(t, inv, rapid.IntRange(0, n).Draw(t, "host"))
			case 1:
				inv.RemoveHost(fmt.Sprintf("h%d", rapid.IntRange(0, n).Draw(t, "host")))
			case 2:
				inv.SetCapacity(drawRef(t, n), 100, float64(rapid.IntRange(-1, 100).Draw(t, "free")))
			default:
				r := drawRequest(t, n)
				s := inv.newSearch(r)
				got, want := inv.best(s), scan(s, inv.all())
				if got.pool != want.pool || got.score != want.score {
					t.Fatalf("step %d: the index says %v, the scan %v", step, describe(got), describe(want))
				}
				if got.pool != nil {
					inv.Apply(Delta{got.pool.host.GetId(), got.pool.pool.GetName(), r.SizeGiB, 1})
				}
			}
		}
	})
}

func describe(c candidate) string {
	if c.pool == nil {
		return "none"
	}
	return fmt.Sprintf("%s %+v", c.pool.fullName, c.score)
}

func drawRef(t *rapid.T, hosts int) PoolRef {
	return PoolRef{fmt.Sprintf("h%d", rapid.IntRange(0, hosts).Draw(t, "ref")), rapid.SampledFrom([]string{"p0", "p1"}).Draw(t, "pool")}
}

func drawHost(t *rapid.T, inv *Inventory, i int) {
	h := host(fmt.Sprintf("h%d", i), rapid.SampledFrom([]string{"z1", "z2", "z3"}).Draw(t, "zone"), "")
	h.State = rapid.SampledFrom([]tarnv1.HostState{1, 1, 1, 2}).Draw(t, "state")
	h.AdminState = rapid.SampledFrom([]tarnv1.HostAdminState{1, 1, 1, 2, 3}).Draw(t, "admin")
	h.Pools = nil
	for p := range rapid.IntRange(1, 2).Draw(t, "pools") {
		h.Pools = append(h.Pools, &tarnv1.Pool{
			Name:                     fmt.Sprintf("p%d", p),
			ReplicationDomain:        rapid.SampledFrom([]string{"", "d1", "d1", "d2"}).Draw(t, "domain"),
			ReplicationTypes:         rapid.SampledFrom([][]tarnv1.ReplicationType{nil, {readable}, {readable, dr}}).Draw(t, "types"),
			TotalCapacityGib:         100,
			FreeCapacityGib:          float64(rapid.IntRange(0, 100).Draw(t, "free")),
			ReservedPercentage:       int32(rapid.IntRange(0, 20).Draw(t, "reserve")),
			ThinProvisioning:         rapid.Bool().Draw(t, "thin"),
			MaxOverSubscriptionRatio: float64(rapid.IntRange(0, 3).Draw(t, "ratio")),
			Capabilities:             rapid.SampledFrom([]map[string]string{nil, {"ssd": "true"}}).Draw(t, "caps"),
		})
	}
	inv.PutHost(h, func(string) Usage {
		return Usage{ProvisionedGiB: int64(rapid.IntRange(0, 120).Draw(t, "used")), Replicas: 1}
	})
}

func drawRequest(t *rapid.T, hosts int) *Request {
	r := &Request{
		SizeGiB:          int64(rapid.IntRange(1, 60).Draw(t, "size")),
		ReplicationType:  rapid.SampledFrom([]tarnv1.ReplicationType{0, readable, dr}).Draw(t, "type"),
		AvailabilityZone: rapid.SampledFrom([]string{"", "", "z1"}).Draw(t, "in"),
		OnlyHost:         rapid.SampledFrom([]string{"", "", "", "h1"}).Draw(t, "only"),
		ExtraSpecs: rapid.SampledFrom([]map[string]string{
			nil, {"ssd": "<is> true"}, {"availability_zones": "z1,z2"}, {"pool_name": "p1"}, {"replication_domain": "d1"},
		}).Draw(t, "specs"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "existing") {
		ref := drawRef(t, hosts)
		r.Existing = append(r.Existing, Existing{ref.HostID, ref.Pool, rapid.SampledFrom([]string{"z1", "z2", "z3"}).Draw(t, "ez")})
	}
	if len(r.Existing) > 0 && rapid.Bool().Draw(t, "replica") {
		r.Active = &PoolRef{r.Existing[0].HostID, r.Existing[0].Pool}
	} else if rapid.Bool().Draw(t, "clone") {
		r.SnapshotPools = []PoolRef{drawRef(t, hosts), drawRef(t, hosts)}
	}
	return r
}
