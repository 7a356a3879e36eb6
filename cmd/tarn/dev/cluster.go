package dev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pollEvery = 50 * time.Millisecond
	// stopPatience is how long a node gets to end by itself.
	stopPatience = 10 * time.Second
)

// Cluster is a cluster in a state directory, running or not. Methods may be
// called from several processes at once; each node's record is its own file.
type Cluster struct {
	dir      string
	binary   string
	layout   *layout
	enter    func(Node, *exec.Cmd) error
	children sync.WaitGroup
}

// Enter lets every node that is started from now on live in namespaces of the caller's:
// enter is called for it on a thread that starts this node and nothing else, and may
// change what that thread sees, and the command. Call it before anything is started.
func (c *Cluster) Enter(enter func(Node, *exec.Cmd) error) { c.enter = enter }

// Open reads the cluster in dir. binary is the tarn program that its nodes run.
func Open(dir, binary string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve state directory: %w", err)
	}
	l, err := readLayout(dir)
	if err != nil {
		return nil, err
	}
	return &Cluster{dir: dir, binary: binary, layout: l}, nil
}

// Create makes a new cluster in dir: authority, certificates, keys and
// configuration files. It starts nothing.
func Create(dir, binary string, o Options) (*Cluster, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve state directory: %w", err)
	}
	l, err := newLayout(o)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, binary: binary, layout: l}
	for _, sub := range []string{"run", "logs", "config", "pki"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("create state directory: %w", err)
		}
	}
	if err := c.provision(); err != nil {
		return nil, err
	}
	// Last: a directory without it is not a cluster yet.
	return c, writeJSON(filepath.Join(dir, layoutFile), l)
}

// Dir is the absolute path of the state directory.
func (c *Cluster) Dir() string { return c.dir }

// Nodes are control nodes, then agents.
func (c *Cluster) Nodes() []Node { return append(c.layout.of(Control), c.layout.of(Agent)...) }

// Storages are the processes that serve the agents' pools, where there are such.
func (c *Cluster) Storages() []Node { return c.layout.of(Storage) }

// Node finds one by name; the error lists the names.
func (c *Cluster) Node(name string) (Node, error) {
	var names []string
	for _, n := range c.layout.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return Node{}, fmt.Errorf("no node %q; there are %v", name, names)
}

// LogFile is where a node's output goes.
func (c *Cluster) LogFile(node string) string { return filepath.Join(c.dir, "logs", node+".log") }

// ClientConfig is the path of client.toml for an operator of this cluster.
func (c *Cluster) ClientConfig() string { return filepath.Join(c.dir, "client.toml") }

// State is "running", "stopped" (by a signal) or "down", and the process id.
func (c *Cluster) State(node string) (state string, pid int) {
	p := c.process(node)
	if state = p.state(); state == "" {
		return "down", 0
	}
	return state, p.PID
}

// Start starts a node that is down; one that runs is left alone.
func (c *Cluster) Start(node string) error {
	n, err := c.Node(node)
	if err != nil {
		return err
	}
	if n.Kind == Storage {
		return c.Start(n.Host)
	}
	if n.Kind == Agent {
		if err := c.startStorage(context.Background(), n); err != nil {
			return fmt.Errorf("storage of %s: %w", n.Name, err)
		}
	}
	if state, _ := c.State(node); state != "down" {
		return nil
	}
	return c.spawn(n)
}

// StartAll starts every node that is down; agents together, since making pools takes
// its time.
func (c *Cluster) StartAll() error {
	for _, kind := range []Kind{Control, Agent} {
		if err := c.each(kind, func(n Node) error { return c.Start(n.Name) }); err != nil {
			return err
		}
	}
	return nil
}

// each does something for all nodes of a kind at once.
func (c *Cluster) each(kind Kind, do func(Node) error) error {
	nodes := c.layout.of(kind)
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = do(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Signal sends sig to a running node.
func (c *Cluster) Signal(node string, sig syscall.Signal) error {
	if _, err := c.Node(node); err != nil {
		return err
	}
	if err := c.process(node).signal(sig); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	return nil
}

// Kill ends a node at once, as a crash would, and waits until it is gone.
func (c *Cluster) Kill(ctx context.Context, node string) error {
	if err := c.Signal(node, syscall.SIGKILL); err != nil {
		return err
	}
	return c.gone(ctx, node)
}

func (c *Cluster) gone(ctx context.Context, node string) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for c.process(node).state() != "" {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of %s: %w", node, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Terminate ends a node gracefully, and by force if it does not end in time. The
// end of what serves a host's pools is the end of all that is on that host.
func (c *Cluster) Terminate(ctx context.Context, node string) error {
	if n, err := c.Node(node); err == nil && n.Kind == Storage {
		host, err := c.Node(n.Host)
		if err != nil {
			return err
		}
		return errors.Join(c.terminateProcess(ctx, host.Name), c.stopStorage(ctx, host))
	}
	return c.terminateProcess(ctx, node)
}

func (c *Cluster) terminateProcess(ctx context.Context, node string) error {
	p := c.process(node)
	if p.state() == "" {
		return nil
	}
	// A stopped process cannot act on the signal that ends it.
	if err := errors.Join(ignoreDone(p.signal(syscall.SIGTERM)), ignoreDone(p.signal(syscall.SIGCONT))); err != nil {
		return fmt.Errorf("end %s: %w", node, err)
	}
	patience, cancel := context.WithTimeout(ctx, c.Paced(stopPatience))
	defer cancel()
	if c.gone(patience, node) == nil {
		return nil
	}
	if err := ignoreDone(p.signal(syscall.SIGKILL)); err != nil {
		return fmt.Errorf("kill %s: %w", node, err)
	}
	return c.gone(ctx, node)
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// TerminateAll ends every node, agents first so that they can say goodbye, and puts
// the pools away.
func (c *Cluster) TerminateAll(ctx context.Context) error {
	for _, step := range []func() error{
		func() error { return c.each(Agent, func(n Node) error { return c.Terminate(ctx, n.Name) }) },
		func() error { return c.each(Agent, func(n Node) error { return c.stopStorage(ctx, n) }) },
		func() error { return c.each(Control, func(n Node) error { return c.Terminate(ctx, n.Name) }) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	c.children.Wait()
	return nil
}

// Lock makes this process the cluster's keeper until release is called; a second
// keeper is refused.
func (c *Cluster) Lock() (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "dev.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another tarn dev keeps the cluster in %s", c.dir)
	}
	return func() { f.Close() }, nil
}

// Remove deletes the state directory and all data. Nothing may run any more. The
// directories of read-only copies get their write bit back first: without it only
// root could delete what is in them.
func (c *Cluster) Remove() error {
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o700)
	})
	if err = errors.Join(err, os.RemoveAll(c.dir)); err != nil {
		return fmt.Errorf("remove state directory: %w", err)
	}
	return nil
}
