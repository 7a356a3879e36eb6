package metrics

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// filled returns a registry as a whole cluster would fill it: every name has a sample.
func filled(t *testing.T) *prometheus.Registry {
	t.Helper()
	reg := NewRegistry(Build{Version: "v0", Revision: "abc", GoVersion: "go"})
	fillControlPlane(reg)
	RegisterFleet(reg, func() Fleet { return sampleFleet() })
	RegisterRaft(reg, func() Raft { return Raft{Leader: true, LeaderKnown: true, Term: 3, SinceContact: time.Second} })
	RegisterGossipKeys(reg, func() int { return 1 })
	bridge := NewBridge(reg)
	bridge.IncrCounter([]string{"raft", "apply"}, 1)
	return reg
}

// filledAgent is the same for an agent: both name pools and gossip members.
func filledAgent(t *testing.T) *prometheus.Registry {
	t.Helper()
	reg := NewRegistry(Build{})
	fillAgent(NewAgent(reg))
	RegisterLocal(reg, func() Local { return sampleLocal() })
	return reg
}

func fillControlPlane(reg *prometheus.Registry) {
	c := NewControlPlane(reg)
	c.RPC.Observe("/tarn.v1.ShareService/GetShare", "ok", time.Millisecond)
	c.Failovers.WithLabelValues("planned").Inc()
	c.Stonith.WithLabelValues("off").Inc()
	c.FailoverDuration.WithLabelValues("planned").Observe(1)
	c.OtherTerm.WithLabelValues().Inc()
	c.Placements.WithLabelValues("placed").Inc()
	c.PlacementDuration.WithLabelValues().Observe(1)
	c.Commands.WithLabelValues("create_share", "applied").Inc()
	c.ReconcileDuration.WithLabelValues().Observe(1)
	c.Reports.WithLabelValues("taken").Inc()
	c.Leases.WithLabelValues("granted").Inc()
	c.GossipMembers.WithLabelValues("alive").Set(7)
	c.GossipRefused.WithLabelValues("stranger").Inc()
}

func fillAgent(a *Agent) {
	a.TransferBytes.WithLabelValues("s", "r", "receive").Add(1)
	a.Steps.WithLabelValues("s", "r", "full", "ok").Inc()
	a.StepPhase.WithLabelValues("receive").Observe(1)
	a.StepErrors.WithLabelValues("diverged").Inc()
	a.ResumeDiscarded.WithLabelValues("dead_token").Add(1)
	a.Divergences.WithLabelValues("s").Inc()
	a.Purges.WithLabelValues("ok").Inc()
	a.FenceActions.WithLabelValues("suspend", "ok").Inc()
	a.StaleHolds.WithLabelValues().Inc()
	a.PruneDestroyed.WithLabelValues("source", "retention").Inc()
	a.PruneFailed.WithLabelValues("source", "held").Inc()
	a.StorageCommands.WithLabelValues("send", "ok").Inc()
	a.StorageCommandDuration.WithLabelValues("send").Observe(1)
	a.StorageCapability.WithLabelValues("h", "resume").Set(1)
	a.LeaseRenewals.WithLabelValues("renewed").Inc()
	a.LeaseTransitions.WithLabelValues("gained").Inc()
	a.ControlRequests.WithLabelValues("Report", "ok").Inc()
	a.WorkerRestarts.WithLabelValues("error").Inc()
	a.GossipMembers.WithLabelValues("alive").Set(7)
	a.GossipRefused.WithLabelValues("stranger").Inc()
}

