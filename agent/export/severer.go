package export

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// severGather is how long others are waited for who want the same: the leases of a host
	// end together.
	severGather = 10 * time.Millisecond
	// severRoom is what of a caller's time has to be left to begin with a server.
	severRoom = severPatience / 2
)

var (
	errServerBusy = errors.New("the server is busy with others: this is tried again")
	errUnlocking  = errors.New("the kernel has not ended the state of clients there since the last attempt")
)

// Severer is Sever for many at a time: what is wanted together is told the server together,
// since its calls wait for each other. Whoever wants it waits for that, and for no file
// system, as long as his context lasts; when he has given up, nothing is begun for him any
// more. Safe for concurrent use.
type Severer struct {
	dir string

	mu        sync.Mutex
	waiting   []*severance
	going     bool
	unlocking map[string]bool // mountpoints that the kernel is asked about, maybe for ever
}

// severance is one wish.
type severance struct {
	ctx         context.Context
	wanted      func(Export) bool
	mountpoints []string   // of which wanted said so
	done        chan error // has room for the answer
}

// NewSeverer prepares severing with what Remember left in dir. It starts nothing.
func NewSeverer(dir string) *Severer {
	return &Severer{dir: dir, unlocking: map[string]bool{}}
}

// Sever makes every mountpoint unreachable of whose record wanted says so, as the function
// Sever does. It returns with ctx at the latest.
func (s *Severer) Sever(ctx context.Context, wanted func(Export) bool) error {
	wish := &severance{ctx: ctx, wanted: wanted, done: make(chan error, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, wish)
	if !s.going {
		s.going = true
		go s.serve()
	}
	s.mu.Unlock()
	select {
	case err := <-wish.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("take clients away: %w", ctx.Err())
	}
}

// serve does what is waited for, as much as there is at a time, until nobody waits.
func (s *Severer) serve() {
	for {
		<-time.After(severGather)
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		s.going = len(batch) > 0
		s.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		s.together(batch)
	}
}

// together severs for those who have time left, within the shortest time that one has.
func (s *Severer) together(batch []*severance) {
	r, exports, err := s.known()
	until := time.Now().Add(severPatience)
	var all []string
	var begun []*severance
	for _, wish := range batch {
		deadline, bounded := wish.ctx.Deadline()
		if bounded && time.Until(deadline) < severRoom {
			wish.done <- errServerBusy
			continue
		}
		if bounded && deadline.Before(until) {
			until = deadline
		}
		for _, e := range exports {
			if wish.wanted(e) {
				wish.mountpoints = append(wish.mountpoints, e.Mountpoint)
			}
		}
		all, begun = append(all, wish.mountpoints...), append(begun, wish)
	}
	slices.Sort(all)
	ctx, cancel := context.WithDeadline(context.Background(), until)
	end := s.begin(ctx, cancel, r, slices.Compact(all))
	for _, wish := range begun {
		go func() {
			errs := []error{err}
			for _, m := range wish.mountpoints {
				errs = append(errs, end(m))
			}
			wish.done <- errors.Join(errs...)
		}()
	}
}

func (s *Severer) known() (record, []Export, error) {
	r, err := readRecord(s.dir)
	if err != nil {
		return r, nil, err
	}
	exports, err := r.exports()
	return r, exports, err
}

// begin tells the server. What it returns waits for what is left to do for one mountpoint,
// which may be for ever, and says how it all went.
func (s *Severer) begin(ctx context.Context, cancel func(), r record, mountpoints []string) (end func(mountpoint string) error) {
	if r.Server != serverKernel || len(mountpoints) == 0 {
		defer cancel()
		err := r.sever(ctx, mountpoints)
		return func(string) error { return err }
	}
	k := &Kernel{config: r.Kernel.defaults()}
	failed := k.withdraw(ctx, mountpoints...)
	settled := map[string]chan struct{}{}
	var clear []string
	for _, m := range mountpoints {
		if failed[m] == nil {
			settled[m], clear = make(chan struct{}), append(clear, m)
		}
	}
	go func() {
		defer cancel()
		k.settleEach(ctx, severPatience, clear, func(m string) { close(settled[m]) })
	}()
	return func(m string) error {
		err := failed[m]
		if err == nil {
			err = s.unlock(k, m)
			<-settled[m]
		}
		if err != nil {
			return fmt.Errorf("make %s unreachable: %w", m, err)
		}
		return nil
	}
}

// unlock asks the kernel once at a time.
func (s *Severer) unlock(k *Kernel, mountpoint string) error {
	s.mu.Lock()
	asked := s.unlocking[mountpoint]
	s.unlocking[mountpoint] = true
	s.mu.Unlock()
	if asked {
		return errUnlocking
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.unlocking, mountpoint)
	}()
	return k.unlock(mountpoint)
}
