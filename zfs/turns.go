package zfs

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// How many commands of a Host run at once. A thousand replicas that are looked at
// together, at an agent's start, are not to be a thousand processes; and what waits at
// zfs-fuse, whose eight threads serve everything, uses up its deadline. Commands that
// wait for a transaction group share it, so that the kernel's may be more than it has
// processors.
const (
	fuseTurns   = 8
	kernelTurns = 32
)

// turns hand out who runs next, in the order of asking. The nil turns let everybody run.
// Safe for concurrent use.
type turns struct {
	free chan struct{}

	mu    sync.Mutex
	given time.Time // when somebody's began last
}

func newTurns(n int) *turns { return &turns{free: make(chan struct{}, n)} }

// take waits for a turn for as long as others get theirs, and gives up, with ErrHung, when
// nobody did for patience: then every command that runs hangs.
func (t *turns) take(ctx context.Context, inv invocation, patience time.Duration) (give func(), err error) {
	if t == nil || inv.urgent() || isAlone(ctx) {
		return func() {}, nil
	}
	asked := time.Now()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case t.free <- struct{}{}:
			t.mu.Lock()
			defer t.mu.Unlock()
			t.given = time.Now()
			return func() { <-t.free }, nil
		case <-ctx.Done():
			return nil, inv.refuse(ctx.Err(), "it waited for its turn")
		case <-timer.C:
		}
		left := patience - time.Since(t.last(asked))
		if left <= 0 {
			return nil, inv.refuse(ErrHung, fmt.Sprintf("not run: no command of this host came to an end in %v", patience))
		}
		timer.Reset(left)
	}
}

func (t *turns) last(asked time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.given.After(asked) {
		return t.given
	}
	return asked
}

// urgent commands wait for nobody: others wait for what an unmount ends.
func (inv invocation) urgent() bool { return len(inv.args) > 0 && inv.args[0] == "unmount" }
