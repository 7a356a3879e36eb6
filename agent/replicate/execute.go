package replicate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Property values.
const (
	on     = "on"
	off    = "off"
	noauto = "noauto"
	none   = "none"
)

// forceAfter is how many times an expired lease asks politely for an unmount.
const forceAfter = 2

// execute does one action. What it changes is read again before the next one,
// except where the outcome is certain.
func (w *Worker) execute(ctx context.Context, a action) error {
	switch a.kind {
	case doPull, doPullStaging:
		return w.startPull(ctx, a)
	case doExport, doUnexport:
		return w.expose(ctx, a)
	case doMount, doUnmount, doWritable, doReadOnly, doMark, doKeepFlags, doQuota:
		return w.change(ctx, a)
	}
	w.stale = true
	return w.transform(ctx, a)
}

// transform does the actions after which everything is looked at again.
func (w *Worker) transform(ctx context.Context, a action) error {
	e := w.cfg.Engine
	switch a.kind {
	case doCreate:
		return w.create(ctx)
	case doClone:
		return w.cloneLocal(ctx)
	case doAdopt:
		return w.adoptStaging(ctx)
	case doAbort:
		err := w.abort(ctx, w.s.f.ds, w.whyAborted())
		w.s.deadToken = false
		return err
	case doAbortStaging:
		err := w.abort(ctx, w.s.f.staging, w.whyAborted())
		w.s.deadToken = false
		return err
	case doLoadKey:
		return w.loadKey(ctx)
	case doHoldLast:
		return w.holdLast(ctx)
	case doReadLog:
		return w.readLog(ctx)
	case doSealHead:
		return w.sealHead(ctx)
	case doPutAside:
		return w.putAside(ctx)
	case doRebase:
		return w.rebase(ctx)
	case doPromote:
		return e.Promote(ctx, w.l.dataset())
	case doFinishAside:
		return w.finishAside(ctx)
	case doFinal:
		return w.finalSnapshot(ctx)
	case doNotePeers:
		return w.notePeers(ctx)
	case doRetire:
		return w.retire(ctx)
	case doDropSnapshots:
		return w.dropSnapshots(ctx, w.l.dataset())
	case doDestroy:
		return e.Destroy(ctx, w.l.dataset())
	case doDropStaging:
		return w.dropStaging(ctx)
	case doGone:
		w.s.gone = true
		return nil
	}
	return w.manage(ctx, a)
}

// ignore drops an error of a class that says: already so.
func ignore(err, class error) error {
	if errors.Is(err, class) {
		return nil
	}
	return err
}

// change does the actions on the dataset whose outcome needs no second look.
func (w *Worker) change(ctx context.Context, a action) error {
	ds, name := w.s.f.ds, w.l.dataset()
	switch a.kind {
	case doMount:
		if err := w.cfg.Engine.Mount(ctx, name); err != nil {
			return err
		}
		ds.Mounted, w.s.released, w.s.opened = true, false, true
		w.mountSeen()
	case doUnmount:
		if err := w.unmount(ctx, name); err != nil {
			return err
		}
		ds.Mounted, w.s.released = false, true
		w.mountSeen()
		w.stale = true // written bytes are final only now
	case doWritable, doReadOnly:
		value := off
		if a.kind == doReadOnly {
			value = on
		}
		if err := w.cfg.Engine.Set(ctx, name, map[string]string{zfs.PropReadOnly: value}); err != nil {
			return err
		}
		ds.ReadOnly = a.kind == doReadOnly
	case doMark:
		if err := w.cfg.Engine.Set(ctx, name, a.marks.properties()); err != nil {
			return err
		}
		w.s.f.marks = a.marks
	case doKeepFlags:
		if err := w.cfg.Engine.Set(ctx, name, map[string]string{markFlags: w.s.flags}); err != nil {
			return err
		}
		w.stale = true
	case doQuota:
		return w.quota(ctx, name)
	}
	return nil
}

// unmount is polite, except when the right to write is over, by the lease or by
// another owner's epoch: then nobody may go on writing. A demotion waits for its
// writers, because what they write must not be lost.
func (w *Worker) unmount(ctx context.Context, name string) error {
	f, role := w.failures[doUnmount], w.s.a.GetRole()
	over := role == tarnv1.Role_ROLE_ACTIVE || role == tarnv1.Role_ROLE_SECONDARY && w.s.f.marks.role != roleReplica
	force := over && f != nil && f.count >= forceAfter
	return w.cfg.Engine.Unmount(ctx, name, force)
}

// unlimited are the properties of a dataset without limits, limited those of a share of
// a size. It is what the users see that counts, as df shows it: snapshots are kept for
// the sake of copies, by tarn's choice, and must not use up a share.
func unlimited() map[string]string {
	return map[string]string{zfs.PropQuota: none, zfs.PropRefQuota: none}
}

func limited(size int64) map[string]string {
	return map[string]string{zfs.PropQuota: none, zfs.PropRefQuota: strconv.FormatInt(size, 10)}
}

// quota limits an active replica to the share's size. A secondary has none: what
// fitted at the source must not be refused here for the sake of older snapshots.
func (w *Worker) quota(ctx context.Context, name string) error {
	if w.s.a.GetRole() != tarnv1.Role_ROLE_ACTIVE {
		if err := w.cfg.Engine.Set(ctx, name, unlimited()); err != nil {
			return err
		}
		w.s.f.ds.Quota, w.s.f.ds.RefQuota = 0, 0
		return nil
	}
	want := w.s.a.GetSizeGib() * gib
	err := w.cfg.Engine.Set(ctx, name, limited(want))
	if errors.Is(err, zfs.ErrNoSpace) || errors.Is(err, zfs.ErrQuota) {
		w.s.sizeRefused = want
		return nil
	}
	if err == nil {
		w.s.f.ds.Quota, w.s.f.ds.RefQuota, w.s.sizeRefused = 0, want, 0
	}
	return err
}

