package replicate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// facts are what the storage says about one replica.
type facts struct {
	ds       *zfs.Dataset // nil: there is none
	away     string       // the name that it has now, if somebody renamed it
	marks    marks
	versions []zfs.Version // of ds, by createtxg
	staging  *zfs.Dataset
	// base is the snapshot that half an increment of ds stands on; 0 when there is none.
	base zfs.GUID
	// arrived is the snapshot that a full stream left in staging, complete.
	arrived zfs.GUID
	// asides are finished divergent copies.
	asides []zfs.Dataset
	// moved is a dataset put aside by a rebase that has not ended.
	moved *zfs.Dataset
	// former is what is under the dataset's former name, nil for nothing; orphan: that
	// name has no parent any more.
	former *former
	orphan bool
}

// newest is the newest snapshot of the dataset; zero if there is none.
func (f *facts) newest() zfs.Version {
	for i := len(f.versions) - 1; i >= 0; i-- {
		if f.versions[i].Kind == zfs.KindSnapshot {
			return f.versions[i]
		}
	}
	return zfs.Version{}
}

// flags of the streams by which the dataset came to be; "" when that is not known.
func (f *facts) flags() string {
	if f.ds == nil {
		return ""
	}
	return local(*f.ds, markFlags)
}

// named finds a snapshot by name.
func (f *facts) named(name string) (zfs.Version, bool) {
	for _, v := range f.versions {
		if v.Kind == zfs.KindSnapshot && v.Name == name {
			return v, true
		}
	}
	return zfs.Version{}, false
}

// holding finds a snapshot by GUID.
func (f *facts) holding(guid zfs.GUID) (zfs.Version, bool) {
	for _, v := range f.versions {
		if guid != 0 && v.Kind == zfs.KindSnapshot && v.GUID == guid {
			return v, true
		}
	}
	return zfs.Version{}, false
}

// have lists the GUIDs of the snapshots, newest first.
func (f *facts) have() []zfs.GUID {
	var list []zfs.GUID
	for i := len(f.versions) - 1; i >= 0; i-- {
		if f.versions[i].Kind == zfs.KindSnapshot {
			list = append(list, f.versions[i].GUID)
		}
	}
	return list
}

// moved returns the common GUID of an unfinished rebase.
func (f *facts) common() zfs.GUID {
	if f.moved == nil {
		return 0
	}
	g, _ := marksOf(*f.moved).rebase()
	return g
}

// lastAside is the copy of a kind that was put aside last; without a name if there is none.
func (f *facts) lastAside(kind func(zfs.Dataset) bool) (last zfs.Dataset) {
	for _, d := range f.asides {
		if kind(d) && (last.Name == "" || local(d, markSince) > local(last, markSince)) {
			last = d
		}
	}
	return last
}

// replaced is the dataset in whose place everything is sent again; "" if there is none.
func (f *facts) replaced() string {
	return f.lastAside(func(d zfs.Dataset) bool { return local(d, markBase) == zfs.GUID(0).String() }).Name
}

// managed are the marks of what was taken over and is put aside by now; none if nothing was.
func (f *facts) managed() map[string]string {
	last := f.lastAside(func(d zfs.Dataset) bool { return local(d, markWas) != "" })
	kept := map[string]string{}
	for _, mark := range []string{markFrom, markWas} {
		if value := local(last, mark); value != "" {
			kept[mark] = value
		}
	}
	return kept
}

// observe reads everything anew.
func (w *Worker) observe(ctx context.Context, l layout) (facts, error) {
	var f facts
	var err error
	if f.ds, err = w.dataset(ctx, l.dataset()); err == nil && f.ds == nil {
		f.ds, f.away, err = w.surelyMissing(ctx, l)
	} else if err != nil {
		f.ds, err = w.unmeasured(ctx, l, err)
	}
	if err != nil {
		return f, err
	}
	if f.ds != nil {
		w.seek = true
		f.marks = marksOf(*f.ds)
		if f.versions, err = w.cfg.Engine.Versions(ctx, l.dataset()); err != nil {
			return f, fmt.Errorf("list versions: %w", err)
		}
		f.base = w.baseOfHalf(ctx, f.ds.ResumeToken)
	}
	if err := w.observeStaging(ctx, l, &f); err != nil {
		return f, err
	}
	if err := w.observeFormer(ctx, &f); err != nil {
		return f, err
	}
	return f, w.observeAsides(ctx, l, &f)
}

