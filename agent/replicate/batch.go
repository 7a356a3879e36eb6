package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/agent/stream"
	"tarn/zfs"
)

// listTogether is from how many datasets on one listing of the pool is cheaper
// than one listing each.
const listTogether = 8

// pending is one snapshot of a batch.
type pending struct {
	e    *entry
	name string
}

func (p pending) full() string { return p.e.Dataset + "@" + p.name }

// tick does one round: list the pool once, take what is due and dirty in one
// call, tell followers.
func (c *Cadence) tick(ctx context.Context) error {
	c.batch.Lock()
	defer c.batch.Unlock()
	due := c.dueEntries(time.Now())
	if len(due) == 0 {
		return nil
	}
	begun := time.Now()
	exact, err := c.settled(ctx)
	if err != nil {
		return err
	}
	list, err := c.cfg.Engine.Datasets(ctx, c.cfg.Root)
	if err != nil {
		return fmt.Errorf("list datasets: %w", err)
	}
	// Snapshots after datasets: one that somebody else takes in between is then the
	// head, and the data were equal to it later than begun, never earlier.
	there := byName(list)
	unsure := c.unsure(due, there, begun)
	if err := c.list(ctx, unsure); err != nil {
		return err
	}
	c.date(unsure, there, begun)
	batch := c.look(due, there, begun, exact)
	if len(batch) > 0 {
		err = c.take(ctx, batch)
	}
	c.publish(due)
	return err
}

// settled makes a listing exact: that nothing was written can then be said of the
// time at which it was asked for. Where everything is being written to, there is
// nothing of the kind to be said, and writers are not disturbed.
func (c *Cadence) settled(ctx context.Context) (exact bool, err error) {
	if c.cfg.Sync == nil {
		return true, nil
	}
	if !c.quiet {
		return false, nil
	}
	if err := c.cfg.Sync(ctx); err != nil {
		return false, fmt.Errorf("sync pool: %w", err)
	}
	return true, nil
}

func byName(list []zfs.Dataset) map[string]*zfs.Dataset {
	there := make(map[string]*zfs.Dataset, len(list))
	for i := range list {
		there[list[i].Name] = &list[i]
	}
	return there
}

// unsure picks those whose snapshots have to be listed before anything is decided:
// where nothing was written the head is what counts, and a user's snapshot may be there.
// What was written to gets a new head, of whatever name is free.
func (c *Cadence) unsure(due []*entry, there map[string]*zfs.Dataset, now time.Time) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(due), func(e *entry) bool {
		d := there[e.Dataset]
		_, wanted := e.missing()
		if d == nil || wanted || now.Sub(e.listedAt) >= relist {
			return false
		}
		return d.Written > 0 && len(e.Peers) > 0 || !e.changed.IsZero() && e.changed.Equal(d.SnapshotsChanged)
	})
}

// tellable is how much older than a look the change of a snapshot has to be, so that a
// later one has another time: those are whole seconds.
const tellable = 2 * time.Second

// date notes how old the listings are that were just made, by what the datasets said of
// their snapshots before, at begun.
func (c *Cadence) date(listed []*entry, there map[string]*zfs.Dataset, begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range listed {
		e.changed = time.Time{}
		if d := there[e.Dataset]; d != nil && begun.Sub(d.SnapshotsChanged) >= tellable {
			e.changed = d.SnapshotsChanged
		}
	}
}

// list reads heads and names of entries anew.
func (c *Cadence) list(ctx context.Context, entries []*entry) error {
	if len(entries) < listTogether {
		for _, e := range entries {
			v, err := c.cfg.Engine.Versions(ctx, e.Dataset)
			if err != nil && !errors.Is(err, zfs.ErrNotExist) {
				return fmt.Errorf("list snapshots: %w", err)
			}
			c.learn(e, v)
		}
		return nil
	}
	all, err := c.cfg.Engine.VersionsBelow(ctx, c.cfg.Root)
	if err != nil {
		return fmt.Errorf("list snapshots of pool: %w", err)
	}
	for _, e := range entries {
		c.learn(e, all[e.Dataset])
	}
	return nil
}

func (c *Cadence) learn(e *entry, versions []zfs.Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := facts{versions: versions}
	e.listed, e.listedAt = versions, time.Now()
	e.names = make([]string, 0, len(versions))
	for _, v := range versions {
		e.seq = max(e.seq, sequence(v.Name, e.Share, e.Epoch))
		if v.Kind == zfs.KindSnapshot {
			e.names = append(e.names, v.Name)
		}
	}
	if head := f.newest(); head.GUID != e.seen.Head.GUID {
		e.seen.Head, e.seen.AsOf = head, time.Time{}
	}
}

// look compares the listing with what is due and picks what to take. Where the
// listing is not exact, what seems unchanged may have been written to a moment ago:
// it is then no news.
func (c *Cadence) look(due []*entry, there map[string]*zfs.Dataset, begun time.Time, exact bool) []pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []pending
	c.quiet = false
	for _, e := range due {
		d := there[e.Dataset]
		if d == nil { // somebody renamed or destroyed it
			e.seen.Mounted, e.seen.Listed = false, begun
			defer e.Notify()
			continue
		}
		if !d.Mounted {
			defer e.Notify() // the lease is over, or somebody fenced it behind our back
		}
		e.seen.Dirty, e.seen.Used, e.seen.Mounted, e.seen.Listed = d.Written, d.Used, d.Mounted, begun
		clean := d.Written == 0 && e.seen.Head.GUID != 0
		c.quiet = c.quiet || clean
		if clean && exact {
			e.seen.AsOf = begun
		}
		if name, ok := e.wants(clean); ok {
			batch = append(batch, pending{e: e, name: name})
		} else if e.seen.Err != nil {
			e.note(nil, begun) // what could not be taken is gone again
			defer e.Notify()
		}
	}
	return batch
}

