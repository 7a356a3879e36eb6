package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type settings struct {
	binary string
	chaos  time.Duration
	seed   uint64
	// promotions to measure; none unless asked for: on a busy machine they say nothing.
	promotions int
}

// suite is written once, before any test runs.
var suite settings

func TestMain(m *testing.M) {
	flag.DurationVar(&suite.chaos, "chaos", time.Minute, "how long the chaos test writes and kills; 5m is the full run")
	flag.Uint64Var(&suite.seed, "seed", rand.Uint64(), "what the chaos test chooses by; it prints the one in use")
	flag.IntVar(&suite.promotions, "promotions", 0, "how many planned promotions under write load to measure; 20 for the figures")
	flag.Parse()
	os.Exit(runSuite(m))
}

func runSuite(m *testing.M) int {
	if os.Getenv("TARN_E2E") == "" {
		return m.Run()
	}
	if suite.binary = os.Getenv("TARN_BINARY"); suite.binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "tarn-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	suite.binary = filepath.Join(dir, "tarn")
	build := exec.Command("go", "build", "-o", suite.binary, "tarn/cmd/tarn")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build tarn:", err)
		return 1
	}
	return m.Run()
}

// cluster is a running cluster of processes and a client of it.
type cluster struct {
	*dev.Cluster
	t   *testing.T
	api *client.Client
}

func start(t *testing.T, o dev.Options) *cluster {
	t.Helper()
	if os.Getenv("TARN_E2E") == "" {
		t.Skip("skipped: takes minutes; run make e2e")
	}
	processes, err := dev.Create(t.TempDir(), suite.binary, o)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Cluster: processes, t: t}
	t.Cleanup(c.end)
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if c.api, err = c.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.api.Close)
	return c
}

// end stops everything and, after a failure, shows how each log ended.
func (c *cluster) end() {
	if err := c.TerminateAll(context.Background()); err != nil {
		c.t.Error(err)
	}
	defer func() {
		if err := c.Remove(); err != nil {
			c.t.Error(err)
		}
	}()
	if !c.t.Failed() {
		return
	}
	for _, n := range c.Nodes() {
		c.t.Logf("--- %s\n%s", n.Name, c.LogTail(n.Name, 15))
	}
}

// eventually polls until cond is nil, and fails with its last error otherwise.
func (c *cluster) eventually(within time.Duration, what string, cond func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), within)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := cond(ctx)
		if err == nil {
			return
		}
		// The end of the wait is no news about what was waited for.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("%s: not within %s: %v", what, within, last)
		case <-tick.C:
		}
	}
}

func (c *cluster) shareType(name, rpo string) {
	c.t.Helper()
	_, err := c.api.ShareTypes.CreateShareType(c.t.Context(), &tarnv1.CreateShareTypeRequest{
		Name: name,
		ExtraSpecs: map[string]string{
			"driver_handles_share_servers": "false", "replication_type": "readable", "tarn:rpo": rpo,
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) replicas(ctx context.Context) ([]*tarnv1.Replica, error) {
	answer, err := c.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{})
	return answer.GetReplicas(), err
}

// leader is the node that leads, "" when none does.
func (c *cluster) leader(ctx context.Context) (string, error) {
	status, err := c.api.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{})
	if err != nil {
		return "", err
	}
	for _, n := range c.Nodes() {
		if n.Address() == status.GetLeaderAddress() {
			return n.Name, nil
		}
	}
	return "", fmt.Errorf("leader %q is none of the nodes", status.GetLeaderAddress())
}

// allWell is nil when want replicas are available, each active or in_sync.
func (c *cluster) allWell(ctx context.Context, want int) error {
	replicas, err := c.replicas(ctx)
	if err != nil {
		return err
	}
	well := 0
	for _, r := range replicas {
		state := r.GetReplicaState()
		inPlace := state == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE && r.GetObserved().GetWritable() ||
			state == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
		if r.GetStatus() == tarnv1.Status_STATUS_AVAILABLE && inPlace && r.GetObserved().GetMountpoint() != "" {
			well++
		}
	}
	if well != want {
		return fmt.Errorf("%d of %d replicas are well", well, want)
	}
	return nil
}
