package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"tarn/cmd/tarn/dev"
)

type devCmd struct {
	State string `help:"Directory of the cluster; the one of TARN_CONFIG, else your state directory." env:"TARN_DEV" placeholder:"DIR"`

	Up     devUp     `cmd:"" default:"withargs" help:"Keep the cluster in the foreground; Ctrl-C stops it, its data stay."`
	Status devStatus `cmd:"" help:"List the processes."`
	Start  devStart  `cmd:"" help:"Start nodes that are down."`
	Kill   devKill   `cmd:"" help:"kill -9 nodes."`
	Stop   devStop   `cmd:"" help:"SIGSTOP nodes: they hang."`
	Cont   devCont   `cmd:"" help:"SIGCONT nodes."`
	Exec   devExec   `cmd:"" help:"Run a program where a node's file systems are mounted: zfs list, a shell."`
	Down   devDown   `cmd:"" help:"End all processes and export the pools; data stay."`
}

// stateDir is where the cluster lives: given, beside client.toml, or the user's own.
func (c *devCmd) stateDir(a *app) string {
	if c.State != "" {
		return c.State
	}
	if a.Config != "" && dev.Exists(filepath.Dir(a.Config)) {
		return filepath.Dir(a.Config)
	}
	if dir := a.env["XDG_STATE_HOME"]; dir != "" {
		return filepath.Join(dir, "tarn", "dev")
	}
	return filepath.Join(a.env["HOME"], ".local", "state", "tarn", "dev")
}

func (c *devCmd) open(a *app) (*dev.Cluster, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	dir := c.stateDir(a)
	if !dev.Exists(dir) {
		return nil, fail(exitNotFound, "no cluster in %s", dir).next("start one with `tarn dev`, or name it with --state")
	}
	return dev.Open(dir, binary)
}

// devNodes is the argument of commands on single nodes.
type devNodes struct {
	Nodes []string `arg:"" name:"node" help:"control1, agent2, ..."`
}

func (n *devNodes) each(a *app, d *devCmd, did string, do func(*dev.Cluster, string) error) error {
	cluster, err := d.open(a)
	if err != nil {
		return err
	}
	for _, name := range n.Nodes {
		if _, err := cluster.Node(name); err != nil {
			return fail(exitNotFound, "%w", err)
		}
		if err := do(cluster, name); errors.Is(err, os.ErrProcessDone) {
			return fail(exitRefused, "%s is down", name).next("tarn dev start %s", name)
		} else if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, name, did)
	}
	return nil
}

type devStart struct{ devNodes }

func (c *devStart) Run(a *app, d *devCmd) error {
	return c.each(a, d, "started", (*dev.Cluster).Start)
}

type devKill struct{ devNodes }

func (c *devKill) Run(ctx context.Context, a *app, d *devCmd) error {
	return c.each(a, d, "killed", func(cluster *dev.Cluster, name string) error { return cluster.Kill(ctx, name) })
}

type devStop struct{ devNodes }

func (c *devStop) Run(a *app, d *devCmd) error {
	return c.each(a, d, "stopped", func(cluster *dev.Cluster, name string) error { return cluster.Signal(name, syscall.SIGSTOP) })
}

type devCont struct{ devNodes }

func (c *devCont) Run(a *app, d *devCmd) error {
	return c.each(a, d, "continued", func(cluster *dev.Cluster, name string) error { return cluster.Signal(name, syscall.SIGCONT) })
}

type devExec struct {
	Node    string   `arg:"" help:"agent1, agent2, ..."`
	Command []string `arg:"" passthrough:"" help:"Program and arguments."`
}

func (c *devExec) Run(ctx context.Context, a *app, d *devCmd) error {
	cluster, err := d.open(a)
	if err != nil {
		return err
	}
	if _, err := cluster.Node(c.Node); err != nil {
		return fail(exitNotFound, "%w", err)
	}
	cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	return cluster.Command(c.Node, cmd)
}

type devDown struct{}

func (c *devDown) Run(ctx context.Context, a *app, d *devCmd) error {
	cluster, err := d.open(a)
	if err != nil {
		return err
	}
	return cluster.TerminateAll(ctx)
}

type devStatus struct{}

func (c *devStatus) Run(a *app, d *devCmd) error {
	cluster, err := d.open(a)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tSTATE\tPID\tADDRESS\tMETRICS\tZONE\tPOOLS")
	for _, n := range cluster.Nodes() {
		state, pid := cluster.State(n.Name)
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\thttp://%s/metrics\t%s\t%s\n", n.Name, state, pid, n.Address(), n.Admin(),
			label(n.Zone, "-"), label(strings.Join(n.Pools, ","), "-"))
	}
	for _, n := range cluster.Storages() {
		state, pid := cluster.State(n.Name)
		fmt.Fprintf(tw, "%s\t%s\t%d\t-\t-\t%s\tof %s\n", n.Name, state, pid, label(n.Zone, "-"), n.Host)
	}
	return tw.Flush()
}

