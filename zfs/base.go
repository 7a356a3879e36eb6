package zfs

// Relation tells how a target's history stands to its source's.
type Relation int

// Relations that IncrementalBase distinguishes.
const (
	RelationEmpty       Relation = iota // the target has no snapshot: full stream
	RelationUpToDate                    // the target's newest is the source's newest
	RelationIncremental                 // base is the target's newest; the source has newer ones
	RelationDiverged                    // the target has snapshots newer than the base
	RelationUnrelated                   // the target has snapshots, none known to the source
)

// String names the relation for messages.
func (r Relation) String() string {
	names := [...]string{"empty", "up to date", "incremental", "diverged", "unrelated"}
	if r < 0 || int(r) >= len(names) {
		return "unknown"
	}
	return names[r]
}

// IncrementalBase finds the newest GUID that the source still has, as snapshot
// or bookmark, and the target has as snapshot. Both lists may be in any order:
// createtxg decides, each inside its own list (it means nothing across pools).
// A snapshot is preferred over a bookmark of the same GUID, since its stream can
// be estimated. base is zero for RelationEmpty and RelationUnrelated.
//
// A source whose base is its newest version while the target's newest is that
// same version is up to date, whatever older bookmarks say.
func IncrementalBase(source, target []Version) (base Version, rel Relation) {
	newest, ok := newestSnapshot(target)
	if !ok {
		return Version{}, RelationEmpty
	}
	have := make(map[GUID]uint64, len(target))
	for _, v := range target {
		if v.Kind == KindSnapshot {
			have[v.GUID] = v.CreateTXG
		}
	}
	found := false
	for _, v := range source {
		txg, common := have[v.GUID]
		if common && (!found || newerBase(v, txg, base, have[base.GUID])) {
			base, found = v, true
		}
	}
	return base, relate(source, newest, base, found)
}

// newerBase orders candidates by the target's createtxg: that is the history
// that has to be continued.
func newerBase(v Version, txg uint64, best Version, bestTXG uint64) bool {
	if txg != bestTXG {
		return txg > bestTXG
	}
	return v.Kind == KindSnapshot && best.Kind == KindBookmark
}

func relate(source []Version, targetNewest, base Version, found bool) Relation {
	if !found {
		return RelationUnrelated
	}
	if base.GUID != targetNewest.GUID {
		return RelationDiverged
	}
	if s, ok := newestSnapshot(source); ok && s.CreateTXG > base.CreateTXG {
		return RelationIncremental
	}
	return RelationUpToDate
}

func newestSnapshot(list []Version) (newest Version, ok bool) {
	for _, v := range list {
		if v.Kind == KindSnapshot && (!ok || v.CreateTXG > newest.CreateTXG) {
			newest, ok = v, true
		}
	}
	return newest, ok
}
