package dirzfs

import "sync"

// group gathers small changes of callers that come at once into one commit: on a
// disk that takes milliseconds to be sure, a hundred holds cost as much as one. A
// lone caller does not wait for others.
type group struct {
	mu      sync.Mutex
	waiting []*change
	busy    bool
}

// change is one caller's part. apply must leave nothing behind when it fails.
type change struct {
	apply func(meta) error
	err   error
	done  chan struct{} // closed when err is final; lead is sent to instead of that
	lead  chan struct{}
}

// updateGrouped runs apply in a commit that it may share with others. apply has to
// check everything before it changes anything: its failure does not undo the rest.
func (p *pool) updateGrouped(apply func(meta) error) error {
	c := &change{apply: apply, done: make(chan struct{}), lead: make(chan struct{}, 1)}
	g := &p.small
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	if !g.busy {
		g.busy = true
		c.lead <- struct{}{}
	}
	g.mu.Unlock()
	select {
	case <-c.done:
	case <-c.lead:
		p.commitGroup()
	}
	return c.err
}

// commitGroup commits all that waits, the caller's own among it, and hands on to
// the first that came meanwhile.
func (p *pool) commitGroup() {
	g := &p.small
	g.mu.Lock()
	batch := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	err := p.update(func(m meta) error {
		for _, c := range batch {
			c.err = c.apply(m)
		}
		return nil
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range batch {
		if c.err == nil {
			c.err = err
		}
		close(c.done)
	}
	g.busy = len(g.waiting) > 0
	if g.busy {
		g.waiting[0].lead <- struct{}{}
	}
}