// expose changes what clients reach. Until the exporter has answered, it is unknown.
func (w *Worker) expose(ctx context.Context, a action) error {
	mountpoint := w.shown // of a dataset that is not there any more
	if w.s.f.ds != nil {
		mountpoint = w.s.f.ds.Mountpoint
	}
	w.s.export = nil
	if a.kind == doUnexport {
		if err := w.unexport(ctx, mountpoint); err != nil {
			return fmt.Errorf("remove export: %w", err)
		}
		w.s.export, w.paths, w.ruleErrs = &exportState{}, nil, nil
		return nil
	}
	want := w.s.a.GetExports()
	if want == nil {
		want = &tarnv1.Exports{}
	}
	paths, ruleErrs, err := w.cfg.Exports.Apply(ctx, mountpoint, want, a.readOnly)
	if err != nil {
		return fmt.Errorf("apply exports: %w", err)
	}
	w.paths, w.ruleErrs, w.shown = paths, ruleErrs, mountpoint
	w.s.export = &exportState{active: true, revision: want.GetRevision(), readOnly: a.readOnly, at: mountpoint}
	return nil
}

// unexport takes away what clients reach, and where they reached it last if the mountpoint
// was changed since. What has no mountpoint (none, legacy) nobody can reach.
func (w *Worker) unexport(ctx context.Context, mountpoint string) error {
	if w.shown != "" && w.shown != mountpoint {
		if err := w.cfg.Exports.Remove(ctx, w.shown); err != nil {
			return err
		}
	}
	w.shown = ""
	if mountpoint == "" {
		return nil
	}
	return w.cfg.Exports.Remove(ctx, mountpoint)
}

// resting are the properties of every dataset at rest: a host always boots
// non-writable (reliability 3.2).
func resting(m marks) map[string]string {
	props := m.properties()
	props[zfs.PropReadOnly], props[zfs.PropCanMount] = on, noauto
	return props
}

func (w *Worker) newMarks(role string) marks {
	a := w.s.a
	return marks{share: a.GetShareId(), replica: a.GetReplicaId(), role: role, epoch: a.GetEpoch()}
}

func (w *Worker) create(ctx context.Context) error {
	props := resting(w.newMarks(rolePrimary))
	if size := w.s.a.GetSizeGib(); size > 0 {
		props[zfs.PropRefQuota] = strconv.FormatInt(size*gib, 10)
	}
	secret, err := w.encryption()
	if err != nil {
		return err
	}
	maps.Copy(props, secret)
	w.s.released = true // nobody can have it open yet
	return w.cfg.Engine.Create(ctx, w.l.dataset(), props, true)
}

// cloneLocal starts a share from a snapshot of another one on this pool.
func (w *Worker) cloneLocal(ctx context.Context) error {
	src := w.s.a.GetCloneSource()
	from := layout{pool: w.l.pool, base: w.l.base, replica: src.GetSource().GetReplicaId()}.dataset()
	versions, err := w.cfg.Engine.Versions(ctx, from)
	if err != nil {
		return fmt.Errorf("list snapshots of the clone's source: %w", err)
	}
	f := facts{versions: versions}
	v, ok := f.holding(zfs.GUID(src.GetGuid()))
	if !ok {
		return &zfs.Error{Op: "clone", Object: from, Class: zfs.ErrNotExist, Text: "no snapshot of GUID " + zfs.GUID(src.GetGuid()).String()}
	}
	return w.cfg.Engine.Clone(ctx, v.FullName(), w.l.dataset(), resting(w.newMarks(rolePrimary)))
}

// adoptStaging gives a completely received dataset its marks and its name. The
// marks come first: a dataset of that name is never without them. One that takes the place
// of what was taken over once keeps that one's path, and can be given back like it.
func (w *Worker) adoptStaging(ctx context.Context) error {
	props := resting(w.newMarks(roleReplica))
	maps.Copy(props, w.s.f.managed())
	set := func(props map[string]string) error { return w.cfg.Engine.Set(ctx, w.l.staging(), props) }
	var err error
	if replaced := w.s.f.replaced(); replaced != "" {
		err = w.carrying(ctx, replaced, props, set)
	} else {
		err = set(props)
	}
	if err != nil {
		return fmt.Errorf("mark received dataset: %w", err)
	}
	if w.s.a.GetCloneSource() != nil {
		if err := w.renameCloned(ctx); err != nil {
			return err
		}
	}
	w.s.released = true // it was never mounted
	return w.cfg.Engine.Rename(ctx, w.l.staging(), w.l.dataset())
}

// renameCloned takes the snapshot that a new share started from out of the names
// of users' snapshots: it is the other share's, not this one's.
func (w *Worker) renameCloned(ctx context.Context) error {
	versions, err := w.cfg.Engine.Versions(ctx, w.l.staging())
	if err != nil {
		return fmt.Errorf("list received snapshots: %w", err)
	}
	name := replicationName(w.cfg.ShareID, w.s.a.GetEpoch(), 0)
	for _, v := range versions {
		if v.Kind == zfs.KindSnapshot && v.GUID == w.s.f.arrived && v.Name != name {
			return w.cfg.Engine.RenameSnapshot(ctx, w.l.staging(), v.Name, name)
		}
	}
	return nil
}

// parent makes one of the directories below the base, if it is missing.
func (w *Worker) parent(ctx context.Context, name string) error {
	props := map[string]string{zfs.PropCanMount: off, zfs.PropReadOnly: on}
	return ignore(w.cfg.Engine.Create(ctx, name, props, true), zfs.ErrExists)
}
