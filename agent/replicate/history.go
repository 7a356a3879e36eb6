package replicate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tarn/zfs"
)

// holdLast holds the newest snapshot as last received, then lets older ones go.
func (w *Worker) holdLast(ctx context.Context) error {
	newest, tag := w.s.f.newest(), holdLast+w.cfg.ReplicaID
	if err := w.cfg.Engine.Hold(ctx, tag, newest.FullName()); err != nil {
		return err
	}
	w.s.heldLast = newest.GUID
	if err := w.releaseReceipts(ctx); err != nil {
		return err
	}
	w.stale = false
	return nil
}

// releaseReceipts lets go of what was received, or ended an epoch, before what is held
// as last. Not every storage lists tags: each snapshot with holds is tried.
func (w *Worker) releaseReceipts(ctx context.Context) error {
	w.s.heldOlder = true // until it has succeeded
	if older := w.s.heldBefore(); len(older) > 0 {
		if err := ignore(w.cfg.Engine.Release(ctx, holdLast+w.cfg.ReplicaID, older...), zfs.ErrNotExist); err != nil {
			return err
		}
	}
	w.s.heldOlder = false
	return nil
}

// heldBefore are the snapshots with holds but for the one that is held as last.
func (s *state) heldBefore() (names []string) {
	for _, v := range s.f.versions {
		if v.Kind == zfs.KindSnapshot && v.UserRefs > 0 && v.GUID != s.heldLast {
			names = append(names, v.FullName())
		}
	}
	return names
}

// unused gives the first of name, name.1, name.2 ... that no snapshot has.
func (w *Worker) unused(name string) string {
	for n, try := 1, name; ; n++ {
		if _, taken := w.s.f.named(try); !taken {
			return try
		}
		try = name + "." + strconv.Itoa(n)
	}
}

// sealHead turns what was written outside the lineage into a snapshot.
func (w *Worker) sealHead(ctx context.Context) error {
	full := w.l.dataset() + "@" + w.unused(divergentPrefix+strconv.FormatUint(w.s.wroteUnder(w.s.f.marks), 10))
	if err := w.cfg.Engine.Snapshot(ctx, full); err != nil {
		return err
	}
	w.s.modified, w.s.wantPull = false, true
	return w.cfg.Engine.Hold(ctx, holdDivergent, full)
}

// putAside moves the dataset out of the way, whole. From here its own mark says
// which snapshot the replica goes on from.
func (w *Worker) putAside(ctx context.Context) error {
	e, f := w.cfg.Engine, &w.s.f
	if f.ds.ResumeToken != "" {
		if err := w.abort(ctx, f.ds, "diverged"); err != nil {
			return fmt.Errorf("abort half a receive: %w", err)
		}
	}
	if n := f.newest(); n.GUID != 0 {
		if err := e.Hold(ctx, holdDivergent, n.FullName()); err != nil {
			return fmt.Errorf("hold diverged snapshot: %w", err)
		}
	}
	if err := w.parent(ctx, w.l.divergents()); err != nil {
		return fmt.Errorf("make room aside: %w", err)
	}
	name, err := w.unusedAside(ctx)
	if err != nil {
		return err
	}
	if err := e.Rename(ctx, w.l.dataset(), name); err != nil {
		return err
	}
	w.s.diverged, w.s.heldLast = nil, 0
	w.mu.Lock()
	w.view.clock.reset()
	w.mu.Unlock()
	w.log.Warn("diverged data put aside", "dataset", name, "epoch", w.s.wroteUnder(f.marks))
	w.hooks.Diverged(w.cfg.ShareID)
	return nil
}

// wroteUnder is the epoch in which the data came to be: the last one that this
// replica owned. By the time that they turn out to have diverged, their mark may
// have been raised to the epoch of whom the replica follows now.
func (s *state) wroteUnder(m marks) uint64 {
	epoch := uint64(0)
	for _, e := range s.a.GetLineage() {
		if e.GetOwnerReplicaId() == s.a.GetReplicaId() && e.GetEpoch() <= m.epoch {
			epoch = max(epoch, e.GetEpoch())
		}
	}
	if epoch == 0 {
		return m.epoch // never an owner
	}
	return epoch
}

func (w *Worker) unusedAside(ctx context.Context) (string, error) {
	for n := 0; ; n++ {
		name := w.l.aside(w.s.wroteUnder(w.s.f.marks), n)
		d, err := w.dataset(ctx, name)
		if err != nil || d == nil {
			return name, err
		}
	}
}