func sampleFleet() Fleet {
	return Fleet{
		Shares: []ShareSample{
			{Share: "s", Name: "home", Project: "p", PrimaryHost: "h1", Policy: "readable", Epoch: 4, Writers: []string{"h1"}, LossBound: math.NaN()},
			{Share: "lost", Name: "b", Project: "p", PrimaryHost: "h2", Policy: "dr", Epoch: 1, LossBound: 12, FailoverBlocked: true, Unknown: 1},
		},
		Replicas: []ReplicaSample{
			{Share: "s", Replica: "r", Host: "h2", State: "in_sync", Lag: 2.5, LagBytes: 10, LagSnapshots: 1, RPO: 60, AckedSnapshot: 1e9},
			{Share: "s", Replica: "new", Host: "h3", State: "out_of_sync",
				Lag: math.NaN(), LagBytes: math.NaN(), LagSnapshots: math.NaN(), AckedSnapshot: math.NaN()},
		},
		Hosts: []HostSample{{Host: "h1", Zone: "az1", Up: true, Replicas: 2}},
		Pools: []PoolSample{{Host: "h1", Pool: "p", Size: 100, Free: 50, Reserve: 10, Healthy: true}},
	}
}

func sampleLocal() Local {
	r := LocalReplica{Share: "s", Replica: "r", Role: "active", Lag: math.NaN(), Active: true, Expected: 10, Done: 5,
		LastProgress: 1, LastSuccess: 1, LastAttempt: 1, LastVerified: 1, Snapshots: 3, OldestSnapshot: 1, NewestSnapshot: 2,
		Holds: map[string]int{"last": 1}, RetentionRun: 1, RetentionKeep: 3600, RetentionOldest: 1}
	other := r
	other.Replica, other.Lag = "r2", 1
	return Local{
		Replicas:       []LocalReplica{r, other},
		Pools:          []PoolSample{{Host: "h", Pool: "p", Size: 1, Free: 1}},
		Links:          []LinkSample{{Host: "h", Peer: "i", RTT: 0.1}},
		LeaseRemaining: 3, LeasedShares: 1, AssignmentsRevision: 9, ControlContact: 1,
		OrphanDatasets: map[string]int{"p": 1}, DeadmanUp: true, OrphanedCopies: []CopySample{{Share: "gone", Bytes: 3}},
	}
}

func TestFleetShowsUnservedSharesAndLeavesOutTheUnknown(t *testing.T) {
	reg := prometheus.NewRegistry()
	RegisterFleet(reg, func() Fleet { return sampleFleet() })
	want := `
# HELP tarn_share_primary 1 for each host that accepts writes for the share: exactly one in health.
# TYPE tarn_share_primary gauge
tarn_share_primary{host="h1",share="s"} 1
tarn_share_primary{host="h2",share="lost"} 0
# HELP tarn_failover_data_loss_bound_seconds Upper bound of the time whose writes the share's last failover lost; absent if none.
# TYPE tarn_failover_data_loss_bound_seconds gauge
tarn_failover_data_loss_bound_seconds{share="lost"} 12
# HELP tarn_replica_lag_seconds Time since the copy was last known equal to the primary's live data; grows while its agent is silent.
# TYPE tarn_replica_lag_seconds gauge
tarn_replica_lag_seconds{replica="r",share="s"} 2.5
# HELP tarn_replica_state 1 for the state that the replica is in, 0 for the others.
# TYPE tarn_replica_state gauge
tarn_replica_state{replica="new",share="s",state="active"} 0
tarn_replica_state{replica="new",share="s",state="error"} 0
tarn_replica_state{replica="new",share="s",state="in_sync"} 0
tarn_replica_state{replica="new",share="s",state="out_of_sync"} 1
tarn_replica_state{replica="r",share="s",state="active"} 0
tarn_replica_state{replica="r",share="s",state="error"} 0
tarn_replica_state{replica="r",share="s",state="in_sync"} 1
tarn_replica_state{replica="r",share="s",state="out_of_sync"} 0
`
	err := testutil.GatherAndCompare(reg, strings.NewReader(want), "tarn_share_primary", "tarn_failover_data_loss_bound_seconds", "tarn_replica_lag_seconds", "tarn_replica_state")
	if err != nil {
		t.Error(err)
	}
}

