package api_test

import (
	"context"
	"runtime"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
)

// BenchmarkListReplicas lists one share's two replicas over TLS and HTTP/2, by
// eight clients with a connection each, as DESIGN 12 counts it.
func BenchmarkListReplicas(b *testing.B) {
	s := newServer(b)
	op := s.operator()
	s.host("one", "az1")
	s.host("two", "az2")
	share := s.share(op, s.shareType(op, "gold"), "docs")
	if _, err := op.Replicas.CreateReplica(b.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()}); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(max(1, 8/runtime.GOMAXPROCS(0)))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		cl := s.member("default")
		for pb.Next() {
			res, err := cl.Replicas.ListReplicas(context.Background(), &tarnv1.ListReplicasRequest{ShareId: share.GetId()})
			if err != nil || res.GetTotal() != 2 {
				b.Errorf("%v, %v", res, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// BenchmarkCreateShare creates shares through the API without a disk or peers:
// what validation, placement, the state machine and TLS cost.
func BenchmarkCreateShare(b *testing.B) {
	s := newServer(b)
	op := s.operator()
	for _, name := range []string{"one", "two", "three", "four"} {
		s.host(name, "az-"+name)
	}
	kind := s.shareType(op, "gold")
	if _, err := op.Quotas.UpdateQuota(b.Context(), &tarnv1.QuotaLimits{ProjectId: "default", Limits: map[string]int64{
		"shares": -1, "gigabytes": -1, "share_replicas": -1, "replica_gigabytes": -1,
	}}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if _, err := op.Shares.CreateShare(b.Context(), &tarnv1.CreateShareRequest{SizeGib: 1, ShareType: kind.GetId()}); err != nil {
			b.Fatal(err)
		}
	}
}
