package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// maintainEvery is how often retention runs on a replica at rest; more often when
// snapshots pile up.
const maintainEvery = time.Minute

// pruneAfter is how many new versions call for retention at once.
const pruneAfter = 8

// pruneMark is when retention ran last and what it left.
type pruneMark struct {
	at    time.Time
	count int
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
	if len(f.versions)-w.pruned.count < pruneAfter && now.Sub(w.pruned.at) < maintainEvery {
		return false
	}
	if err := w.prune(ctx); err != nil {
		w.failed(doPrune, err)
		return true
	}
	delete(w.failures, doPrune)
	w.pruned = pruneMark{at: now, count: len(f.versions)}
	return true
}

// protected are the GUIDs that others count on, by the control plane's word.
func (w *Worker) protected() map[zfs.GUID]bool {
	set := w.fixed()
	for _, g := range w.s.a.GetProtectedGuids() {
		set[zfs.GUID(g)] = true
	}
	delete(set, 0)
	return set
}

// fixed are the GUIDs that this host must go on having as snapshots.
func (w *Worker) fixed() map[zfs.GUID]bool {
	set := map[zfs.GUID]bool{zfs.GUID(w.s.a.GetFinalGuid()): true}
	for _, e := range w.s.a.GetLineage() {
		set[zfs.GUID(e.GetBaseGuid())] = true
	}
	delete(set, 0)
	return set
}

// prune lists anew, decides, then: bookmarks before releases before destroying,
// so that a crash in between leaves too much, never too little.
func (w *Worker) prune(ctx context.Context) error {
	begun := time.Now()
	versions, err := w.cfg.Engine.Versions(ctx, w.l.dataset())
	if err != nil {
		return fmt.Errorf("list versions: %w", err)
	}
	w.s.f.versions = versions
	k := keeping{
		versions: versions, self: w.cfg.ReplicaID, peers: peerReplicas(w.s.a), protected: w.protected(), fixed: w.fixed(),
		following: w.s.a.GetRole() == tarnv1.Role_ROLE_SECONDARY, recent: w.cfg.KeepRecent,
	}
	if k.tags, k.late, err = w.tags(ctx, versions); err != nil {
		return err
	}
	known := map[string]bool{k.self: true}
	for _, p := range k.peers {
		known[p] = true
	}
	k.strange = w.strangers.note(owners(versions, k.tags), known, begun)
	v := k.prune()
	w.hooks.Holds(w.cfg.ReplicaID, holdKinds(k.tags))
	if err := w.letGo(ctx, v); err != nil {
		return err
	}
	err = w.destroySnapshots(ctx, v.destroy)
	w.phase("prune", begun)
	return err
}

// tags lists the holds on snapshots, and which of them are older than a peer may
// be away. Their age is by the calendar, since it has to outlive this process; a
// calendar that is wrong makes a bookmark too early or too late, no more.
func (w *Worker) tags(ctx context.Context, versions []zfs.Version) (tags map[string][]string, late map[release]bool, err error) {
	tags, late = map[string][]string{}, map[release]bool{}
	for _, v := range versions {
		if v.Kind != zfs.KindSnapshot || v.UserRefs == 0 {
			continue
		}
		holds, err := w.cfg.Engine.Holds(ctx, v.FullName())
		if errors.Is(err, zfs.ErrUnsupported) {
			continue // then every held snapshot stays
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list holds: %w", err)
		}
		for _, h := range holds {
			tags[v.Name] = append(tags[v.Name], h.Tag)
			late[release{tag: h.Tag, name: v.Name}] = time.Since(h.Created) > w.cfg.AwayBudget
		}
	}
	return tags, late, nil
}

// letGo makes bookmarks, releases holds and removes cursors. Where there are no
// bookmarks, the snapshots and their holds stay.
func (w *Worker) letGo(ctx context.Context, v verdict) error {
	for _, c := range v.convert {
		for _, replica := range c.replicas {
			err := w.cfg.Engine.Bookmark(ctx, c.of.FullName(), w.l.dataset()+"#"+cursorName(c.of.GUID, replica))
			if err != nil {
				return fmt.Errorf("bookmark for a peer that is away: %w", err)
			}
			w.log.Info("a peer is away: a bookmark takes its snapshot's place", "peer", replica, "snapshot", c.of.Name)
		}
	}
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

// destroySnapshots removes a batch; if one of it cannot go, the others go alone.
func (w *Worker) destroySnapshots(ctx context.Context, list []zfs.Version) error {
	if len(list) == 0 {
		return nil
	}
	names := make([]string, len(list))
	for i, v := range list {
		names[i] = v.Name
	}
	err := w.cfg.Engine.DestroySnapshots(ctx, w.l.dataset(), names...)
	if err != nil {
		if err = w.destroyEach(ctx, names); err != nil {
			return err
		}
	}
	versions, err := w.cfg.Engine.Versions(ctx, w.l.dataset())
	if err != nil {
		return fmt.Errorf("list versions: %w", err)
	}
	w.hooks.Pruned(w.side(), max(0, len(w.s.f.versions)-len(versions)))
	w.s.f.versions = versions
	return nil
}

func (w *Worker) destroyEach(ctx context.Context, names []string) error {
	for _, name := range names {
		err := w.cfg.Engine.DestroySnapshots(ctx, w.l.dataset(), name)
		if err == nil || errors.Is(err, zfs.ErrNotExist) {
			continue
		}
		reason := whyKept(err)
		w.hooks.PruneFailed(w.side(), reason)
		if reason == "error" {
			return err
		}
	}
	return nil
}

// whyKept tells what keeps a snapshot from being destroyed; "error" is trouble.
func whyKept(err error) string {
	switch {
	case errors.Is(err, zfs.ErrHeld):
		return "held"
	case errors.Is(err, zfs.ErrHasClones):
		return "clones"
	case errors.Is(err, zfs.ErrBusy):
		return "busy"
	}
	return "error"
}

// side is the end of replication that this replica is.
func (w *Worker) side() string {
	if w.s.a.GetRole() == tarnv1.Role_ROLE_ACTIVE {
		return "source"
	}
	return "target"
}
