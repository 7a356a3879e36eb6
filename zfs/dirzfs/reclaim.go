package dirzfs

import (
	"context"
	"errors"

	"tarn/zfs/dirzfs/internal/store"
)

// errTried undoes a transaction that was only to be seen.
var errTried = errors.New("only tried")

// Reclaimable is the bytes of data that destroying exactly these snapshots of one
// filesystem would free, holds and clones aside. Nothing is changed.
func (h *Host) Reclaimable(ctx context.Context, dataset string, names ...string) (int64, error) {
	p, err := h.dataset(ctx, dataset)
	if err != nil {
		return 0, fail("destroy", dataset, err)
	}
	var freed int64
	err = p.update(func(m meta) error {
		ds, err := m.dataset(dataset)
		if err != nil {
			return err
		}
		before := store.Unused(m.tx)
		for _, n := range names {
			s, err := m.snapshot(ds, n)
			if err != nil {
				return err
			}
			if err := store.Unref(m.tx, s.Root, store.Full); err != nil {
				return err
			}
		}
		freed = store.Unused(m.tx) - before
		return errTried
	})
	if errors.Is(err, errTried) {
		return freed, nil
	}
	return 0, fail("destroy", dataset, err)
}
