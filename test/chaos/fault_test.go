package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarn/cmd/tarn/dev"
	"tarn/test/chaos/fabric"
)

// undo takes a fault back.
type undo func() error

// begin makes a fault happen. A fault that finds nobody to hit is errNobody.
func (r *run) begin(ctx context.Context, s step) (undo, error) {
	if f, ok := r.networkFault(ctx, s); ok {
		return f()
	}
	node, err := r.resolve(ctx, s.on)
	if err != nil && s.kind != "kill-all-control" {
		return nil, err
	}
	switch s.kind {
	case "kill":
		return r.kill(ctx, node)
	case "kill-all-control":
		return r.kill(ctx, r.names(dev.Control)...)
	case "kill-dead-man":
		return r.signalDeadmen(node, syscall.SIGKILL)
	case "reboot":
		return r.reboot(ctx, node)
	case "stop":
		return r.stop(node, false)
	case "stop-dead-man":
		return r.signalDeadmen(node, syscall.SIGSTOP)
	case "freeze":
		return r.stop(node, true)
	case "full-disk":
		return fill(r.dataDir(node))
	case "full-pool":
		if r.onZFS() {
			return nil, errNobody
		}
		return fill(r.poolDir(node, "tank"))
	}
	return nil, fmt.Errorf("no such fault: %s", s.kind)
}

var errNobody = errors.New("there is nobody to hit")

// resolve finds the node that has a role now.
func (r *run) resolve(ctx context.Context, role string) (string, error) {
	name := strings.TrimRight(role, "0123456789")
	number, _ := strconv.Atoi(role[len(name):])
	switch name {
	case roleLeader, roleFollower:
		return r.member(ctx, name, number)
	case roleOwner, roleCopy:
		owner, copies := r.seen.owner(r.shares[number%len(r.shares)])
		if name == roleCopy {
			owner = nil
			if len(copies) > 0 {
				slices.SortFunc(copies, byHost)
				owner = copies[0]
			}
		}
		if owner == nil {
			return "", errNobody
		}
		return hostOf(owner), nil
	}
	if _, err := r.Node(role); err != nil {
		return "", errNobody
	}
	return role, nil
}

// member is the leader, or a follower by number; where nobody leads, anybody does.
func (r *run) member(ctx context.Context, name string, number int) (string, error) {
	control := r.names(dev.Control)
	leader, err := r.leader(ctx)
	if err != nil {
		leader = control[0]
	}
	if name == roleLeader {
		return leader, nil
	}
	others := slices.DeleteFunc(control, func(n string) bool { return n == leader })
	return others[number%len(others)], nil
}

// kill ends nodes as a crash would; taking it back starts them.
func (r *run) kill(ctx context.Context, nodes ...string) (undo, error) {
	hit := 0
	for _, n := range nodes {
		err := r.Kill(context.WithoutCancel(ctx), n)
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			return nil, err
		}
		if err == nil {
			hit++
		}
	}
	again := func() error {
		var errs []error
		for _, n := range nodes {
			errs = append(errs, r.Start(n))
		}
		return errors.Join(errs...)
	}
	if hit == 0 {
		return again, errNobody
	}
	return again, nil
}

// reboot ends all that runs on a host at once. When it is back, its clocks count from
// elsewhere.
func (r *run) reboot(ctx context.Context, node string) (undo, error) {
	for _, p := range r.processesOf(node) {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return nil, err
		}
	}
	again, err := r.kill(ctx, node)
	if err != nil && !errors.Is(err, errNobody) {
		return nil, err
	}
	r.mu.Lock()
	r.boots[node]++
	r.mu.Unlock()
	return again, nil
}

// stop freezes a node, with its whole host if wanted.
func (r *run) stop(node string, host bool) (undo, error) {
	_, pid := r.State(node)
	pids := []int{pid}
	if host {
		pids = r.processesOf(node)
	}
	hit := 0
	for _, p := range pids {
		if p > 0 && syscall.Kill(p, syscall.SIGSTOP) == nil {
			hit++
		}
	}
	if hit == 0 {
		return nil, errNobody
	}
	return func() error { return goOn(pids) }, nil
}

