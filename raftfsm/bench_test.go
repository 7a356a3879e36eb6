package raftfsm

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// BenchmarkMillionReplicas builds 500,000 replicated shares with two replicas each through
// Apply, as a cluster would, then snapshots and restores them. Targets (DESIGN 12):
// under 2 GiB, snapshot under 10 s, restore under 20 s.
func BenchmarkMillionReplicas(b *testing.B) {
	benchReplicas(b, 500_000, 1000)
}

// BenchmarkReplicas20k is the same with 20,000 replicas, for profiles.
func BenchmarkReplicas20k(b *testing.B) {
	benchReplicas(b, 10_000, 100)
}

func benchReplicas(b *testing.B, shares, hosts int) {
	path := filepath.Join(b.TempDir(), "snapshot")
	for b.Loop() {
		benchBuild(b, path, shares, hosts)
		benchRestore(b, path, 2*shares)
	}
}

func benchBuild(b *testing.B, path string, shares, hosts int) {
	base := heap()
	f, applied := manyShares(b, shares, hosts)
	size := heap() - base
	b.ReportMetric(float64(size)/(1<<20), "MiB-state")
	b.ReportMetric(float64(size)/float64(2*shares), "B/replica")
	b.ReportMetric(applied, "applies/s")
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	snap, err := f.Snapshot()
	if err == nil {
		err = snap.Persist(fileSink{file})
	}
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(start).Seconds(), "s-snapshot")
}

func benchRestore(b *testing.B, path string, replicas int) {
	base := heap()
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	f := New(Config{})
	if err := f.Restore(file); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(start).Seconds(), "s-restore")
	b.ReportMetric(float64(heap()-base)/(1<<20), "MiB-restored")
	if got := f.View().Counts().Replicas; got != replicas {
		b.Fatalf("restored %d replicas, want %d", got, replicas)
	}
	runtime.KeepAlive(f)
}

type fileSink struct{ *os.File }

func (fileSink) ID() string    { return "bench" }
func (fileSink) Cancel() error { return nil }

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// feeder applies commands in batches, as raft does.
type feeder struct {
	b     *testing.B
	f     *FSM
	index uint64
	batch []*raft.Log
}

func (w *feeder) add(verb any) {
	cmd := wrap(w.b, verb)
	w.index++
	cmd.ProposedAt, cmd.ProposerTerm = timestamppb.New(epochStart.Add(time.Duration(w.index)*time.Millisecond)), 1
	data, err := proto.Marshal(cmd)
	if err != nil {
		w.b.Fatal(err)
	}
	w.batch = append(w.batch, &raft.Log{Index: w.index, Term: 1, Data: data})
	if len(w.batch) == 64 {
		w.flush()
	}
}

func (w *feeder) flush() {
	for _, res := range w.f.ApplyBatch(w.batch) {
		if r := res.(*Result); r.Err != nil || r.Dropped > 0 {
			w.b.Fatalf("refused: %v, dropped %d", r.Err, r.Dropped)
		}
	}
	w.batch = w.batch[:0]
}

func manyShares(b *testing.B, shares, hosts int) (*FSM, float64) {
	w := &feeder{b: b, f: New(Config{})}
	ids := make([]string, hosts)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7()).String()
		w.add(&raftv1.RegisterHost{Host: &tarnv1.Host{
			Id: ids[i], Name: fmt.Sprintf("storage-%04d", i), Backend: "zfs", AvailabilityZone: fmt.Sprintf("zone-%d", i%4),
			Address: fmt.Sprintf("10.0.%d.%d:7000", i/250, i%250), Pools: []*tarnv1.Pool{{Name: "tank", ReplicationDomain: "d"}},
		}})
	}
	w.add(&raftv1.PutShareType{ShareType: &tarnv1.ShareType{Id: "gold-id", Name: "gold", ExtraSpecs: map[string]string{
		"replication_type": "readable", "driver_handles_share_servers": "false", "tarn:rpo": "10s",
	}}})
	w.add(&raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{Limits: map[string]int64{
		QuotaShares: -1, QuotaGigabytes: -1, QuotaShareReplicas: -1, QuotaReplicaGigabytes: -1,
	}}})
	start := time.Now()
	for i := range shares {
		addShare(w, i, ids)
	}
	w.flush()
	return w.f, float64(4*shares) / time.Since(start).Seconds()
}

func addShare(w *feeder, i int, hosts []string) {
	id, r1, r2 := uuid.Must(uuid.NewV7()).String(), uuid.Must(uuid.NewV7()).String(), uuid.Must(uuid.NewV7()).String()
	w.add(&raftv1.CreateShare{
		Share: &tarnv1.Share{
			Id: id, ProjectId: fmt.Sprintf("project-%d", i%500), UserId: "user", Name: fmt.Sprintf("share-%d", i), SizeGib: 10,
			ShareProto: "NFS", ShareTypeId: "gold-id", SnapshotSupport: true,
			ExtraSpecs: map[string]string{"replication_type": "readable", "driver_handles_share_servers": "false", "tarn:rpo": "10s"},
		},
		Replica: &tarnv1.Replica{Id: r1, HostId: hosts[i%len(hosts)], Pool: "tank"},
	})
	w.add(up(r1, tarnv1.ReplicaState_REPLICA_STATE_UNSPECIFIED))
	w.add(&raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: r2, ShareId: id, HostId: hosts[(i+1)%len(hosts)], Pool: "tank"}})
	w.add(up(r2, tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC))
}

func up(replica string, st tarnv1.ReplicaState) *raftv1.Transitions {
	return &raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{
		Id: replica, Status: tarnv1.Status_STATUS_AVAILABLE, ReplicaState: st, HeadGuid: proto.Uint64(7), AppliedSizeGib: proto.Int64(10),
		HeadCreatedAt: timestamppb.New(epochStart), SetExportLocations: true,
		ExportLocations: []*tarnv1.ExportLocation{{Id: uuid.Must(uuid.NewV7()).String(), Path: "10.0.0.1:/tank/tarn/" + replica, Preferred: true}},
	}}}
}
