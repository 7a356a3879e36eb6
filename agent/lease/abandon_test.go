package lease

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// standIn is a helper without a process: it confirms orders until it is told to be stuck.
type standIn struct {
	orders, answers *os.File
	killed          atomic.Bool
	ended           chan struct{}
}

func (p *standIn) Wait() error { <-p.ended; return nil }

func (p *standIn) Kill() {
	if !p.killed.Swap(true) {
		close(p.ended)
	}
	_, _ = p.orders.Close(), p.answers.Close()
}

// answer confirms the first so many orders.
func (p *standIn) answer(first int) {
	scanner := lines(p.orders)
	for range first {
		var o order
		if !scanner.Scan() || json.Unmarshal(scanner.Bytes(), &o) != nil {
			return
		}
		_ = writeLine(p.answers, answer{Sequence: o.Sequence})
	}
}

// TestStuckHelperWithoutReplacementStays: when the agent ends, a helper that is stuck is
// all that may yet fence what is armed. With nothing armed it is not left behind.
func TestStuckHelperWithoutReplacementStays(t *testing.T) {
	for _, armed := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		var helper *standIn
		tried := make(chan struct{}, 100)
		d, err := NewDeadman(DeadmanConfig{Patience: 500 * time.Millisecond, Start: func(orders, answers *os.File) (Process, error) {
			if tried <- struct{}{}; helper != nil {
				return nil, errors.New("no room for another process")
			}
			helper = &standIn{orders: dup(t, orders), answers: dup(t, answers), ended: make(chan struct{})}
			go helper.answer(2)
			return helper, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		target := Target{PoolDir: "/p", Dataset: "p/a"}
		if err := d.Arm(ctx, []Armed{{Target: target, Deadline: BootTime() + time.Hour}}); err != nil {
			t.Fatal(err)
		}
		if err := d.Arm(ctx, []Armed{{Target: target, Deadline: BootTime() + 2*time.Hour}}); err == nil {
			t.Fatal("a stuck helper confirmed")
		}
		if !armed {
			d.Disarm(target)
		}
		for range 2 { // the first helper, and one that did not start
			<-tried
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if helper.killed.Load() == armed {
			t.Errorf("armed %v: killed %v", armed, helper.killed.Load())
		}
		helper.Kill()
	}
}

// dup is for the helper's ends of the pipes, which the agent closes once it has started.
func dup(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := syscall.Dup(int(f.Fd()))
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}
