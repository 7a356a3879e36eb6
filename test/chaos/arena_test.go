package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/cmd/tarn/dev"
	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/test/chaos/fabric"
)

const (
	network = "10.77.0"
	// Sizes of the disks: what a host keeps for itself, and a pool. It is larger until
	// the shares have been placed: those are promised a GiB each.
	dataDisk  = 96 << 20
	auditDisk = 1 << 30 // for runs whose every second of calls leaves 200 KiB in the audit
	poolDisk  = 256 << 20
	emptyPool = 4 << 30
)

// arena is a cluster of which everything can be broken.
type arena struct {
	*dev.Cluster
	t   *testing.T
	net *fabric.Fabric
	api *client.Client

	mu sync.Mutex
	// boots counts how often a host was started anew: its clocks begin elsewhere each time.
	boots map[string]int
	// network faults in force, by their number.
	cuts map[int]func(from, to string) fabric.Link
	next int
}

// newArena makes and starts a cluster; it ends with the test.
func newArena(t *testing.T, o dev.Options) *arena {
	t.Helper()
	return newArenaOn(t, o, dataDisk)
}

// newArenaOn does so with disks of another size for what hosts keep for themselves.
func newArenaOn(t *testing.T, o dev.Options, disk int) *arena {
	t.Helper()
	needsHosts(t)
	o.Network, o.Storage, o.NFS3 = network, suite.storage, true
	dir, err := os.MkdirTemp(suite.dir, "cluster-")
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := dev.Create(dir, suite.binary, o)
	if err != nil {
		t.Fatal(err)
	}
	a := &arena{Cluster: cluster, t: t, boots: map[string]int{}, cuts: map[int]func(string, string) fabric.Link{}}
	a.connect()
	a.giveDisks(disk)
	a.Enter(a.enter)
	t.Cleanup(a.end)
	if err := a.StartAll(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := a.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if a.api, err = a.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.api.Close)
	return a
}

// connect gives every node a host, and this test one.
func (a *arena) connect() {
	a.t.Helper()
	addresses := map[string]netip.Addr{fabric.Home: netip.MustParseAddr(network + ".1")}
	for _, n := range a.Nodes() {
		addresses[n.Name] = netip.MustParseAddr(n.IP)
	}
	var err error
	if a.net, err = fabric.New(addresses); err != nil {
		a.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.net.Run(ctx) }()
	a.t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, a.net.Close()); err != nil {
			a.t.Error(err)
		}
	})
}

// giveDisks puts what each node keeps on file systems of its own, which can be full.
func (a *arena) giveDisks(disk int) {
	a.t.Helper()
	for _, n := range a.Nodes() {
		size := disk
		if a.onZFS() && n.Kind == dev.Agent {
			size = emptyPool // with its pools in files
		}
		a.mount(a.dataDir(n.Name), size)
		for _, pool := range n.Pools {
			if !a.onZFS() {
				a.mount(a.poolDir(n.Name, pool), emptyPool)
			}
		}
	}
}

func (a *arena) onZFS() bool { return a.Engine() != "" }

// seenAt is where this test finds what a replica's host has mounted.
func (a *arena) seenAt(r *tarnv1.Replica) (string, error) {
	return a.See(hostOf(r), r.GetObserved().GetMountpoint())
}

// shrinkPools leaves pools as much room as they are going to need.
func (a *arena) shrinkPools() {
	a.t.Helper()
	for _, n := range a.Nodes() {
		for _, pool := range n.Pools {
			if a.onZFS() {
				continue
			}
			if err := unix.Mount("tmpfs", a.poolDir(n.Name, pool), "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("mode=0700,size=%d", poolDisk)); err != nil {
				a.t.Fatal(err)
			}
		}
	}
}

func (a *arena) poolDir(node, pool string) string {
	return filepath.Join(a.dataDir(node), "pools", pool)
}

func (a *arena) dataDir(node string) string { return filepath.Join(a.Dir(), "nodes", node) }

