package schedule

import (
	"fmt"
	"os"
	"testing"
)

func readDoc(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// benchInventory has 10,000 hosts in 5 zones and 20 domains, and 100,000 replicas.
func benchInventory() *Inventory {
	inv := NewInventory()
	for i := range 10_000 {
		h := host(fmt.Sprintf("host-%05d", i), fmt.Sprintf("z%d", i%5), fmt.Sprintf("d%d", i/5%20))
		h.Pools[0].TotalCapacityGib, h.Pools[0].FreeCapacityGib = 1e6, 1e6
		inv.PutHost(h, func(string) Usage { return Usage{ProvisionedGiB: int64(10 * (5 + i%11)), Replicas: 10} })
	}
	return inv
}

// BenchmarkPlace10kHosts places shares and their replicas in turn, each charged.
// Every placement is checked against every filter.
func BenchmarkPlace10kHosts(b *testing.B) {
	inv := benchInventory()
	specs := map[string]string{
		"driver_handles_share_servers": "false", "replication_type": "readable", "snapshot_support": "true", "tarn:rpo": "10s",
	}
	var first Placement
	violations := 0
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		r := &Request{SizeGiB: 10, ExtraSpecs: specs, ReplicationType: readable}
		if i%2 == 1 {
			r.Active = &PoolRef{first.HostID, first.Pool}
			r.Existing = []Existing{{first.HostID, first.Pool, first.Zone}}
		}
		p, err := Place(r, inv)
		if err != nil {
			b.Fatal(err)
		}
		if filter, _ := inv.newSearch(r).refuse(inv.pool(PoolRef{p.HostID, p.Pool})); filter != "" || (i%2 == 1 && p.Zone == first.Zone) {
			violations++
		}
		inv.Apply(Delta{p.HostID, p.Pool, r.SizeGiB, 1})
		first = p
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "placements/s")
	if violations > 0 {
		b.Fatalf("%d placements violate a constraint", violations)
	}
}

// BenchmarkScan10kHosts is the same choice without the index, for comparison.
func BenchmarkScan10kHosts(b *testing.B) {
	inv := benchInventory()
	pools := inv.all()
	r := &Request{SizeGiB: 10, ReplicationType: readable}
	for range b.N {
		if scan(inv.newSearch(r), pools).pool == nil {
			b.Fatal("no pool")
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "placements/s")
}
