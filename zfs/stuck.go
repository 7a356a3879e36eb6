package zfs

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// stuckLimit is how many commands of one pool may be left behind before further
// ones are refused. Each is a process that cannot be killed.
const stuckLimit = 4

// process is a started tool. Exactly one goroutine waits for it.
type process struct {
	inv   invocation
	stop  func()
	began time.Time
	done  chan struct{} // closed when it has ended
	err   error         // of Wait, after done
}

// stuckTable knows the processes that even a kill did not end, so that a pool whose
// commands hang (it is suspended, say) does not fill the process table.
type stuckTable struct {
	mu   sync.Mutex
	left map[*process]struct{}
}

// start runs cmd and sees to it that it is waited for.
func (s *stuckTable) start(inv invocation, cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return s.watch(inv, cmd.Wait, func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH: it has ended
	}), nil
}

// watch waits for a process that was started.
func (s *stuckTable) watch(inv invocation, wait func() error, stop func()) *process {
	p := &process{inv: inv, stop: stop, began: time.Now(), done: make(chan struct{})}
	go func() {
		p.err = wait()
		close(p.done)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.left, p)
	}()
	return p
}

// await waits for the end; when ctx ends first the process group is killed. A process
// that does not end even then (it waits inside the kernel) is left behind.
func (s *stuckTable) await(ctx context.Context, p *process) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
	}
	p.kill()
	s.leave(p, killGrace)
	return ctx.Err()
}

// leave gives a killed process time to end and then remembers it as stuck.
func (s *stuckTable) leave(p *process, grace time.Duration) (ended bool) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-p.done:
		return true
	default:
	}
	if s.left == nil {
		s.left = map[*process]struct{}{}
	}
	s.left[p] = struct{}{}
	return false
}

// kill ends the tool and the helpers that it started. One that has ended is left alone:
// its id may be somebody else's by now.
func (p *process) kill() {
	select {
	case <-p.done:
	default:
		p.stop()
	}
}

// check refuses a command for a pool that has too many which cannot be ended.
func (s *stuckTable) check(inv invocation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *process
	pool, n := poolOf(inv.object), 0
	for p := range s.left {
		if poolOf(p.inv.object) != pool {
			continue
		}
		if n++; oldest == nil || p.began.Before(oldest.began) {
			oldest = p
		}
	}
	if n < stuckLimit {
		return nil
	}
	return &Error{
		Op: inv.op, Object: inv.object, Class: ErrHung,
		Text: fmt.Sprintf("not run: %d earlier commands of pool %s cannot be ended, the oldest, %s, since %v",
			n, pool, oldest.inv.line(), time.Since(oldest.began).Round(time.Second)),
		Next: fmt.Sprintf("look at zpool status %s: it is probably suspended; repair its disks and run zpool clear %s", pool, pool),
	}
}
