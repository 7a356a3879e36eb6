package privsep

import (
	"fmt"
	"slices"
	"strings"
)

// What a dataset at or below the base may be. Mounting follows links, and what is in a
// file system is its writers' to make: so nothing is ever mounted, by whatever verb, but
// directly below a directory that root made.
type kind int

const (
	kindNone    kind = iota
	kindBase         // POOL/BASE, which holds no data
	kindDir          // POOL/BASE/.DIR, likewise
	kindReplica      // POOL/BASE/NAME, mounted at PLACE/NAME
	kindKept         // POOL/BASE/.DIR/NAME: arriving, or put aside
)

// kind is told by the name alone.
func (p Policy) kind(dataset string) kind {
	if p.Owned(dataset) != nil {
		return kindNone
	}
	parts := strings.Split(dataset, "/")[2:]
	hidden := len(parts) > 0 && strings.HasPrefix(parts[0], ".")
	switch {
	case len(parts) == 0:
		return kindBase
	case len(parts) == 1 && hidden:
		return kindDir
	case len(parts) == 1:
		return kindReplica
	case len(parts) == 2 && hidden && !strings.HasPrefix(parts[1], "."):
		return kindKept
	}
	return kindNone
}

// is allows datasets of some kinds.
func (p Policy) is(kinds ...kind) func(dataset string) error {
	return func(dataset string) error {
		if err := p.Owned(dataset); err != nil {
			return err
		}
		if !p.trees && !slices.Contains(kinds, p.kind(dataset)) {
			return fmt.Errorf("dataset %s is not where one of this kind belongs", dataset)
		}
		return nil
	}
}

// place is the one directory where a dataset may be mounted; "" for none.
func (p Policy) place(dataset string) string {
	pool, rest, _ := strings.Cut(dataset, "/")
	known, _ := p.pool(pool)
	switch p.kind(dataset) {
	case kindBase:
		return p.mounts(known)
	case kindReplica:
		return p.mounts(known) + strings.TrimPrefix(rest, p.Base)
	}
	return ""
}

// placed holds the mountpoints among assignments against the dataset that gets them.
func (p Policy) placed(dataset string, assignments []string) error {
	for _, a := range assignments {
		dir, ok := strings.CutPrefix(a, "mountpoint=")
		if ok && dir != "none" && (dir == "" || dir != p.place(dataset)) {
			return fmt.Errorf("%.300q is not where dataset %s is mounted", dir, dataset)
		}
	}
	return nil
}

// unmounted demands of what is made, but for replicas and the base, that it is not
// mounted in the same breath.
func (p Policy) unmounted(dataset string, assignments []string) error {
	if k := p.kind(dataset); p.trees || k == kindBase || k == kindReplica {
		return nil
	}
	if !slices.Contains(assignments, "canmount=off") && !slices.Contains(assignments, "canmount=noauto") {
		return fmt.Errorf("dataset %s would be mounted: canmount=off or noauto is needed", dataset)
	}
	return nil
}

// harmless demands of the base what all below it inherits: files that a stream brings give
// nobody rights on this machine, and are shared by nobody but tarn.
func (p Policy) harmless(dataset string, assignments []string) error {
	if p.kind(dataset) != kindBase {
		return nil
	}
	for _, needed := range []string{"setuid=off", "devices=off", "sharenfs=off"} {
		if !slices.Contains(assignments, needed) {
			return fmt.Errorf("dataset %s needs %s, which those below it inherit", dataset, needed)
		}
	}
	return nil
}
