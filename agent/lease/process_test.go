package lease

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests run agents and dead-men as the processes that they are: this test
// binary again, told by its environment what to be.
const roleEnv = "TARN_LEASE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "deadman":
		os.Exit(deadmanProcess(os.Args[1]))
	case "agent":
		os.Exit(agentProcess(os.Args[1]))
	}
	os.Exit(m.Run())
}

// renameFence does what dirzfs does: one rename takes the tree out of reach.
// The instant is written beside it.
func renameFence(t Target) error {
	mounted := filepath.Join(t.PoolDir, "mnt", t.Dataset)
	if _, err := os.Stat(mounted); err != nil {
		return err
	}
	at := fmt.Sprint(int64(BootTime()))
	if err := os.Rename(mounted, filepath.Join(t.PoolDir, "fenced")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.PoolDir, "fenced", "at"), []byte(at), 0o600)
}

func deadmanProcess(dir string) int {
	if err := DeadmanMain(dir, renameFence, slog.New(slog.DiscardHandler)); err != nil {
		return 1
	}
	return 0
}

// agentProcess arms what it is told on its input, one JSON array per line, and
// prints "armed" for each.
func agentProcess(dir string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	deadman, err := NewDeadman(DeadmanConfig{Command: helperCommand(dir), Patience: 10 * time.Second})
	if err != nil {
		return 1
	}
	done := make(chan error, 1)
	go func() { done <- deadman.Run(ctx) }()
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		var armed []Armed
		if err := json.Unmarshal(input.Bytes(), &armed); err != nil {
			return 1
		}
		for deadman.Arm(ctx, armed) != nil {
			_ = pause(ctx, time.Millisecond)
		}
		fmt.Println("armed")
	}
	cancel()
	if <-done != nil {
		return 1
	}
	return 0
}

func helperCommand(dir string) []string {
	return []string{"/usr/bin/env", roleEnv + "=deadman", testBinary(), dir}
}

func testBinary() string {
	exe, err := os.Executable()
	if err != nil {
		return "/proc/self/exe"
	}
	return exe
}

// process is an agent process under test.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startAgent(t *testing.T, dir string) *process {
	t.Helper()
	cmd := exec.Command(testBinary(), dir)
	cmd.Env = append(os.Environ(), roleEnv+"=agent")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return p
}

func (p *process) arm(target Target, ahead time.Duration) time.Duration {
	p.t.Helper()
	deadline := BootTime() + ahead
	if err := writeLine(p.in, []Armed{{Target: target, Deadline: deadline}}); err != nil {
		p.t.Fatal(err)
	}
	if !p.out.Scan() || p.out.Text() != "armed" {
		p.t.Fatalf("agent said %q", p.out.Text())
	}
	return deadline
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func mountedTarget(t *testing.T) (string, Target) {
	t.Helper()
	pool := t.TempDir()
	if err := os.MkdirAll(filepath.Join(pool, "mnt", "pool", "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	return pool, Target{PoolDir: pool, Dataset: "pool/a"}
}

// fencedAt waits until the target is fenced and returns when.
func fencedAt(t *testing.T, pool string) time.Duration {
	t.Helper()
	var at int64
	until(t, "fenced", func() bool {
		data, err := os.ReadFile(filepath.Join(pool, "fenced", "at"))
		if err != nil {
			return false
		}
		n, err := fmt.Sscan(string(data), &at)
		return n == 1 && err == nil
	})
	return time.Duration(at)
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("not %s in 30 s", what)
		case <-tick.C:
		}
	}
}

// checkFenced is the law: unmounted, and not before the last deadline.
func checkFenced(t *testing.T, pool string, deadline time.Duration) {
	t.Helper()
	if at := fencedAt(t, pool); at < deadline {
		t.Errorf("fenced %v before the deadline", deadline-at)
	}
	if _, err := os.Stat(filepath.Join(pool, "mnt", "pool", "a")); !os.IsNotExist(err) {
		t.Errorf("still mounted: %v", err)
	}
}

// helpers are the pids of dead-men that guard dir.
func helpers(t *testing.T, dir string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		stat, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		zombie := strings.Contains(string(stat), ") Z ")
		if err == nil && !zombie && string(line) == testBinary()+"\x00"+dir+"\x00" {
			found = append(found, pid)
		}
	}
	return found
}