// rebase makes the replica anew from the common snapshot, without copying.
func (w *Worker) rebase(ctx context.Context) error {
	moved := w.s.f.moved.Name
	versions, err := w.cfg.Engine.Versions(ctx, moved)
	if err != nil {
		return fmt.Errorf("list data put aside: %w", err)
	}
	f := facts{versions: versions}
	v, ok := f.holding(w.s.f.common())
	if !ok {
		// The base is gone: what is aside stays aside and everything is pulled.
		return w.cfg.Engine.Set(ctx, moved, map[string]string{markOp: rebasePrefix + "0"})
	}
	m := w.newMarks(roleReplica)
	m.epoch = max(m.epoch, marksOf(*w.s.f.moved).epoch)
	props := resting(m)
	// The holds of noted peers come along with the snapshots, the clone's blocks are those of
	// the copy, and what was taken over once keeps its path and can be given back.
	for _, mark := range []string{markPeers, markFlags, markFrom, markWas} {
		if value := local(*w.s.f.moved, mark); value != "" {
			props[mark] = value
		}
	}
	return w.carrying(ctx, moved, props, func(props map[string]string) error {
		return w.cfg.Engine.Clone(ctx, v.FullName(), w.l.dataset(), props)
	})
}

// finishAside records data put aside as a divergent copy: kept until somebody
// purges it by name.
func (w *Worker) finishAside(ctx context.Context) error {
	return w.cfg.Engine.Set(ctx, w.s.f.moved.Name, map[string]string{
		markRole: roleDivergent, markOp: noOp, markSince: time.Now().UTC().Format(time.RFC3339), markBase: w.s.f.common().String(),
		markEpoch:     strconv.FormatUint(w.s.wroteUnder(marksOf(*w.s.f.moved)), 10),
		zfs.PropQuota: none, zfs.PropRefQuota: none, zfs.PropReadOnly: on, zfs.PropCanMount: noauto,
	})
}

// finalSnapshot ends an owner's epoch: it holds everything that was ever written
// under it. The dataset is unmounted and read-only here, and clients wait: receipts of
// before are let go of afterwards, by retention.
func (w *Worker) finalSnapshot(ctx context.Context) error {
	if err := w.readLog(ctx); err != nil {
		return err
	}
	f := &w.s.f
	name := f.newest().Name
	if !isFinal(name, w.s.a.GetEpoch()) || f.ds.Written > 0 {
		name = w.unused(finalPrefix + strconv.FormatUint(w.s.a.GetEpoch(), 10))
		if err := w.cfg.Engine.Snapshot(ctx, w.l.dataset()+"@"+name); err != nil {
			return err
		}
	}
	if err := w.cfg.Engine.Hold(ctx, holdLast+w.cfg.ReplicaID, w.l.dataset()+"@"+name); err != nil {
		return err
	}
	versions, err := w.cfg.Engine.Versions(ctx, w.l.dataset())
	if err != nil {
		return fmt.Errorf("read final snapshot back: %w", err)
	}
	f.versions = versions
	v, _ := f.named(name)
	w.s.heldLast = v.GUID
	w.s.heldOlder = len(w.s.heldBefore()) > 0
	return nil
}

// readLog brings into a dataset what was promised to be on disk when its host crashed, and
// is in the intent log only: no snapshot has that, and nothing tells of it. ZFS reads the
// log when it mounts the dataset, read-only too; old versions refuse to take a snapshot
// before that. One that was mounted since this process began needs no look, nor one that a
// life before has ended; one whose key is missing, or that has no mountpoint, allows none.
func (w *Worker) readLog(ctx context.Context) error {
	name := w.l.dataset()
	if !w.s.unread() {
		if w.s.unseen() {
			w.log.Warn("what the intent log may have of before a crash cannot be read without the share's key and a mountpoint", "dataset", name)
		}
		return nil
	}
	if err := w.cfg.Engine.Mount(ctx, name); err != nil {
		return fmt.Errorf("mount, to have the intent log read: %w", err)
	}
	w.s.opened, w.s.released = true, false
	if err := w.cfg.Engine.Unmount(ctx, name, false); err != nil {
		return err
	}
	w.s.released = true
	d, err := w.cfg.Engine.Dataset(ctx, name)
	if err != nil {
		return fmt.Errorf("look at dataset: %w", err)
	}
	w.s.f.ds = &d
	return nil
}

