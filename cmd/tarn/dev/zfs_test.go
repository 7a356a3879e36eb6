package dev

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestEngineIsWhatTheMachineHas(t *testing.T) {
	with := func(root bool, things ...string) probe {
		has := func(name string) bool {
			for _, x := range things {
				if x == name {
					return true
				}
			}
			return false
		}
		return probe{root: root, exists: has, programs: has}
	}
	for _, c := range []struct {
		m          probe
		want, says string
	}{
		{with(true, "zfs", "zpool", "/dev/zfs"), OpenZFS, ""},
		{with(true, "zfs", "zpool", "/dev/zfs", "zfs-fuse", "/dev/fuse"), OpenZFS, ""},
		{with(true, "zfs", "zpool", "zfs-fuse", "/dev/fuse"), ZFSFuse, ""},
		{with(true, "zfs", "zpool", "zfs-fuse"), "", "modprobe fuse"},
		{with(true, "zfs", "zpool"), "", "modprobe zfs"},
		{with(true), "", "apt-get install zfs-fuse"},
		{with(false, "zfs", "zpool", "/dev/zfs"), "", "as root"},
	} {
		got, err := findEngine(c.m)
		if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %q, %v; want %q, %q", c, got, err, c.want, c.says)
		}
	}
}

// newZFSCluster has real pools; its agents are processes that only wait.
func newZFSCluster(t *testing.T) *Cluster {
	t.Helper()
	if _, err := available("zfs"); err != nil {
		if os.Getenv("TARN_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Create(t.TempDir(), binary, Options{Servers: 1, Agents: 2, Zones: 1, Storage: "zfs"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.TerminateAll(context.Background()); err != nil {
			t.Error(err)
		}
		left, err := c.PoolsLeft(context.Background())
		if err != nil || len(left) > 0 {
			t.Errorf("pools left: %v, %v", left, err)
		}
		for _, n := range append(c.Nodes(), c.Storages()...) {
			if state, pid := c.State(n.Name); state != "down" {
				t.Errorf("%s is %s (pid %d) after the end", n.Name, state, pid)
			}
		}
	})
	return c
}

func (c *Cluster) run(t *testing.T, node string, args ...string) string {
	t.Helper()
	n, err := c.Node(node)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.output(t.Context(), n, args[0], args[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Pools live through the end and the sudden death of everything, with their data,
// and are the same by GUID.
func TestPoolsOutliveTheirCluster(t *testing.T) {
	c := newZFSCluster(t)
	must(t, c.StartAll())
	agent := c.layout.of(Agent)[1] // it has two pools
	if len(agent.Pools) != 2 {
		t.Fatalf("pools %v", agent.Pools)
	}
	pool := agent.Pools[0]
	mount := c.mountRoot(agent, pool)
	c.run(t, agent.Name, "zfs", "create", "-o", "mountpoint="+mount, pool+"/x")
	seen, err := c.See(agent.Name, mount)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(seen, "f"), []byte("data"), 0o600))
	guid := c.run(t, agent.Name, "zfs", "get", "-Hp", "-o", "value", "guid", pool+"/x")
	before, err := c.poolGUID(t.Context(), agent, pool)
	must(t, err)

	check := func(when string) {
		t.Helper()
		if got, err := c.poolGUID(t.Context(), agent, pool); err != nil || got != before {
			t.Errorf("%s: pool %q (%v), was %q", when, got, err, before)
		}
		if got := c.run(t, agent.Name, "zfs", "get", "-Hp", "-o", "value", "guid", pool+"/x"); got != guid {
			t.Errorf("%s: dataset %s, was %s", when, got, guid)
		}
		seen, err := c.See(agent.Name, mount)
		must(t, err)
		if got, err := os.ReadFile(filepath.Join(seen, "f")); err != nil || string(got) != "data" {
			t.Errorf("%s: file holds %q, %v", when, got, err)
		}
	}
	must(t, c.StartAll()) // nothing is down: nothing happens
	check("after a start of what runs")
	must(t, c.TerminateAll(t.Context()))
	must(t, c.StartAll())
	check("after an orderly end")
	must(t, c.Kill(t.Context(), agent.Name))
	must(t, c.Start(agent.Name))
	check("after the agent was killed")
	for _, n := range c.Storages() {
		must(t, exec.CommandContext(t.Context(), "sync").Run())
		must(t, c.Kill(t.Context(), n.Name))
		must(t, c.Start(n.Name))
	}
	check("after the storage was killed")
	if state, _ := c.State(agent.Name); state != "running" {
		t.Errorf("agent is %s after its storage was started", state)
	}
	must(t, errors.Join(c.TerminateAll(t.Context()), c.Remove()))
}

// A pool that is not the cluster's own is neither used nor exported, whatever its name.
func TestForeignPoolsAreLeftAlone(t *testing.T) {
	c := newZFSCluster(t)
	agent := c.layout.of(Agent)[0]
	must(t, c.Start(agent.Name))
	pool := agent.Pools[0]
	d, err := c.disk(pool)
	must(t, err)
	own := d.GUID
	d.GUID = "1"
	must(t, writeJSON(c.diskRecord(pool), d))
	must(t, c.Kill(t.Context(), agent.Name))
	if err := c.Start(agent.Name); err == nil || !strings.Contains(err.Error(), "not this cluster's") {
		t.Errorf("a foreign pool was used: %v", err)
	}
	must(t, c.leavePools(t.Context(), agent))
	if got, err := c.poolGUID(t.Context(), agent, pool); err != nil || got != own {
		t.Errorf("a foreign pool was exported: %q, %v", got, err)
	}
	d.GUID = own
	must(t, writeJSON(c.diskRecord(pool), d))
	for _, n := range c.Storages() {
		if err := c.Signal(n.Name, syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err) // it has to end all the same
		}
	}
}