type devUp struct {
	Servers   int    `help:"Control-plane nodes." default:"3"`
	Agents    int    `help:"Storage hosts." default:"4"`
	Zones     int    `help:"Availability zones." default:"2"`
	Storage   string `help:"Storage engine: dir, or zfs: pools in files, on the ZFS of this machine, as root." default:"dir"`
	Port      int    `help:"First of four ports used on each node's own address; 0 picks free ones." default:"0"`
	Ephemeral bool   `help:"Use a temporary directory and remove it at the end."`
}

func (c *devUp) Run(ctx context.Context, a *app, d *devCmd) error {
	cluster, err := c.cluster(a, d)
	if err != nil {
		return err
	}
	release, err := cluster.Lock()
	if err != nil {
		return fail(exitRefused, "%w", err).next("use that one, or another --state")
	}
	defer release()
	err = c.keep(ctx, a, cluster)
	// What ends the foreground must not cut the goodbye short.
	err = errors.Join(err, cluster.TerminateAll(context.WithoutCancel(ctx)))
	if c.Ephemeral && err == nil {
		err = cluster.Remove()
	}
	return err
}

// cluster opens the cluster in the state directory, or makes it.
func (c *devUp) cluster(a *app, d *devCmd) (*dev.Cluster, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	dir := d.stateDir(a)
	if c.Ephemeral {
		if dir, err = os.MkdirTemp("", "tarn-dev-"); err != nil {
			return nil, fmt.Errorf("make state directory: %w", err)
		}
	}
	if dev.Exists(dir) {
		fmt.Fprintf(a.stderr, "continuing the cluster in %s as it was made\n", dir)
		return dev.Open(dir, binary)
	}
	cluster, err := dev.Create(dir, binary, dev.Options{
		Servers: c.Servers, Agents: c.Agents, Zones: c.Zones, Storage: c.Storage, Port: c.Port,
	})
	if err != nil {
		return nil, usage("%w", err)
	}
	return cluster, nil
}

// keep starts everything, says how to talk to it and reports what ends, until ctx does.
func (c *devUp) keep(ctx context.Context, a *app, cluster *dev.Cluster) error {
	start := time.Now()
	if err := cluster.StartAll(); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := cluster.Ready(patience); err != nil {
		return endOfWatch(ctx, err)
	}
	printWelcome(a, cluster, time.Since(start))
	return watchNodes(ctx, a, cluster)
}

func printWelcome(a *app, cluster *dev.Cluster, took time.Duration) {
	fmt.Fprintf(a.stdout, "cluster ready after %s; state and logs in %s\n\n", shortDuration(took), cluster.Dir())
	fmt.Fprintf(a.stdout, "  export TARN_CONFIG=%s\n\n", cluster.ClientConfig())
	files := "  tarn replica show web/active        # the mountpoint is a directory: write files there\n"
	if cluster.Engine() != "" {
		files = "  tarn replica show web/active        # its host and mountpoint\n" +
			"  tarn dev exec agent1 zfs list       # or df, or a shell: there the shares are mounted\n"
	}
	fmt.Fprint(a.stdout, "then, in another terminal:\n"+
		"  tarn status\n"+
		"  tarn share-type create gold --replication-type readable --rpo 10s\n"+
		"  tarn share create web --type gold --size 1 --zone az1 --wait\n"+
		"  tarn replica create web --zone az2 --wait\n"+
		files+
		"  tarn replica promote web/az2 --wait\n"+
		"  tarn dev status | kill NODE | start NODE | stop NODE | cont NODE\n\n"+
		"Ctrl-C stops the cluster; `tarn dev` with the same state continues it.\n")
}

// watchNodes says when a node goes down or comes back.
func watchNodes(ctx context.Context, a *app, cluster *dev.Cluster) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	known := map[string]string{}
	for {
		select {
		case <-ctx.Done():
			fmt.Fprintln(a.stdout, "\nstopping")
			return nil
		case <-tick.C:
		}
		for _, n := range append(cluster.Nodes(), cluster.Storages()...) {
			state, pid := cluster.State(n.Name)
			before, seen := known[n.Name]
			known[n.Name] = state
			if !seen && state == "running" || before == state {
				continue
			}
			fmt.Fprintln(a.stdout, nodeEvent(n.Name, state, pid))
		}
	}
}

func nodeEvent(name, state string, pid int) string {
	switch state {
	case "down":
		return fmt.Sprintf("%s is down; start it again with: tarn dev start %s", name, name)
	case "stopped":
		return fmt.Sprintf("%s (pid %d) hangs; let it go on with: tarn dev cont %s", name, pid, name)
	}
	return fmt.Sprintf("%s runs (pid %d)", name, pid)
}
