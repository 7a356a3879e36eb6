package agent

import (
	"context"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/agent/replicate"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

func TestSampleTellsWhatHappenedToAReplica(t *testing.T) {
	r := newReports(time.Second)
	report := &tarnv1.ReplicaReport{
		ReplicaId: "r", ShareId: "s", ObservedRole: tarnv1.Role_ROLE_SECONDARY, HeadGuid: 7, Lag: durationpb.New(1500 * time.Millisecond),
		Transfer:  &tarnv1.TransferProgress{ExpectedBytes: 10, DoneBytes: 4},
		Snapshots: []*tarnv1.SnapshotReport{{TakenAt: timestamppb.New(time.Unix(200, 0))}, {TakenAt: timestamppb.New(time.Unix(100, 0))}},
	}
	r.publish(report)
	for range 3 {
		r.step("r", "retry")
	}
	s := r.samples()[0]
	if s.Role != "secondary" || s.Lag != 1.5 || !s.Active || s.Done != 4 || s.Expected != 10 || s.ConsecutiveFailures != 3 ||
		s.OldestSnapshot != 100 || s.Snapshots != 2 || math.IsNaN(s.LastProgress) || !math.IsNaN(s.LastSuccess) || math.IsNaN(s.LastVerified) {
		t.Errorf("sample %+v", s)
	}
	r.step("r", "ok")
	r.retained("r", replicate.Retained{
		At: time.Unix(500, 0), Total: 7, First: time.Unix(50, 0), Keep: time.Hour, Oldest: time.Unix(60, 0), Overdue: 2,
	})
	r.publish(&tarnv1.ReplicaReport{ReplicaId: "r", ShareId: "s", DivergentCopies: []*tarnv1.DivergentCopy{{UsedBytes: 5}, {UsedBytes: 6}}})
	if s := r.samples()[0]; s.Snapshots != 7 || s.OldestSnapshot != 50 || s.RetentionRun != 500 || s.RetentionKeep != 3600 ||
		s.RetentionOldest != 60 || s.Overdue != 2 || s.Copies != 2 || s.PreservedBytes != 11 {
		t.Errorf("sample after retention %+v", s)
	}
	r.publish(&tarnv1.ReplicaReport{ReplicaId: "r", ShareId: "s"})
	if s := r.samples()[0]; s.ConsecutiveFailures != 0 || s.Active || math.IsNaN(s.LastSuccess) || !math.IsNaN(s.Lag) {
		t.Errorf("sample after a success %+v", s)
	}
	r.expect(1, nil)
	r.forget("r")
	if len(r.samples()) != 0 {
		t.Error("a forgotten replica has a sample")
	}
}

// A report must not call itself full before every assigned replica was looked
// at, or the leader would take the missing ones for gone.
func TestFullMeansEveryAssignedReplica(t *testing.T) {
	r := newReports(time.Second)
	if r.compose(true).GetFull() {
		t.Error("full before any assignments")
	}
	r.expect(5, []*tarnv1.Assignment{{ReplicaId: "a"}, {ReplicaId: "b"}})
	r.publish(&tarnv1.ReplicaReport{ReplicaId: "a"})
	if req := r.compose(true); req.GetFull() || len(req.GetReplicas()) != 1 || req.GetAssignmentsRevision() != 5 {
		t.Errorf("report with one of two replicas %v", req)
	}
	r.publish(&tarnv1.ReplicaReport{ReplicaId: "b"})
	partial := r.compose(false)
	if partial.GetFull() || len(partial.GetReplicas()) != 1 || partial.GetReplicas()[0].GetReplicaId() != "b" {
		t.Errorf("partial report %v", partial)
	}
	if req := r.compose(false); len(req.GetReplicas()) != 0 {
		t.Errorf("unchanged replicas are reported again: %v", req)
	}
	r.giveBack(partial)
	if req := r.compose(false); len(req.GetReplicas()) != 1 {
		t.Errorf("what could not be sent is not reported again: %v", req)
	}
	if req := r.compose(true); !req.GetFull() || len(req.GetReplicas()) != 2 {
		t.Errorf("full report %v", req)
	}
}

// Lag moves without anything being published: a full report asks for it anew.
func TestFullReportTellsTheLagOfNow(t *testing.T) {
	r := newReports(time.Second)
	var sent *tarnv1.ReportRequest
	r.pools = func() []zfs.PoolStatus { return nil }
	r.send = func(_ context.Context, req *tarnv1.ReportRequest) (*tarnv1.ReportResponse, error) {
		sent = req
		return &tarnv1.ReportResponse{}, nil
	}
	r.live = func(id string) *tarnv1.ReplicaReport {
		if id != "a" {
			return nil // its worker is between two lives
		}
		return &tarnv1.ReplicaReport{ReplicaId: id, Lag: durationpb.New(7 * time.Second)}
	}
	r.expect(5, []*tarnv1.Assignment{{ReplicaId: "a"}, {ReplicaId: "b"}})
	r.publish(&tarnv1.ReplicaReport{ReplicaId: "a", Lag: durationpb.New(time.Second)})
	r.publish(&tarnv1.ReplicaReport{ReplicaId: "b", Lag: durationpb.New(time.Second)})
	if _, _, err := r.once(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, report := range sent.GetReplicas() {
		if want := map[string]time.Duration{"a": 7 * time.Second, "b": time.Second}[report.GetReplicaId()]; report.GetLag().AsDuration() != want {
			t.Errorf("lag of %s is %s, want %s", report.GetReplicaId(), report.GetLag().AsDuration(), want)
		}
	}
	if len(sent.GetReplicas()) != 2 {
		t.Errorf("report %v", sent)
	}
}
