package dirzfs

import (
	"context"
	"fmt"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
)

// Scrub verifies a pool: every stored chunk against its hash, every reference count
// against what refers to it, every dataset's files in exactly one place. An error
// means damage or a bug; nothing is repaired.
func (h *Host) Scrub(ctx context.Context, pool string) error {
	p, err := h.dataset(ctx, pool)
	if err != nil {
		return fail("scrub", pool, err)
	}
	var list []*datasetRec
	err = p.view(func(m meta) error {
		roots := store.Roots{}
		if list, err = m.below(p.name); err != nil {
			return err
		}
		for _, ds := range list {
			if err := m.collectRoots(ds, roots); err != nil {
				return err
			}
		}
		return store.Check(m.tx, roots)
	})
	if err != nil {
		return fail("scrub", pool, fmt.Errorf("%w: %w", zfs.ErrPoolUnavailable, err))
	}
	for _, ds := range list {
		if _, _, err := p.findHead(ds); err != nil {
			return fail("scrub", pool, err)
		}
	}
	return fail("scrub", pool, p.store.ReadAll())
}

func (m meta) collectRoots(ds *datasetRec, roots store.Roots) error {
	snaps, err := m.snapshots(ds.GUID)
	if err != nil {
		return err
	}
	marks, err := m.bookmarks(ds.GUID)
	if err != nil {
		return err
	}
	full := []tree.Hash{ds.At, ds.Want}
	for _, s := range snaps {
		full = append(full, s.Root)
	}
	roots[store.Full] = append(roots[store.Full], full...)
	for _, b := range marks {
		roots[store.Meta] = append(roots[store.Meta], b.Root)
	}
	return nil
}
