package stream

import (
	"fmt"
	"slices"
	"strings"

	"tarn/zfs"
)

// UserPrefix starts the name of every snapshot that a user asked for.
const UserPrefix = "tarn-user-"

// plan is a Step together with the names that the send needs.
type plan struct {
	step Step
	base zfs.Version // zero for full streams
	to   zfs.Version
}

// choose picks the next step for a receiver that has the GUIDs in have, newest
// first. It is pure: versions are the source's, in any order.
//
// Users' snapshots travel one by one in the order of their creation; replication
// snapshots between them are skipped, so that a backlog costs one step.
func choose(versions []zfs.Version, have []zfs.GUID) (plan, error) {
	base, relation := zfs.IncrementalBase(versions, asVersions(have))
	switch relation {
	case zfs.RelationDiverged:
		return plan{}, &DivergedError{Common: base.GUID}
	case zfs.RelationUnrelated:
		return plan{}, ErrNoCommon
	case zfs.RelationEmpty, zfs.RelationIncremental, zfs.RelationUpToDate:
	}
	ahead := steps(versions, base)
	if relation == zfs.RelationEmpty && len(ahead) == 0 {
		return plan{}, ErrNothing
	}
	if len(ahead) == 0 {
		return plan{step: Step{Kind: KindNone, To: base.GUID, Head: base.GUID}, base: base}, nil
	}
	return newPlan(base, ahead), nil
}

func newPlan(base zfs.Version, ahead []zfs.Version) plan {
	to := ahead[0]
	kind := KindIncremental
	switch {
	case base.GUID == 0:
		kind = KindFull
	case base.Kind == zfs.KindBookmark:
		kind = KindBookmark
	}
	return plan{base: base, to: to, step: Step{
		Kind: kind, From: base.GUID, To: to.GUID, ToName: to.Name, Created: to.Creation,
		Head: ahead[len(ahead)-1].GUID, Behind: len(ahead),
	}}
}

// steps are the snapshots after base that have to travel: users' and the newest.
func steps(versions []zfs.Version, base zfs.Version) []zfs.Version {
	var after []zfs.Version
	for _, v := range versions {
		if v.Kind == zfs.KindSnapshot && (base.GUID == 0 || v.CreateTXG > base.CreateTXG) {
			after = append(after, v)
		}
	}
	slices.SortFunc(after, func(a, b zfs.Version) int { return compareTXG(a, b) })
	if len(after) == 0 {
		return nil
	}
	last := after[len(after)-1].GUID
	return slices.DeleteFunc(after, func(v zfs.Version) bool {
		return v.GUID != last && !strings.HasPrefix(v.Name, UserPrefix)
	})
}

func compareTXG(a, b zfs.Version) int {
	switch {
	case a.CreateTXG < b.CreateTXG:
		return -1
	case a.CreateTXG > b.CreateTXG:
		return 1
	}
	return 0
}

// asVersions gives the receiver's list the shape that IncrementalBase compares.
func asVersions(have []zfs.GUID) []zfs.Version {
	list := make([]zfs.Version, len(have))
	for i, g := range have {
		list[i] = zfs.Version{Kind: zfs.KindSnapshot, GUID: g, CreateTXG: uint64(len(have) - i)}
	}
	return list
}

// chooseExact plans a full stream of one snapshot.
func chooseExact(versions []zfs.Version, want zfs.GUID) (plan, error) {
	to, ok := find(versions, want, false)
	if !ok {
		return plan{}, fmt.Errorf("find snapshot %s: %w", want, zfs.ErrNotExist)
	}
	p := newPlan(zfs.Version{}, []zfs.Version{to})
	return p, nil
}

// chooseResume checks a decoded token against the dataset. A token comes from
// the other host: everything that it names must exist here under its GUID. One that
// another host gave, which was the source before, names a dataset of that host's: this
// one cannot go on with it, whatever snapshots the two have in common.
func chooseResume(dataset string, versions []zfs.Version, info zfs.TokenInfo) (plan, error) {
	if of, _, whole := strings.Cut(info.ToName, "@"); whole && of != dataset {
		return plan{}, fmt.Errorf("token is of dataset %s, not of %s: %w", of, dataset, zfs.ErrTokenInvalid)
	}
	to, ok := find(versions, info.ToGUID, false)
	if !ok || to.Name != snapshotPart(info.ToName) {
		return plan{}, fmt.Errorf("token names snapshot %s (%q) which is not here: %w", info.ToGUID, info.ToName, zfs.ErrTokenInvalid)
	}
	var base zfs.Version
	if info.FromGUID != 0 {
		if base, ok = find(versions, info.FromGUID, true); !ok {
			return plan{}, fmt.Errorf("token starts at %s which is not here: %w", info.FromGUID, zfs.ErrTokenInvalid)
		}
	}
	p := newPlan(base, []zfs.Version{to})
	p.step.Kind = KindResume
	if ahead := steps(versions, base); len(ahead) > 0 {
		p.step.Head, p.step.Behind = ahead[len(ahead)-1].GUID, len(ahead)
	}
	return p, nil
}

func snapshotPart(name string) string {
	if i := strings.LastIndexByte(name, '@'); i >= 0 {
		return name[i+1:]
	}
	return name
}

// find looks for a GUID; snapshots win over bookmarks.
func find(versions []zfs.Version, guid zfs.GUID, bookmarks bool) (found zfs.Version, ok bool) {
	for _, v := range versions {
		if v.GUID != guid || guid == 0 {
			continue
		}
		if v.Kind == zfs.KindSnapshot {
			return v, true
		}
		if bookmarks {
			found, ok = v, true
		}
	}
	return found, ok
}