// baseOfHalf reads from a token what the increment begins at. Of one that cannot be read
// the source says so.
func (w *Worker) baseOfHalf(ctx context.Context, token string) zfs.GUID {
	if token == "" {
		return 0
	}
	info, err := w.cfg.Engine.DecodeToken(ctx, token)
	if err != nil {
		return 0
	}
	return info.FromGUID
}

// surelyMissing looks again at a dataset that was not found: with an exported pool
// all of its datasets seem to be gone, and neither may they be made anew then, nor
// reported as removed. Away is the name that it has if somebody renamed it.
func (w *Worker) surelyMissing(ctx context.Context, l layout) (ds *zfs.Dataset, away string, err error) {
	pool, err := w.dataset(ctx, l.pool)
	if err == nil && pool == nil {
		err = &zfs.Error{Op: "get", Object: l.pool, Class: zfs.ErrPoolUnavailable, Text: "the pool is not imported"}
	}
	if err == nil {
		away, err = w.whereabouts(ctx, l)
	}
	if err != nil || away != "" {
		return nil, away, err
	}
	// The pool may have come back in between, or the dataset to its name.
	ds, err = w.dataset(ctx, l.dataset())
	return ds, "", err
}

func (w *Worker) dataset(ctx context.Context, name string) (*zfs.Dataset, error) {
	d, err := w.cfg.Engine.Dataset(ctx, name)
	if errors.Is(err, zfs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at dataset: %w", err)
	}
	return &d, nil
}

// unmeasured looks at a dataset whose files could not be measured, as where there is no
// space to bring them, in roles in which it does not matter what was written: the copy's
// own retention, or its removal, may be what makes room, and an owner goes on serving. It
// gives why it cannot where it cannot.
func (w *Worker) unmeasured(ctx context.Context, l layout, why error) (*zfs.Dataset, error) {
	list, err := w.cfg.Engine.Datasets(ctx, l.dataset())
	if err != nil {
		return nil, why
	}
	for _, d := range list {
		if d.Name == l.dataset() && d.Written < 0 && careless(w.s.a.GetRole(), marksOf(d).role) {
			w.log.Warn("files could not be measured", "dataset", d.Name, "err", why)
			return &d, nil
		}
	}
	return nil, why
}

// careless reports that nothing is decided by what was written to a dataset of a role.
func careless(as tarnv1.Role, role string) bool {
	switch as {
	case tarnv1.Role_ROLE_ACTIVE:
		return role == rolePrimary
	case tarnv1.Role_ROLE_SECONDARY:
		return role == roleReplica
	}
	return as == tarnv1.Role_ROLE_DELETING
}

func (w *Worker) observeStaging(ctx context.Context, l layout, f *facts) error {
	var err error
	if f.staging, err = w.dataset(ctx, l.staging()); err != nil || f.staging == nil || f.staging.ResumeToken != "" {
		return err
	}
	list, err := w.cfg.Engine.Versions(ctx, l.staging())
	if err != nil {
		return fmt.Errorf("list staging: %w", err)
	}
	for _, v := range list {
		if v.Kind == zfs.KindSnapshot {
			f.arrived = v.GUID
		}
	}
	return nil
}

func (w *Worker) observeAsides(ctx context.Context, l layout, f *facts) error {
	list, err := w.cfg.Engine.Datasets(ctx, l.divergents())
	if errors.Is(err, zfs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list divergent copies: %w", err)
	}
	for _, d := range list {
		m := marksOf(d)
		if !strings.HasPrefix(path.Base(d.Name), l.replica+"-") || m.replica != l.replica {
			continue
		}
		if m.role == roleDivergent {
			f.asides = append(f.asides, d)
		} else {
			f.moved = &d
		}
	}
	return nil
}
