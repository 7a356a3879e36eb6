package replicate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// maintainEvery is how often retention runs on a replica at rest; more often when
// snapshots pile up.
const maintainEvery = time.Minute

// pruneAfter is how many new versions call for retention at once.
const pruneAfter = 8

// stuckFor is how long a snapshot that the storage would not destroy is left alone.
const stuckFor = 10 * time.Minute

// upkeep is what retention remembers between two runs. A new process starts without
// it, looks more often once, and decides the same.
type upkeep struct {
	at    time.Time // of the last run
	count int       // of versions that it left
	// stuck are snapshots that could not be destroyed.
	stuck map[zfs.GUID]stuck
	// holds are as last listed. A snapshot with as many as then has the same ones, as
	// far as doing nothing goes; before anything is done they are read again.
	holds map[zfs.GUID]listedHolds
	// listed is when all of them were.
	listed time.Time
}

type stuck struct {
	until time.Time
	why   string
}

type listedHolds struct {
	refs int
	list []zfs.Hold
}

// maintain runs retention when it is due, and says if it did. It is never in the
// way of a step.
func (w *Worker) maintain(ctx context.Context) bool {
	f, now := &w.s.f, time.Now()
	if f.ds == nil || w.s.gone || f.moved != nil || w.refusal != nil || !w.conforms() || w.backingOff(doPrune) {
		return false
	}
	role := w.s.a.GetRole()
	if role != tarnv1.Role_ROLE_ACTIVE && role != tarnv1.Role_ROLE_SECONDARY {
		return false
	}
	pile := len(f.versions)-w.pruned.count >= pruneAfter || w.s.heldOlder
	if !pile && now.Sub(w.pruned.at) < maintainEvery {
		return false
	}
	if err := w.keepUp(ctx, pile); err != nil {
		w.failed(doPrune, err)
		w.stale = w.stale || errors.Is(err, zfs.ErrNotExist) // somebody destroyed or renamed it
		return true
	}
	delete(w.failures, doPrune)
	w.pruned.at, w.pruned.count = now, len(w.s.f.versions)
	return true
}

// keepUp looks first at what the pool's survey says, which all replicas share, and
// at this dataset alone only when there is something to do.
func (w *Worker) keepUp(ctx context.Context, pile bool) error {
	if w.cfg.Survey == nil || pile {
		return w.prune(ctx)
	}
	begun := time.Now()
	if begun.Sub(w.pruned.listed) > stuckFor {
		// As many holds as before may be others' by now.
		w.pruned.holds, w.pruned.listed = nil, begun
	}
	seen, err := w.cfg.Survey.since(ctx, begun.Add(-maintainEvery/2))
	if err != nil {
		return err
	}
	versions, listed := seen.versions[w.l.dataset()]
	if !listed && len(w.s.f.versions) > 0 {
		w.Look() // somebody destroyed or renamed it
		return nil
	}
	if d, listed := seen.datasets[w.l.dataset()]; listed && (w.remounted(d.Mounted, seen.begun) || w.differs(d, versions, seen.begun)) {
		w.Look()
	}
	k, err := w.keeping(ctx, versions, clonesOf(seen.clones, w.l.dataset()), begun)
	if err != nil {
		return err
	}
	if v := k.prune(); v.idle() {
		w.tell(k, v)
		return nil
	}
	return w.prune(ctx)
}

// protected are the GUIDs that others count on, by the control plane's word.
func protected(a *tarnv1.Assignment) map[zfs.GUID]bool {
	set := fixed(a)
	for _, g := range a.GetProtectedGuids() {
		set[zfs.GUID(g)] = true
	}
	delete(set, 0)
	return set
}

// fixed are the GUIDs that this host must go on having as snapshots.
func fixed(a *tarnv1.Assignment) map[zfs.GUID]bool {
	set := map[zfs.GUID]bool{zfs.GUID(a.GetFinalGuid()): true}
	for _, e := range a.GetLineage() {
		set[zfs.GUID(e.GetBaseGuid())] = true
	}
	delete(set, 0)
	return set
}

// users are the GUIDs of snapshots that the share's users want.
func users(a *tarnv1.Assignment) map[zfs.GUID]bool {
	set := map[zfs.GUID]bool{}
	for _, s := range a.GetSnapshots() {
		set[zfs.GUID(s.GetGuid())] = true
	}
	delete(set, 0)
	return set
}

