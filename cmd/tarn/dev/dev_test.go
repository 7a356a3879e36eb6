package dev

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tarn/agent"
	"tarn/controlplane"
)

// TestMain lets the test binary stand in for tarn: started with a daemon's name it
// waits until it is ended.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == string(Control) || os.Args[1] == string(Agent)) {
		select {}
	}
	os.Exit(m.Run())
}

func newCluster(t *testing.T) *Cluster { t.Helper(); return newClusterAt(t, 1) }

func newClusterAt(t *testing.T, pace int) *Cluster {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Create(t.TempDir(), binary, Options{Servers: 1, Agents: 2, Zones: 2, Pace: pace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.TerminateAll(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestNodesLiveAndDie(t *testing.T) {
	c := newCluster(t)
	expect := func(node, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			got, _ := c.State(node)
			if got == want {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s is %q, want %q", node, got, want)
			case <-tick.C:
			}
		}
	}
	expect("agent1", "down")
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	expect("agent1", "running")
	_, pid := c.State("agent1")
	if err := c.Start("agent1"); err != nil {
		t.Fatal(err)
	}
	if _, again := c.State("agent1"); again != pid {
		t.Errorf("a running node was started again: pid %d, then %d", pid, again)
	}
	if err := c.Signal("agent1", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	expect("agent1", "stopped")
	if err := c.Signal("agent1", syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	expect("agent1", "running")
	if err := c.Kill(t.Context(), "agent1"); err != nil {
		t.Fatal(err)
	}
	expect("agent1", "down")
	if err := c.Kill(t.Context(), "agent1"); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("killing what is down: %v", err)
	}
	if err := c.Signal("agent2", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.Terminate(t.Context(), "agent2"); err != nil {
		t.Fatal(err)
	}
	expect("agent2", "down")
	expect("control1", "running")
}

func TestAnotherProcessWithTheSameIDIsNotTouched(t *testing.T) {
	c := newCluster(t)
	stranger := exec.CommandContext(t.Context(), "sleep", "60")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stranger.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = stranger.Wait()
	}()
	started, _, err := procState(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// The id of the stranger, with the start time of a node that is long gone.
	record := process{PID: stranger.Process.Pid, Started: started - 1}
	if err := writeJSON(c.runFile("agent1"), record); err != nil {
		t.Fatal(err)
	}
	if state, _ := c.State("agent1"); state != "down" {
		t.Errorf("a stranger counts as %s", state)
	}
	if err := c.Kill(t.Context(), "agent1"); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill: %v", err)
	}
	if now, _, err := procState(stranger.Process.Pid); err != nil || now != started {
		t.Errorf("the stranger was touched: %v", err)
	}
}

func TestClusterIsFoundAgain(t *testing.T) {
	c := newCluster(t)
	again, err := Open(c.Dir(), c.binary)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Nodes()) != 3 || again.Nodes()[0].Address() != c.Nodes()[0].Address() {
		t.Errorf("found %+v, made %+v", again.Nodes(), c.Nodes())
	}
	release, err := c.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Lock(); err == nil {
		t.Error("two keepers of one cluster")
	}
	release()
	if release, err = again.Lock(); err != nil {
		t.Fatal(err)
	}
	release()
}

func TestConfigurationsAreValid(t *testing.T) {
	for _, pace := range []int{1, maxPace} {
		validConfigurations(t, newClusterAt(t, pace))
	}
}

func validConfigurations(t *testing.T, c *Cluster) {
	t.Helper()
	for _, n := range c.Nodes() {
		var err error
		switch n.Kind {
		case Control:
			_, err = controlplane.LoadConfig(c.configFile(n))
		case Agent:
			_, err = agent.LoadConfig(c.configFile(n))
		}
		if err != nil {
			t.Errorf("%s: %v", n.Name, err)
		}
	}
	info, err := os.Stat(filepath.Join(c.Dir(), "pki", "agent1", "gossip.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("gossip key: %v, %v", info, err)
	}
}

func TestRemoveTakesReadOnlyCopies(t *testing.T) {
	c := newCluster(t)
	inner := filepath.Join(c.Dir(), "nodes", "agent1", "pools", "tank", "mnt", "copy")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "file"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(inner, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if Exists(c.Dir()) {
		t.Error("the cluster is still there")
	}
}

func TestOptionsAreBounded(t *testing.T) {
	for _, o := range []Options{
		{Servers: 10}, {Servers: -1}, {Agents: 201}, {Agents: 2, Zones: 3}, {Storage: "floppy"}, {Port: 65535}, {Pace: -1}, {Pace: 21},
	} {
		if _, err := Create(t.TempDir(), "/bin/true", o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