// goOn lets stopped processes run again; some may have ended.
func goOn(pids []int) error {
	for _, p := range pids {
		if err := syscall.Kill(p, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

func (r *run) signalDeadmen(node string, sig syscall.Signal) (undo, error) {
	_, agent := r.State(node)
	pids := slices.DeleteFunc(r.processesOf(node), func(p int) bool { return p == agent })
	for _, p := range pids {
		if err := syscall.Kill(p, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return nil, err
		}
	}
	if len(pids) == 0 {
		return nil, errNobody
	}
	return func() error { return goOn(pids) }, nil
}

// processesOf are the agent of a node, its dead-man and whatever else it started: all
// live in the node's network.
func (a *arena) processesOf(node string) []int {
	var out []int
	for pid, p := range processes() {
		if p.node == node {
			out = append(out, pid)
		}
	}
	return out
}

type processInfo struct {
	node    string
	command string
	state   byte
}

// processes are all of this process namespace but the test's own, by their number. A
// node's are known by its name in their command lines: its configuration, or its data
// directory.
func processes() map[int]processInfo {
	out := map[int]processInfo{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return out
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		stat, statErr := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil || statErr != nil {
			continue
		}
		p := processInfo{command: strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))}
		if end := strings.LastIndexByte(string(stat), ')'); end > 0 && end+2 < len(stat) {
			p.state = stat[end+2]
		}
		if p.state == 'Z' || p.state == 'X' || strings.HasPrefix(p.command, "zfs-fuse ") {
			continue
		}
		for field := range strings.FieldsSeq(p.command) {
			base := strings.TrimSuffix(filepath.Base(field), ".toml")
			if strings.HasPrefix(field, suite.dir) && base != "tarn" {
				p.node = base
			}
		}
		out[pid] = p
	}
	return out
}

// fill leaves no byte free on the file system of dir.
func fill(dir string) (undo, error) {
	name := filepath.Join(dir, "filler")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			return nil, err
		}
	}
	return func() error {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}, nil
}

// addCut puts a network fault in force beside those that are: a packet fares as badly
// as the worst of them says.
func (a *arena) addCut(f func(from, to string) fabric.Link) undo {
	a.mu.Lock()
	number := a.next
	a.next++
	a.cuts[number] = f
	a.mu.Unlock()
	a.applyCuts()
	return func() error {
		a.mu.Lock()
		delete(a.cuts, number)
		a.mu.Unlock()
		a.applyCuts()
		return nil
	}
}

func (a *arena) healNetwork() {
	a.mu.Lock()
	clear(a.cuts)
	a.mu.Unlock()
	a.applyCuts()
}

func (a *arena) applyCuts() {
	a.mu.Lock()
	defer a.mu.Unlock()
	hosts := []string{fabric.Home}
	for _, n := range a.Nodes() {
		hosts = append(hosts, n.Name)
	}
	for _, from := range hosts {
		for _, to := range hosts {
			var worst fabric.Link
			for _, f := range a.cuts {
				worst = worse(worst, f(from, to))
			}
			a.net.Set(from, to, worst)
		}
	}
}

func worse(a, b fabric.Link) fabric.Link {
	a.Cut, a.CutUDP = a.Cut || b.Cut, a.CutUDP || b.CutUDP
	a.Loss = max(a.Loss, b.Loss)
	a.Delay, a.Jitter = max(a.Delay, b.Delay), max(a.Jitter, b.Jitter)
	if a.BytesPerSecond == 0 || b.BytesPerSecond > 0 && b.BytesPerSecond < a.BytesPerSecond {
		a.BytesPerSecond = b.BytesPerSecond
	}
	return a
}

const (
	mostLoss  = 0.4
	mostDelay = 400 * time.Millisecond
)