// wants names the snapshot to take now: a user's first, for it serves as a
// replication snapshot, too.
func (e *entry) wants(clean bool) (string, bool) {
	if name, ok := e.missing(); ok {
		return name, true
	}
	if clean || len(e.Peers) == 0 {
		return "", false
	}
	e.seq++
	return replicationName(e.Share, e.Epoch, e.seq), true
}

// missing is a user's snapshot that has to exist and does not.
func (e *entry) missing() (name string, ok bool) {
	for _, name := range e.Wanted {
		if !slices.Contains(e.names, name) {
			return name, true
		}
	}
	return "", false
}

// take makes the snapshots of a batch: all at one instant, or, if that fails,
// one by one, so that one bad dataset cannot stop the others.
func (c *Cadence) take(ctx context.Context, batch []pending) error {
	names := make([]string, len(batch))
	for i, p := range batch {
		names[i] = p.full()
	}
	begun := time.Now()
	err := c.cfg.Engine.Snapshot(ctx, names...)
	if err == nil || len(batch) == 1 {
		return errors.Join(err, c.settle(ctx, batch, begun, err))
	}
	return c.takeEach(ctx, batch)
}

// snapshotsAtOnce is for engines that take one snapshot a call.
const snapshotsAtOnce = 4

// takeEach makes the snapshots one by one and reads back those that went well
// together, as of the instant before the first.
func (c *Cadence) takeEach(ctx context.Context, batch []pending) error {
	begun, failed := time.Now(), make([]error, len(batch))
	var g errgroup.Group
	g.SetLimit(snapshotsAtOnce)
	for i, p := range batch {
		g.Go(func() error {
			failed[i] = c.cfg.Engine.Snapshot(ctx, p.full())
			return nil
		})
	}
	_ = g.Wait()
	var taken []pending
	var errs []error
	for i, err := range failed {
		if err == nil {
			taken = append(taken, batch[i])
		} else {
			errs = append(errs, err, c.settle(ctx, batch[i:i+1], begun, err))
		}
	}
	if len(taken) > 0 {
		errs = append(errs, c.settle(ctx, taken, begun, nil))
	}
	return errors.Join(errs...)
}

// settle reads back what a call took. The live data were equal to the new head at
// some instant after begun.
func (c *Cadence) settle(ctx context.Context, batch []pending, begun time.Time, failed error) error {
	entries, heads := make([]*entry, len(batch)), make([]zfs.GUID, len(batch))
	c.mu.Lock()
	for i, p := range batch {
		entries[i], heads[i] = p.e, p.e.seen.Head.GUID
	}
	c.mu.Unlock()
	listed := c.readBack(ctx, batch, entries, failed)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, p := range batch {
		defer p.e.Notify()
		p.e.note(failed, begun)
		if failed != nil || listed != nil || p.e.seen.Head.Name != p.name {
			continue
		}
		p.e.froze, p.e.previous = p.e.seen.Dirty, heads[i]
		p.e.seen.AsOf, p.e.seen.Dirty = begun, 0
		p.e.seen.Taken++
		if _, more := p.e.wants(true); more {
			p.e.due = time.Time{}
			c.poke()
		}
	}
	return listed
}

// readBack learns what a call took: each snapshot by its name, which is cheap however
// many there are. What failed, or is not there any more, is listed.
func (c *Cadence) readBack(ctx context.Context, batch []pending, entries []*entry, failed error) error {
	if failed != nil {
		return c.list(ctx, entries)
	}
	names := make([]string, len(batch))
	for i, p := range batch {
		names[i] = p.full()
	}
	found, err := c.cfg.Engine.Named(ctx, names...)
	if err != nil {
		return fmt.Errorf("read back snapshots: %w", err)
	}
	var gone []*entry
	for i, v := range found {
		if v.GUID == 0 {
			gone = append(gone, entries[i])
			continue
		}
		c.gain(entries[i], v)
	}
	return c.list(ctx, gone)
}

// gain adds a snapshot that was taken to what is known.
func (c *Cadence) gain(e *entry, v zfs.Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.listed = append(slices.Clip(e.listed), v) // others read the old one
	e.names = append(e.names, v.Name)
	e.seen.Head, e.seen.AsOf = v, time.Time{}
}

// note remembers how taking a snapshot went. The caller has the lock.
func (e *entry) note(err error, at time.Time) {
	switch {
	case err == nil:
		e.seen.Failing = time.Time{}
	case e.seen.Err == nil:
		e.seen.Failing = at
	}
	e.seen.Err = err
}

// publish tells followers about heads and how current they are.
func (c *Cadence) publish(due []*entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var heads []stream.Head
	for _, e := range due {
		if c.all[e.Replica] != e || e.seen.Head.GUID == 0 || len(e.Peers) == 0 {
			continue
		}
		heads = append(heads, stream.Head{
			Share: e.Share, Replica: e.Replica, Epoch: e.Epoch, GUID: e.seen.Head.GUID, Created: e.seen.Head.Creation,
			AsOf: e.seen.AsOf, Dirty: e.seen.Dirty, Peers: e.Peers, Froze: e.froze, Previous: e.previous,
		})
	}
	c.cfg.Board.Publish(heads...)
}
