package lease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// shares are targets of a host with many.
func shares(n int, deadline time.Duration) []Armed {
	many := make([]Armed, n)
	for i := range many {
		many[i] = Armed{Target: Target{PoolDir: "/nowhere", Dataset: fmt.Sprintf("pool/%0100d", i)}, Deadline: deadline}
	}
	return many
}

// predecessor is an earlier helper's socket, which answers when the test says so.
func predecessor(t *testing.T, dir string) net.Listener {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// TestOrdersAreReadWhileAPredecessorIsAsked: the agent gets rid of its orders at once, and
// they count after what is inherited.
func TestOrdersAreReadWhileAPredecessorIsAsked(t *testing.T) {
	dir := t.TempDir()
	before := predecessor(t, dir)
	orders, agent := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- RunDeadman(ctx, HelperConfig{In: orders, Out: io.Discard, Dir: dir, Patience: time.Minute, Fence: func(Target) error { return nil }})
	}()
	conn, err := before.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// Nobody has answered yet: one that is stuck never does.
	later := BootTime() + 2*time.Hour
	first := shares(3, later)
	if err := writeLine(agent, order{Sequence: 1, Arm: first[:2], Forget: []Target{first[2].Target}}); err != nil {
		t.Fatal(err)
	}
	_ = before.Close() // the helper's own socket takes its place
	if err := writeLine(conn, answer{Armed: shares(3, later-time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if scanner := lines(conn); !handOverLine(scanner.Scan(), scanner.Bytes()) {
		t.Fatal("what was handed over is not confirmed")
	}
	var armed []Armed
	until(t, "obeyed", func() bool {
		// Asking ends it only when it is confirmed, which is not done here.
		armed = look(t, dir)
		return len(armed) == 2
	})
	for _, a := range first[:2] {
		if !slices.Contains(armed, a) {
			t.Errorf("armed is %v", armed)
		}
	}
	cancel()
	<-done
	_ = agent.Close()
}

// look asks a helper what it has armed, and leaves it at that.
func look(t *testing.T, dir string) []Armed {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(dir, socketName))
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close() }()
	if err := writeLine(conn, order{HandOver: true}); err != nil {
		t.Fatal(err)
	}
	a, err := hear(conn)
	if err != nil {
		t.Fatal(err)
	}
	return a.Armed
}

// TestStuckHelperOfManySharesIsReplaced: also when what is armed is more than a pipe holds.
func TestStuckHelperOfManySharesIsReplaced(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	d, err := NewDeadman(DeadmanConfig{Command: helperCommand(dir), Patience: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	many := shares(2000, BootTime()+time.Hour)
	until(t, "armed", func() bool { return d.Arm(ctx, many) == nil })
	old := helpers(t, dir)
	for _, pid := range old {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) { // one that was replaced just now
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // it has ended, if all is well
	}
	until(t, "armed by another", func() bool {
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		err := d.Arm(short, many[:1])
		return err == nil && !slices.ContainsFunc(helpers(t, dir), func(pid int) bool { return slices.Contains(old, pid) })
	})
	if armed := look(t, dir); len(armed) != len(many) {
		t.Errorf("%d of %d are armed", len(armed), len(many))
	}
	all := make([]Target, len(many))
	for i, a := range many {
		all[i] = a.Target
	}
	d.Disarm(all...)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	until(t, "ended", func() bool { return len(helpers(t, dir)) == 0 })
}

// lasting is a helper that hangs in the kernel, where no signal reaches it.
type lasting struct{ *standIn }

func (lasting) Kill() {}

// TestHelperThatCannotBeKilledHoldsUpNobody: its successor is watched all the same.
func TestHelperThatCannotBeKilledHoldsUpNobody(t *testing.T) {
	started := make(chan *standIn, 100)
	d, err := NewDeadman(DeadmanConfig{Patience: 200 * time.Millisecond, Start: func(orders, answers *os.File) (Process, error) {
		p := &standIn{orders: dup(t, orders), answers: dup(t, answers), ended: make(chan struct{})}
		go p.answer(1)
		started <- p
		return lasting{p}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	first := <-started
	if err := d.Arm(ctx, shares(1, BootTime()+time.Hour)); err == nil {
		t.Fatal("a stuck helper confirmed")
	}
	second := <-started
	until(t, "up", d.Up)
	second.Kill()
	third := <-started
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	first.Kill()
	third.Kill()
}
