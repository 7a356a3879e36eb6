package controlplane_test

import (
	"slices"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// BenchmarkCreateShareThreeNodes creates shares one after the other on three nodes
// with their disks and TLS, as a user of the API sees it.
func BenchmarkCreateShareThreeNodes(b *testing.B) {
	h := newHarness(b, 3)
	h.leader()
	op := h.operator()
	for _, name := range []string{"one", "two"} {
		h.agent(name, "az-"+name)
	}
	kind := readableType(b, op)
	if _, err := op.Quotas.UpdateQuota(b.Context(), &tarnv1.QuotaLimits{ProjectId: "default", Limits: map[string]int64{
		"shares": -1, "gigabytes": -1, "share_replicas": -1, "replica_gigabytes": -1,
	}}); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		begun := time.Now()
		if _, err := op.Shares.CreateShare(b.Context(), &tarnv1.CreateShareRequest{SizeGib: 1, ShareType: kind.GetId()}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