// retire removes users' snapshots. One that replicas may still need as a base
// keeps its GUID under a replication snapshot's name; retention removes it later.
func (w *Worker) retire(ctx context.Context) error {
	versions, err := w.cfg.Engine.Versions(ctx, w.l.dataset())
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	w.s.f.versions = versions
	protected, newest := protected(w.s.a), w.s.f.newest().GUID
	var errs []error
	for _, r := range w.s.a.GetRemovedSnapshots() {
		v, ok := w.s.f.named(userPrefix + r.GetSnapshotId())
		if !ok || keepsName(r) {
			continue
		}
		if r.GetRelease() {
			errs = append(errs, w.releaseSnapshot(ctx, v, r))
			continue
		}
		base := v.GUID == newest || v.UserRefs > 0 || protected[v.GUID]
		errs = append(errs, w.retireOne(ctx, v, r.GetSnapshotId(), base))
	}
	return errors.Join(errs...)
}

func (w *Worker) retireOne(ctx context.Context, v zfs.Version, id string, base bool) error {
	err := error(zfs.ErrHeld)
	if !base {
		err = w.cfg.Engine.DestroySnapshots(ctx, v.Dataset, v.Name)
	}
	if errors.Is(err, zfs.ErrHeld) || errors.Is(err, zfs.ErrHasClones) || errors.Is(err, zfs.ErrBusy) {
		err = w.cfg.Engine.RenameSnapshot(ctx, v.Dataset, v.Name, retiredPrefix+id)
	}
	if err != nil {
		w.errorsOf[id] = err.Error()
		return err
	}
	delete(w.errorsOf, id)
	return nil
}

// dropSnapshots removes all snapshots of a dataset that is to be destroyed.
func (w *Worker) dropSnapshots(ctx context.Context, dataset string) error {
	versions, err := w.cfg.Engine.Versions(ctx, dataset)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	cloned := false
	for _, v := range versions {
		if v.Kind != zfs.KindSnapshot {
			continue
		}
		if err := w.releaseAll(ctx, v); err != nil {
			return err
		}
		err := w.cfg.Engine.DestroySnapshots(ctx, dataset, v.Name)
		if errors.Is(err, zfs.ErrHasClones) {
			cloned = true
			continue
		}
		if err != nil {
			return err
		}
	}
	if cloned {
		return w.yield(ctx, dataset)
	}
	return nil
}

func (w *Worker) releaseAll(ctx context.Context, v zfs.Version) error {
	if v.UserRefs == 0 {
		return nil
	}
	holds, err := w.cfg.Engine.Holds(ctx, v.FullName())
	if errors.Is(err, zfs.ErrUnsupported) {
		return w.releaseKnown(ctx, v)
	}
	if err != nil {
		return fmt.Errorf("list holds: %w", err)
	}
	for _, h := range holds {
		if !strings.HasPrefix(h.Tag, "tarn.") && h.Tag != holdDivergent {
			continue // an operator's: the destroy will say so
		}
		if err := w.cfg.Engine.Release(ctx, h.Tag, v.FullName()); err != nil {
			return err
		}
	}
	return nil
}

// yield hands snapshots that others are clones of to the newest such clone: a share
// made from this one's snapshot, or data put aside, outlive this dataset.
func (w *Worker) yield(ctx context.Context, dataset string) error {
	list, err := w.cfg.Engine.Datasets(ctx, w.l.root())
	if err != nil {
		return fmt.Errorf("list clones: %w", err)
	}
	for _, d := range list {
		if strings.HasPrefix(d.Origin, dataset+"@") {
			return w.yieldTo(ctx, d, dataset)
		}
	}
	return &zfs.Error{Op: "destroy", Object: dataset, Class: zfs.ErrHasClones, Text: "clones outside " + w.l.root()}
}

// yieldTo makes a clone the owner of its origin, and with it of all that is left before
// that. In another share those are no user's snapshots, and are renamed before.
func (w *Worker) yieldTo(ctx context.Context, clone zfs.Dataset, dataset string) error {
	if marksOf(clone).role != roleDivergent {
		left, err := w.cfg.Engine.Versions(ctx, dataset)
		if err != nil {
			return fmt.Errorf("list snapshots: %w", err)
		}
		for _, v := range left {
			id, users := strings.CutPrefix(v.Name, userPrefix)
			if !users || v.Kind != zfs.KindSnapshot {
				continue
			}
			if err := w.cfg.Engine.RenameSnapshot(ctx, dataset, v.Name, retiredPrefix+id); err != nil {
				return fmt.Errorf("rename snapshot of clones: %w", err)
			}
		}
	}
	if err := w.cfg.Engine.Promote(ctx, clone.Name); err != nil {
		return fmt.Errorf("promote clone: %w", err)
	}
	return nil
}

func (w *Worker) dropStaging(ctx context.Context) error {
	if err := w.dropSnapshots(ctx, w.l.staging()); err != nil {
		return err
	}
	return w.cfg.Engine.Destroy(ctx, w.l.staging())
}