// newKeeping is what the assignment says about retention here.
func (w *Worker) newKeeping(a *tarnv1.Assignment, versions []zfs.Version, clones map[string][]string, p policy) keeping {
	return keeping{
		versions: versions, self: w.cfg.ReplicaID, peers: peerReplicas(a), protected: protected(a), fixed: fixed(a), users: users(a),
		following: a.GetRole() == tarnv1.Role_ROLE_SECONDARY, recent: w.cfg.KeepRecent,
		policy: p, now: w.agesFrom(versions), clones: clones,
	}
}

// agesFrom is the time to which the ages of snapshots are counted.
func (w *Worker) agesFrom(versions []zfs.Version) time.Time {
	newest, now := (&facts{versions: versions}).newest().Creation, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ages.now(newest, now.Round(0), now.Sub(w.born))
}

// keeping gathers what retention follows from.
func (w *Worker) keeping(ctx context.Context, versions []zfs.Version, clones map[string][]string, now time.Time) (keeping, error) {
	k := w.newKeeping(w.s.a, versions, clones, policyOf(w.s.a.GetKeep()))
	var err error
	if k.tags, k.late, err = w.tags(ctx, versions); err != nil {
		return k, err
	}
	known := map[string]bool{k.self: true}
	for _, p := range k.peers {
		known[p] = true
	}
	k.strange = w.strangers.note(owners(versions, k.tags), known, now)
	k.stuck = map[zfs.GUID]string{}
	for guid, s := range w.pruned.stuck {
		if now.Before(s.until) {
			k.stuck[guid] = s.why
		}
	}
	return k, nil
}

// prune lists anew, decides, then: bookmarks before releases before destroying,
// so that a crash in between leaves too much, never too little.
func (w *Worker) prune(ctx context.Context) error {
	begun := time.Now()
	versions, err := w.settle(ctx)
	if err != nil {
		return err
	}
	clones, err := w.clones(ctx, begun)
	if err != nil {
		return err
	}
	k, err := w.keeping(ctx, versions, clones, begun)
	if err != nil {
		return err
	}
	v := k.prune()
	if len(v.release)+len(v.convert) > 0 {
		// What is let go of is decided on holds of this moment.
		w.pruned.holds = nil
		if k.tags, k.late, err = w.tags(ctx, versions); err != nil {
			return err
		}
		v = k.prune()
	}
	if v, err = w.convert(ctx, k, v); err != nil {
		return err
	}
	w.tell(k, v)
	if err := w.letGo(ctx, v); err != nil {
		return err
	}
	if len(v.release)+len(v.convert)+len(v.cursors) > 0 {
		// That took its time: what is destroyed is looked at again.
		if versions, err = w.cfg.Engine.Versions(ctx, w.l.dataset()); err != nil {
			return fmt.Errorf("list versions: %w", err)
		}
	}
	err = w.destroySnapshots(ctx, still(v.destroy, versions))
	w.phase("prune", begun)
	return err
}

// settle brings the holds up to date that stand for what was received here and
// pulled from here since retention ran last, and lists the versions.
func (w *Worker) settle(ctx context.Context) ([]zfs.Version, error) {
	list := func() (err error) {
		if w.s.f.versions, err = w.cfg.Engine.Versions(ctx, w.l.dataset()); err != nil {
			return fmt.Errorf("list versions: %w", err)
		}
		return nil
	}
	if err := list(); err != nil {
		return nil, err
	}
	changed := false
	if w.cfg.Settle != nil {
		var err error
		if changed, err = w.cfg.Settle(ctx, w.cfg.ReplicaID, w.s.f.versions); err != nil {
			return nil, err
		}
	}
	moved, err := w.settleReceipts(ctx)
	if err != nil {
		return nil, err
	}
	if changed || moved {
		w.pruned.holds = nil
		return w.s.f.versions, list()
	}
	return w.s.f.versions, nil
}

// settleReceipts holds what was received last, and nothing before it, and says if it
// had anything to do.
func (w *Worker) settleReceipts(ctx context.Context) (bool, error) {
	switch {
	case w.s.a.GetRole() == tarnv1.Role_ROLE_SECONDARY && w.s.unheld():
		return true, w.holdLast(ctx)
	case w.s.heldOlder:
		return true, w.releaseReceipts(ctx)
	}
	return false, nil
}

// still are those of list that have their name and their GUID.
func still(list, versions []zfs.Version) []zfs.Version {
	var same []zfs.Version
	f := facts{versions: versions}
	for _, v := range list {
		if x, ok := f.named(v.Name); ok && x.GUID == v.GUID {
			same = append(same, v)
		}
	}
	return same
}

