package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tarn/zfs"
)

// unavailable is the health of a pool that the storage does not show, or cannot
// say anything about.
const unavailable = "UNAVAIL"

// pools looks after the configured pools: what the storage says of them, and
// whether they may be used. One that is missing, exported or suspended is no
// reason to end: the host says so, and goes on when the pool is back. Safe for
// concurrent use; look and run are for one caller.
type pools struct {
	inventory Inventory
	names     []string
	every     time.Duration
	// prepare makes a pool that came (back) usable. It is repeated until it succeeds.
	prepare func(ctx context.Context, pool string) error
	// changed hears that pools became usable, or ceased to be.
	changed func(usable, lost []string)
	log     *slog.Logger

	mu       sync.Mutex
	seen     []zfs.PoolStatus // as last listed
	prepared map[string]zfs.GUID
	problems map[string]error // of pools that cannot be used; nil before the first look
}

// run looks until ctx ends.
func (p *pools) run(ctx context.Context) error {
	ticker := time.NewTicker(p.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		p.look(ctx)
	}
}

// look asks the storage once, and makes usable what is.
func (p *pools) look(ctx context.Context) {
	list, err := p.inventory.Pools(ctx)
	if ctx.Err() != nil {
		return
	}
	next := make(map[string]error, len(p.names))
	for _, name := range p.names {
		problem := err
		if err == nil {
			problem = p.examine(ctx, name, find(list, name))
		}
		if problem != nil {
			next[name] = problem
		}
	}
	if ctx.Err() != nil {
		return
	}
	usable, lost := p.note(list, next)
	if len(usable)+len(lost) > 0 {
		p.changed(usable, lost)
	}
}

// examine tells what stands in the way of using a pool, and prepares one that has
// come back since the last look, or is another one than it was.
func (p *pools) examine(ctx context.Context, name string, s zfs.PoolStatus) error {
	p.mu.Lock()
	known, prepared := p.prepared[name]
	p.mu.Unlock()
	if s.Name == "" || known != s.GUID {
		prepared = false
	}
	if err := usable(name, s); err != nil {
		p.remember(name, s.GUID, prepared)
		return err
	}
	if prepared {
		return nil
	}
	err := p.prepare(ctx, name)
	if err != nil {
		err = fmt.Errorf("pool %s cannot be prepared: %w", name, err)
	}
	p.remember(name, s.GUID, err == nil)
	return err
}

func (p *pools) remember(name string, guid zfs.GUID, prepared bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if prepared {
		p.prepared[name] = guid
	} else {
		delete(p.prepared, name)
	}
}

// usable judges a pool by its health, and names the next step.
func usable(name string, s zfs.PoolStatus) error {
	switch {
	case s.Name == "" || s.Health == unavailable && s.GUID == 0:
		return fmt.Errorf("%w: pool %s is not imported: see what `zpool import` finds, then `zpool import %s`", zfs.ErrPoolUnavailable, name, name)
	case s.Health == "SUSPENDED":
		return fmt.Errorf("%w: pool %s is suspended: repair its devices, then `zpool clear %s`", zfs.ErrPoolUnavailable, name, name)
	case s.Health != "" && s.Health != "ONLINE" && s.Health != "DEGRADED":
		return fmt.Errorf("%w: pool %s is %s: see `zpool status %s`", zfs.ErrPoolUnavailable, name, s.Health, name)
	}
	return nil
}

// note keeps what a look found and says what is different.
func (p *pools) note(list []zfs.PoolStatus, next map[string]error) (usable, lost []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, first := p.problems, p.problems == nil
	for _, name := range p.names {
		was, is := before[name], next[name]
		switch {
		case is != nil && (first || was == nil):
			lost = append(lost, name)
			p.log.Error("pool cannot be used", "pool", name, "err", is)
		case is == nil && (first || was != nil):
			usable = append(usable, name)
			p.log.Info("pool can be used", "pool", name)
		case is != nil && was.Error() != is.Error():
			p.log.Error("pool still cannot be used", "pool", name, "err", is)
		}
	}
	p.seen, p.problems = list, next
	return usable, lost
}

// status is every configured pool as last seen; one that is not there is
// unavailable and has no size.
func (p *pools) status() []zfs.PoolStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]zfs.PoolStatus, 0, len(p.names))
	for _, name := range p.names {
		s := find(p.seen, name)
		if s.Name == "" {
			s = zfs.PoolStatus{Name: name, Health: unavailable}
		}
		all = append(all, s)
	}
	return all
}

// err is nil when all pools can be used.
func (p *pools) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var problems []error
	for _, name := range p.names {
		if err := p.problems[name]; err != nil && !slices.ContainsFunc(problems, func(told error) bool { return errors.Is(told, err) }) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// present are the configured pools that were there at the last look, usable or not.
func (p *pools) present() []string {
	var names []string
	for _, s := range p.status() {
		if s.GUID != 0 || s.Health != unavailable {
			names = append(names, s.Name)
		}
	}
	return names
}

// unprepared is why nothing may be done on a pool: it is not there, or not yet made
// ready. One that is suspended stays prepared: what is on it still has to be taken care of.
func (p *pools) unprepared(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.prepared[name]; ok {
		return nil
	}
	if err := p.problems[name]; err != nil {
		return err
	}
	return fmt.Errorf("%w: pool %s has not been looked at yet", zfs.ErrPoolUnavailable, name)
}

// missing reports that a pool could not be used at the last look.
func (p *pools) missing(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problems[name]
}

func find(pools []zfs.PoolStatus, name string) zfs.PoolStatus {
	if i := slices.IndexFunc(pools, func(p zfs.PoolStatus) bool { return p.Name == name }); i >= 0 {
		return pools[i]
	}
	return zfs.PoolStatus{}
}
