package dirzfs

import (
	"context"
	"errors"
	"fmt"

	"tarn/zfs"
)

// giveUp keeps what came of a stream that failed, or removes its traces.
func (r *receiver) giveUp(cause error) error {
	flushErr := r.awaitFlush()
	if !r.req.Resumable || flushErr != nil || r.items == 0 || r.hopeless(cause) {
		return errors.Join(flushErr, r.batch.Close(), r.p.forget(r.ds))
	}
	if r.ended {
		return errors.Join(r.batch.Close(), r.keepWindows())
	}
	return r.flush(false)
}

// keepWindows keeps what came before the last window, which comes again. If that was all,
// nothing is left to go on from, and a dataset that was made for it would be in the way.
func (r *receiver) keepWindows() error {
	var part *partialRec
	err := r.p.view(func(m meta) (err error) { part, err = m.partial(r.ds.GUID); return err })
	if err != nil || part != nil {
		return err
	}
	return r.p.forget(r.ds)
}

// hopeless tells whether the same stream would fail again: one that was complete
// and does not fit together.
func (r *receiver) hopeless(cause error) bool {
	return r.ended && (errors.Is(cause, zfs.ErrStreamCorrupt) || errors.Is(cause, zfs.ErrExists))
}

// forget drops half-received state; a dataset that a full stream was to create
// goes with it.
func (p *pool) forget(ds *datasetRec) error {
	var gone bool
	err := p.update(func(m meta) error {
		now, err := m.byGUID(ds.GUID)
		if err != nil {
			return err
		}
		if gone = now.Inconsistent; gone {
			return m.deleteDataset(now)
		}
		return m.dropPartial(now.GUID)
	})
	p.sweep()
	if err != nil || !gone {
		return err
	}
	return p.removeHead(ds)
}

// AbortReceive drops half-received state; zfs.ErrNotResumable when there is none.
func (h *Host) AbortReceive(ctx context.Context, dataset string) error {
	p, err := h.dataset(ctx, dataset)
	if err != nil {
		return fail("receive", dataset, err)
	}
	recs, unlock, err := p.lockHeads(ctx, dataset)
	if err != nil {
		return fail("receive", dataset, err)
	}
	defer unlock()
	return fail("receive", dataset, p.abort(recs[dataset]))
}

func (p *pool) abort(ds *datasetRec) error {
	if p.busy.isReceiving(ds.GUID) {
		return fmt.Errorf("%w: a receive into %s is running", zfs.ErrBusy, ds.Name)
	}
	var part *partialRec
	err := p.view(func(m meta) (err error) { part, err = m.partial(ds.GUID); return err })
	if err != nil {
		return err
	}
	if part == nil && !ds.Inconsistent {
		return fmt.Errorf("%w: %s", zfs.ErrNotResumable, ds.Name)
	}
	return p.forget(ds)
}
