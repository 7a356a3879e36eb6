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

// maintain runs retention when it is due. It is never in the way of a step.
func (w *Worker) maintain(ctx context.Context) {
	f, now := &w.s.f, time.Now()
	if f.ds == nil || w.s.gone || f.moved != nil || w.refusal != nil || !w.conforms() || w.backingOff(doPrune) {
		return
	}
	role := w.s.a.GetRole()
	if role != tarnv1.Role_ROLE_ACTIVE && role != tarnv1.Role_ROLE_SECONDARY {
		return
	}
	if len(f.versions)-w.pruned.count < pruneAfter && now.Sub(w.pruned.at) < maintainEvery {
		return
	}
	if err := w.prune(ctx); err != nil {
		w.failed(doPrune, err)
		return
	}
	delete(w.failures, doPrune)
	w.pruned = pruneMark{at: now, count: len(f.versions)}
}

// protected are the GUIDs that others count on, by the control plane's word.
func (w *Worker) protected() map[zfs.GUID]bool {
	set := map[zfs.GUID]bool{}
	for _, g := range w.s.a.GetProtectedGuids() {
		set[zfs.GUID(g)] = true
	}
	for _, e := range w.s.a.GetLineage() {
		set[zfs.GUID(e.GetBaseGuid())] = true
	}
	set[zfs.GUID(w.s.a.GetFinalGuid())] = true
	delete(set, 0)
	return set
}

// prune lists anew, decides, releases, destroys.
func (w *Worker) prune(ctx context.Context) error {
	versions, err := w.cfg.Engine.Versions(ctx, w.l.dataset())
	if err != nil {
		return fmt.Errorf("list versions: %w", err)
	}
	w.s.f.versions = versions
	tags, err := w.tags(ctx, versions)
	if err != nil {
		return err
	}
	k := keeping{
		versions: versions, tags: tags, self: w.cfg.ReplicaID, peers: peerReplicas(w.s.a), protected: w.protected(),
		following: w.s.a.GetRole() == tarnv1.Role_ROLE_SECONDARY, recent: w.cfg.KeepRecent,
	}
	releases, destroy := k.prune()
	for _, r := range releases {
		if err := ignore(w.cfg.Engine.Release(ctx, r.tag, w.l.dataset()+"@"+r.name), zfs.ErrNotExist); err != nil {
			return fmt.Errorf("release hold: %w", err)
		}
	}
	return w.destroySnapshots(ctx, destroy)
}

func (w *Worker) tags(ctx context.Context, versions []zfs.Version) (map[string][]string, error) {
	tags := map[string][]string{}
	for _, v := range versions {
		if v.Kind != zfs.KindSnapshot || v.UserRefs == 0 {
			continue
		}
		holds, err := w.cfg.Engine.Holds(ctx, v.FullName())
		if errors.Is(err, zfs.ErrUnsupported) {
			continue // then every held snapshot stays
		}
		if err != nil {
			return nil, fmt.Errorf("list holds: %w", err)
		}
		for _, h := range holds {
			tags[v.Name] = append(tags[v.Name], h.Tag)
		}
	}
	return tags, nil
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
	if w.cfg.Hooks.Pruned != nil {
		w.cfg.Hooks.Pruned(len(w.s.f.versions) - len(versions))
	}
	w.s.f.versions = versions
	return nil
}

func (w *Worker) destroyEach(ctx context.Context, names []string) error {
	for _, name := range names {
		err := w.cfg.Engine.DestroySnapshots(ctx, w.l.dataset(), name)
		kept := errors.Is(err, zfs.ErrHeld) || errors.Is(err, zfs.ErrHasClones) || errors.Is(err, zfs.ErrNotExist)
		if err != nil && !kept {
			return err
		}
	}
	return nil
}