// clones are the datasets that stand on snapshots of this one; without a survey
// nobody is asked, and the storage refuses.
func (w *Worker) clones(ctx context.Context, now time.Time) (map[string][]string, error) {
	if w.cfg.Survey == nil {
		return nil, nil
	}
	seen, err := w.cfg.Survey.since(ctx, now.Add(-maintainEvery/2))
	if err != nil {
		return nil, err
	}
	return clonesOf(seen.clones, w.l.dataset()), nil
}

// tags lists the holds on snapshots, and which of them are older than a peer may
// be away. Their age is by the calendar, since it has to outlive this process; a
// calendar that is wrong makes a bookmark too early or too late, no more.
func (w *Worker) tags(ctx context.Context, versions []zfs.Version) (tags map[string][]string, late map[release]bool, err error) {
	tags, late = map[string][]string{}, map[release]bool{}
	next := map[zfs.GUID]listedHolds{}
	for _, v := range versions {
		if v.Kind != zfs.KindSnapshot || v.UserRefs == 0 {
			continue
		}
		known := w.pruned.holds[v.GUID]
		if known.refs != v.UserRefs {
			if known, err = listHolds(ctx, w.cfg.Engine, v); err != nil {
				return nil, nil, err
			}
		}
		next[v.GUID] = known
		for _, h := range known.list {
			tags[v.Name] = append(tags[v.Name], h.Tag)
			late[release{tag: h.Tag, name: v.Name}] = time.Since(h.Created) > w.cfg.AwayBudget
		}
	}
	w.pruned.holds = next
	return tags, late, nil
}

// listHolds reads the holds on one snapshot; none where the storage cannot list
// them: then every held snapshot stays.
func listHolds(ctx context.Context, engine Holds, v zfs.Version) (listedHolds, error) {
	list, err := engine.Holds(ctx, v.FullName())
	if err != nil && !errors.Is(err, zfs.ErrUnsupported) && !errors.Is(err, zfs.ErrNotExist) {
		return listedHolds{}, fmt.Errorf("list holds: %w", err)
	}
	return listedHolds{refs: v.UserRefs, list: list}, nil
}

// tell passes on what a run found.
func (w *Worker) tell(k keeping, v verdict) {
	w.hooks.Holds(w.cfg.ReplicaID, holdKinds(k.tags))
	w.hooks.Retained(w.cfg.ReplicaID, retained(k, v, time.Now()))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view.ranAt, w.view.strange, w.view.stuck = time.Now(), maps.Clone(k.strange), maps.Clone(k.stuck)
}

// convert makes bookmarks in the place of bases of peers that are away. Where there can
// be none, as on a pool without that feature, the snapshots and their holds stay, and
// what else there is to do is decided anew.
func (w *Worker) convert(ctx context.Context, k keeping, v verdict) (verdict, error) {
	kept := len(k.stuck)
	for _, c := range v.convert {
		for _, replica := range c.replicas {
			err := w.cfg.Engine.Bookmark(ctx, c.of.FullName(), w.l.dataset()+"#"+cursorName(c.of.GUID, replica))
			if errors.Is(err, zfs.ErrUnsupported) {
				w.leaveAlone(c.of, err)
				k.stuck[c.of.GUID] = err.Error()
				break
			}
			if err != nil {
				return v, fmt.Errorf("bookmark for a peer that is away: %w", err)
			}
			w.log.Info("a peer is away: a bookmark takes its snapshot's place", "peer", replica, "snapshot", c.of.Name)
		}
	}
	if len(k.stuck) > kept {
		return k.prune(), nil
	}
	return v, nil
}

// letGo releases holds and removes cursors.
func (w *Worker) letGo(ctx context.Context, v verdict) error {
	for _, r := range v.release {
		if err := ignore(w.cfg.Engine.Release(ctx, r.tag, w.l.dataset()+"@"+r.name), zfs.ErrNotExist); err != nil {
			return fmt.Errorf("release hold: %w", err)
		}
	}
	w.hooks.StaleHolds(v.stale)
	for _, c := range v.cursors {
		if err := ignore(w.cfg.Engine.DestroyBookmark(ctx, c.FullName()), zfs.ErrNotExist); err != nil {
			return fmt.Errorf("remove forgotten cursor: %w", err)
		}
	}
	return nil
}