func TestTwoReplicasOfAShareOnOneHostAddUp(t *testing.T) {
	reg := filledAgent(t)
	want := `
# HELP tarn_snapshots Snapshots of the share on this host.
# TYPE tarn_snapshots gauge
tarn_snapshots{role="active",share="s"} 6
# HELP tarn_agent_replica_lag_seconds Lag as this agent measures it.
# TYPE tarn_agent_replica_lag_seconds gauge
tarn_agent_replica_lag_seconds{replica="r2",share="s"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "tarn_snapshots", "tarn_agent_replica_lag_seconds"); err != nil {
		t.Error(err)
	}
}

func TestForgetDropsEverySeriesOfTheReplica(t *testing.T) {
	reg := prometheus.NewRegistry()
	a := NewAgent(reg)
	fillAgent(a)
	a.TransferBytes.WithLabelValues("other", "r9", "send").Add(1)
	a.Forget("s", "r")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "share" && l.GetValue() == "s" {
					t.Errorf("%s keeps a series of the forgotten share", f.GetName())
				}
				if l.GetValue() == "other" {
					left++
				}
			}
		}
	}
	if left != 1 {
		t.Errorf("series of the other share: %d, want 1", left)
	}
}

func TestBridgeCarriesItsTableAndNothingElse(t *testing.T) {
	reg := prometheus.NewRegistry()
	b := NewBridge(reg)
	before, err := testutil.GatherAndCount(reg)
	if err != nil {
		t.Fatal(err)
	}
	b.IncrCounter([]string{"raft", "apply"}, 3)
	b.AddSample([]string{"raft", "commitTime"}, 250)
	b.IncrCounter([]string{"raft", "replication", "appendEntries", "logs", "some-peer"}, 1)
	b.SetGauge([]string{"raft", "peers"}, 3)
	want := `
# HELP tarn_raft_applies_total Commands given to Raft on this node.
# TYPE tarn_raft_applies_total counter
tarn_raft_applies_total 3
# HELP tarn_raft_peers Members of the cluster by the newest configuration.
# TYPE tarn_raft_peers gauge
tarn_raft_peers 3
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "tarn_raft_applies_total", "tarn_raft_peers"); err != nil {
		t.Error(err)
	}
	if after, err := testutil.GatherAndCount(reg); err != nil || after != before {
		t.Errorf("series went from %d to %d (%v): an unknown key made one", before, after, err)
	}
	if sum := histogramSum(t, reg, "tarn_raft_commit_duration_seconds"); sum != 0.25 {
		t.Errorf("250 ms were carried as %v s", sum)
	}
}

func histogramSum(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetHistogram().GetSampleSum()
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

func TestAdminRoutes(t *testing.T) {
	ready := errors.New("no leader yet")
	admin := Admin{Gatherer: filled(t), Ready: func() error { return ready }}
	for _, c := range []struct {
		path string
		code int
		body string
	}{
		{"/metrics", http.StatusOK, "tarn_raft_is_leader 1"},
		{"/livez", http.StatusOK, "ok"},
		{"/readyz", http.StatusServiceUnavailable, "no leader yet"},
		{"/debug/pprof/", http.StatusNotFound, ""},
	} {
		rec := httptest.NewRecorder()
		admin.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, c.path, nil))
		if rec.Code != c.code || !strings.Contains(rec.Body.String(), c.body) {
			t.Errorf("%s answered %d, want %d with %q", c.path, rec.Code, c.code, c.body)
		}
	}
	admin.Pprof = true
	rec := httptest.NewRecorder()
	admin.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/debug/pprof/cmdline", nil))
	if rec.Code != http.StatusOK {
		t.Errorf("pprof asked for answers %d", rec.Code)
	}
}

func TestAdminRunsUntilItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr := make(chan net.Addr, 1)
	done := make(chan error, 1)
	admin := Admin{Gatherer: filled(t), Serving: func(a net.Addr) { addr <- a }}
	go func() { done <- admin.Run(ctx) }()
	bound := <-addr
	if !bound.(*net.TCPAddr).IP.IsLoopback() {
		t.Errorf("bound to %s, want loopback unless told otherwise", bound)
	}
	resp, err := http.Get("http://" + bound.String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run ended with %v", err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	if err := (Admin{Addr: taken.Addr().String()}).Run(t.Context()); err == nil {
		t.Error("Run on a taken port gave no error")
	}
}
