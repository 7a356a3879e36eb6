package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// destroySnapshots removes a batch, whose GUIDs were read a moment ago, by exact
// names. If one of it cannot go, the others go alone.
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
		if err = w.destroyEach(ctx, list); err != nil {
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

// destroyEach tries one after the other. What will not go is left alone for a
// while: asking every minute again would cost a process each and change nothing.
func (w *Worker) destroyEach(ctx context.Context, list []zfs.Version) error {
	for _, v := range list {
		err := w.cfg.Engine.DestroySnapshots(ctx, w.l.dataset(), v.Name)
		if err == nil || errors.Is(err, zfs.ErrNotExist) {
			continue
		}
		reason := whyKept(err)
		w.hooks.PruneFailed(w.side(), reason)
		if reason == "error" {
			return err
		}
		w.leaveAlone(v, err)
	}
	w.forgetStuck()
	return nil
}

// leaveAlone keeps retention from a snapshot for a while.
func (w *Worker) leaveAlone(v zfs.Version, why error) {
	if w.pruned.stuck == nil {
		w.pruned.stuck = map[zfs.GUID]stuck{}
	}
	w.pruned.stuck[v.GUID] = stuck{until: time.Now().Add(stuckFor), why: why.Error()}
	w.log.Warn("a snapshot that retention would remove stays", "snapshot", v.Name, "err", why)
}

// forgetStuck drops what is over.
func (w *Worker) forgetStuck() {
	for guid, s := range w.pruned.stuck {
		if time.Now().After(s.until) {
			delete(w.pruned.stuck, guid)
		}
	}
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