// without removes a known pid, of an agent with the same arguments.
func without(pids []int, pid int) []int {
	var rest []int
	for _, p := range pids {
		if p != pid {
			rest = append(rest, p)
		}
	}
	return rest
}

func TestKilledAgentIsFencedAtItsLastDeadline(t *testing.T) {
	dir := t.TempDir()
	pool, target := mountedTarget(t)
	agent := startAgent(t, dir)
	// Long enough that a busy machine has replaced the first by the second in time.
	agent.arm(target, 5*time.Second)
	deadline := agent.arm(target, 6*time.Second)
	agent.signal(syscall.SIGKILL)
	checkFenced(t, pool, deadline)
	until(t, "ended", func() bool { return len(without(helpers(t, dir), agent.cmd.Process.Pid)) == 0 })
}

func TestStoppedAgentIsFencedAtItsDeadline(t *testing.T) {
	dir := t.TempDir()
	pool, target := mountedTarget(t)
	agent := startAgent(t, dir)
	deadline := agent.arm(target, 500*time.Millisecond)
	agent.signal(syscall.SIGSTOP)
	checkFenced(t, pool, deadline)
	agent.signal(syscall.SIGCONT)
	// It goes on with the same helper.
	pool2, target2 := mountedTarget(t)
	deadline = agent.arm(target2, 100*time.Millisecond)
	checkFenced(t, pool2, deadline)
}

func TestRestartedAgentTakesOver(t *testing.T) {
	// A long directory name does not fit a socket address.
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pool, target := mountedTarget(t)
	forgotten, other := mountedTarget(t)
	first := startAgent(t, dir)
	otherDeadline := first.arm(other, 6*time.Second)
	first.arm(target, 6*time.Second)
	first.signal(syscall.SIGKILL)

	second := startAgent(t, dir)
	deadline := second.arm(target, 8*time.Second)
	if n := len(without(helpers(t, dir), second.cmd.Process.Pid)); n != 1 {
		until(t, "taken over", func() bool {
			return len(without(without(helpers(t, dir), second.cmd.Process.Pid), first.cmd.Process.Pid)) == 1
		})
	}
	// What the new agent does not renew keeps its old deadline.
	checkFenced(t, forgotten, otherDeadline)
	second.signal(syscall.SIGKILL)
	checkFenced(t, pool, deadline)
}

func TestHelperThatDiesIsReplacedWithAllDeadlines(t *testing.T) {
	dir := t.TempDir()
	pool, target := mountedTarget(t)
	agent := startAgent(t, dir)
	deadline := agent.arm(target, 2*time.Second)
	old := without(helpers(t, dir), agent.cmd.Process.Pid)
	if len(old) != 1 {
		t.Fatalf("helpers: %v", old)
	}
	if err := syscall.Kill(old[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "replaced", func() bool {
		now := without(helpers(t, dir), agent.cmd.Process.Pid)
		return len(now) == 1 && now[0] != old[0]
	})
	checkFenced(t, pool, deadline)
}

func TestOrdinarySignalsDoNotEndTheHelper(t *testing.T) {
	dir := t.TempDir()
	pool, target := mountedTarget(t)
	agent := startAgent(t, dir)
	deadline := agent.arm(target, time.Second)
	pid := without(helpers(t, dir), agent.cmd.Process.Pid)
	if len(pid) != 1 {
		t.Fatalf("helpers: %v", pid)
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(pid[0], s); err != nil {
			t.Fatal(err)
		}
	}
	agent.signal(syscall.SIGKILL)
	checkFenced(t, pool, deadline)
}

func TestCleanEndLeavesNoHelper(t *testing.T) {
	dir := t.TempDir()
	agent := startAgent(t, dir)
	_, target := mountedTarget(t)
	agent.arm(target, 50*time.Millisecond)
	_ = agent.in.Close()
	if err := agent.cmd.Wait(); err != nil {
		t.Errorf("agent ended with %v", err)
	}
	until(t, "ended", func() bool { return len(helpers(t, dir)) == 0 })
}
