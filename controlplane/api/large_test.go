package api_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestOneAnswerIsNotAsLargeAsTheCluster: what was heard of all replicas is copied for whom
// it is needed, and once for a list, not for every share and host that somebody looks at.
func TestOneAnswerIsNotAsLargeAsTheCluster(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	hosts := []string{s.host("one", "az1"), s.host("two", "az2"), s.host("three", "az3")}
	share := s.share(op, s.shareType(op, "gold"), "docs")
	const replicas = 60_000
	report := &tarnv1.ReportRequest{HostId: hosts[0], SessionId: "first", Sequence: 1, Full: true}
	for range replicas {
		report.Replicas = append(report.Replicas, &tarnv1.ReplicaReport{ReplicaId: uuid.NewString()})
	}
	s.soft.Report(report, time.Now())
	for _, id := range hosts {
		if _, err := op.Hosts.DrainHost(t.Context(), &tarnv1.DisableHostRequest{Id: id, Reason: "moving"}); err != nil {
			t.Fatal(err)
		}
	}
	allocated := func(look func() error) uint64 {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := look(); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	one := allocated(func() error { s.soft.Snapshot(time.Now(), nil); return nil })
	if got := allocated(func() error {
		for range 20 {
			if err := second(op.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})); err != nil {
				return err
			}
		}
		return nil
	}); got > 4*one {
		t.Errorf("20 looks at a share allocate %d bytes, one copy of what was heard is %d", got, one)
	}
	if got := allocated(func() error { return second(op.Hosts.ListHosts(t.Context(), &tarnv1.ListHostsRequest{})) }); got > 2*one {
		t.Errorf("a list of %d hosts allocates %d bytes, one copy of what was heard is %d", len(hosts), got, one)
	}
}
