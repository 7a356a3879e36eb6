package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemonPatience bounds the time until a zfs-fuse answers.
const daemonPatience = 15 * time.Second

// storageOf is the node that serves the pools of a host; ok is false where the
// kernel does, or nobody has to.
func (c *Cluster) storageOf(host string) (n Node, ok bool) {
	for _, n := range c.layout.Nodes {
		if n.Kind == Storage && n.Host == host {
			return n, true
		}
	}
	return Node{}, false
}

// begin starts cmd where n lives: an agent and its storage see what is mounted on
// their host, which the rest of the machine does not.
func (c *Cluster) begin(n Node, cmd *exec.Cmd) error {
	host := n.Name
	if n.Kind == Storage {
		host = n.Host
	}
	start := cmd.Start
	if c.enter != nil {
		start = func() error {
			if err := c.enter(n, cmd); err != nil {
				return fmt.Errorf("enter %s: %w", host, err)
			}
			return cmd.Start()
		}
	}
	storage, apart := c.storageOf(host)
	if !apart || n.Kind == Control {
		if c.enter == nil {
			return start()
		}
		return onThread(start)
	}
	p := c.process(storage.Name)
	if p.state() == "" {
		return fmt.Errorf("%s is down, and with it the file systems of %s: tarn dev start %s", storage.Name, host, host)
	}
	return beside(p.PID, start)
}

// startStorage makes the pools of an agent usable. A daemon that had to be started
// anew takes nothing over: what ran on its predecessor's file systems ends.
func (c *Cluster) startStorage(ctx context.Context, agent Node) error {
	if c.layout.Engine == "" {
		return nil
	}
	if storage, apart := c.storageOf(agent.Name); apart && c.process(storage.Name).state() == "" {
		if err := c.Terminate(ctx, agent.Name); err != nil {
			return err
		}
		if err := c.spawn(storage); err != nil {
			return err
		}
		if err := c.daemonAnswers(ctx, storage); err != nil {
			return err
		}
	}
	return c.usePools(ctx, agent)
}

func (c *Cluster) daemonAnswers(ctx context.Context, storage Node) error {
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		_, err := c.output(ctx, storage, "zpool", "list", "-H")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w; the end of %s:\n%s", storage.Name, err, c.LogFile(storage.Name), c.LogTail(storage.Name, 10))
		case <-tick.C:
		}
	}
}

// stopStorage exports a host's pools and ends what serves them, with everything that
// still lives there: an NFS server that a killed agent left, for one.
func (c *Cluster) stopStorage(ctx context.Context, agent Node) error {
	if c.layout.Engine == "" {
		return nil
	}
	storage, apart := c.storageOf(agent.Name)
	if !apart {
		return c.leavePools(ctx, agent)
	}
	p := c.process(storage.Name)
	if p.state() == "" {
		return nil
	}
	if err := p.signal(syscall.SIGCONT); ignoreDone(err) != nil {
		return err
	}
	if err := c.emptyNamespace(ctx, p.PID); err != nil {
		return fmt.Errorf("end what is left on %s: %w", agent.Name, err)
	}
	// Pools are in files and have lived through worse; one that is busy is no reason
	// to keep its daemon.
	errs := c.leavePools(ctx, agent)
	return errors.Join(errs, c.terminateProcess(ctx, storage.Name))
}

// emptyNamespace ends every process in the mount namespace of a daemon but itself.
func (c *Cluster) emptyNamespace(ctx context.Context, daemon int) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	begun := time.Now()
	for {
		left, err := companions(daemon)
		if err != nil || len(left) == 0 {
			return err
		}
		sig := syscall.SIGTERM
		if time.Since(begun) > stopPatience {
			sig = syscall.SIGKILL
		}
		for _, p := range left {
			if err := errors.Join(ignoreDone(p.signal(sig)), ignoreDone(p.signal(syscall.SIGCONT))); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// companions are the other processes in the mount namespace of a process, if that
// is one of its own.
func companions(pid int) ([]process, error) {
	ns, err := mountNamespace(pid)
	if err != nil {
		return nil, err
	}
	own, err := mountNamespace(os.Getpid())
	if err != nil || own == ns {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil || id == pid {
			continue
		}
		p := process{PID: id}
		if p.Started, _, err = procState(id); err != nil {
			continue // it has ended meanwhile
		}
		if other, err := mountNamespace(id); err == nil && other == ns && p.state() != "" {
			all = append(all, p)
		}
	}
	return all, nil
}

func mountNamespace(pid int) (string, error) { return os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)) }

// See is the path under which this process finds what a node has at path.
func (c *Cluster) See(node, path string) (string, error) {
	n, err := c.Node(node)
	if err != nil {
		return "", err
	}
	storage, apart := c.storageOf(n.Name)
	if !apart {
		return path, nil
	}
	p := c.process(storage.Name)
	if p.state() == "" {
		return "", fmt.Errorf("%s is down, and with it the file systems of %s", storage.Name, node)
	}
	return seenFrom(p.PID, path), nil
}

// Command runs a program where a node's pools are and file systems are mounted; the
// caller has set what it reads and writes.
func (c *Cluster) Command(node string, cmd *exec.Cmd) error {
	n, err := c.Node(node)
	if err != nil {
		return err
	}
	if err := c.begin(n, cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// Engine says what drives the pools: "openzfs", "zfs-fuse", or "" for directories.
func (c *Cluster) Engine() string { return c.layout.Engine }

// program is what a node runs, with its arguments.
func (c *Cluster) program(n Node) []string {
	if n.Kind == Storage {
		// What a copy receives has to be seen at once: the kernel must not remember names.
		return []string{"zfs-fuse", "--no-daemon", "--no-kstat-mount", "--max-arc-size", "64", "-a", "0", "-e", "0"}
	}
	return []string{c.binary, string(n.Kind), "--config", c.configFile(n)}
}

// PoolsLeft are pools of this cluster that the machine still shows.
func (c *Cluster) PoolsLeft(ctx context.Context) ([]string, error) {
	var left []string
	if c.layout.Engine != OpenZFS {
		return nil, nil // they end with their daemons
	}
	for _, n := range c.layout.of(Agent) {
		for _, pool := range n.Pools {
			d, err := c.disk(pool)
			if err != nil {
				return nil, err
			}
			guid, err := c.poolGUID(ctx, n, pool)
			if err != nil {
				return nil, err
			}
			if guid != "" && guid == d.GUID {
				left = append(left, pool)
			}
		}
	}
	return left, nil
}

// poolName makes names unlike those of any other cluster: with a ZFS in the kernel
// all pools of the machine share their names.
func poolName(base string, agent int, id string) string {
	return strings.Join([]string{base, strconv.Itoa(agent), id}, "-")
}