// mount puts a file system of the given size over dir, with what dir has.
func (a *arena) mount(dir string, size int) {
	a.t.Helper()
	aside, err := os.MkdirTemp(suite.dir, "aside-")
	if err == nil {
		defer func() { _ = os.RemoveAll(aside) }()
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = os.CopyFS(aside, os.DirFS(dir))
	}
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=0700,size=%d", size))
	}
	if err == nil {
		err = os.CopyFS(dir, os.DirFS(aside))
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			a.t.Error(err)
		}
	})
}

// enter makes a node live on its host: its network, and clocks that say how often the
// host was booted.
func (a *arena) enter(n dev.Node, cmd *exec.Cmd) error {
	if n.Kind == dev.Agent && cmd.Args[0] == suite.binary {
		a.mu.Lock()
		boot := a.boots[n.Name]
		a.mu.Unlock()
		shift := fmt.Sprint(int64(bootClock(boot) / time.Second))
		cmd.Args = append([]string{"unshare", "--time", "--monotonic", shift, "--boottime", shift, cmd.Path}, cmd.Args[1:]...)
		path, err := exec.LookPath("unshare")
		if err != nil {
			return err
		}
		cmd.Path = path
	}
	if n.Kind == dev.Storage {
		return a.net.Enter(n.Host)
	}
	return a.net.Enter(n.Name)
}

// bootClock is what a host's boot clock is ahead of the machine's, in each of its lives:
// forth and back, since a host that boots counts from zero again.
func bootClock(boot int) time.Duration {
	return time.Duration(boot%3) * 40 * 24 * time.Hour
}

// end ends everything and, after a failure, shows how each log ended.
func (a *arena) end() {
	a.healNetwork()
	if err := a.TerminateAll(context.Background()); err != nil {
		a.t.Error(err)
	}
	if a.t.Failed() {
		a.keepLogs()
	}
}

// keepLogs copies the logs to where they outlive the namespaces.
func (a *arena) keepLogs() {
	to := os.Getenv("CHAOS_LOGS")
	if to == "" {
		for _, n := range a.Nodes() {
			a.t.Logf("--- %s\n%s", n.Name, a.LogTail(n.Name, 20))
		}
		return
	}
	for _, n := range a.Nodes() {
		data, err := os.ReadFile(a.LogFile(n.Name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, n.Name+".log"), data, 0o600)
		}
		if err != nil {
			a.t.Error(err)
		}
	}
	a.t.Logf("logs are in %s", to)
}

// names are the nodes of a kind.
func (a *arena) names(kind dev.Kind) []string {
	var out []string
	for _, n := range a.Nodes() {
		if n.Kind == kind {
			out = append(out, n.Name)
		}
	}
	return out
}

// eventually polls until cond is nil; its last error otherwise.
func eventually(ctx context.Context, within time.Duration, cond func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		// The end of the wait is no news about what was waited for.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within, last)
		case <-tick.C:
		}
	}
}

// wait returns false if ctx ends before the time is over.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// leader is the node that leads, by what a majority says.
func (a *arena) leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	status, err := a.api.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{})
	if err != nil {
		return "", err
	}
	for _, n := range a.Nodes() {
		if n.Address() == status.GetLeaderAddress() {
			return n.Name, nil
		}
	}
	return "", fmt.Errorf("leader %q is none of the nodes", status.GetLeaderAddress())
}

// only is a client that knows one control node.
func (a *arena) only(node string) (*client.Client, error) {
	n, err := a.Node(node)
	if err != nil {
		return nil, err
	}
	material, err := identity.LoadMaterial(filepath.Join(a.Dir(), "pki", "operator"))
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Addresses: []string{n.Address()}, TLS: material.ClientConfig(identity.RoleControl), Project: "default"})
}

// hostOf is the agent that holds a replica.
func hostOf(r *tarnv1.Replica) string {
	name, _, _ := strings.Cut(r.GetHost(), "@")
	return name
}
