package dirzfs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
	"tarn/zfs/dirzfs/internal/wire"
)

// receiveWindow is how many bytes a receive holds before they are made durable, and thus
// what a crash can cost of it.
const receiveWindow = 64 << 20

// Receive reads one stream to its end. nil means that the snapshot is durable; the
// files of a mounted filesystem show it then. A cut of ctx is noticed between
// records: close the stream to interrupt a read.
func (h *Host) Receive(ctx context.Context, req zfs.ReceiveRequest, stream io.Reader) error {
	p, err := h.snapshotOf(ctx, req.Target)
	if err != nil {
		return fail("receive", req.Target, err)
	}
	p.ops.Add(1)
	defer p.ops.Done()
	return fail("receive", req.Target, p.receive(ctx, req, stream))
}

// receiver is a running receive.
type receiver struct {
	p   *pool
	ds  *datasetRec
	rec partialRec
	req zfs.ReceiveRequest
	old *partialRec // what is continued
	// created: the dataset is new and goes again if nothing comes of it.
	created bool
	wire    *wire.Reader

	batch   *store.Batch
	ended   bool  // the stream was complete: what fails now is the commit
	items   int64 // received in all
	bytes   int64
	flushed chan error // of the commit that is running, if any
	buffers *sync.Pool
}

func (p *pool) receive(ctx context.Context, req zfs.ReceiveRequest, stream io.Reader) error {
	r := &receiver{p: p, req: req, buffers: newBuffers()}
	r.wire = wire.NewReader(bufio.NewReaderSize(stream, 1<<20), tree.MaxPayload)
	if err := r.readHead(); err != nil {
		return err
	}
	release, err := r.begin(ctx)
	if err != nil {
		if r.created {
			err = errors.Join(err, p.forget(r.ds))
		}
		return err
	}
	defer release()
	p.step("receive begun")
	r.batch = p.store.NewBatch()
	end, err := r.readBody(ctx)
	if err == nil {
		err = r.commit(ctx, end)
	}
	if err != nil {
		return errors.Join(err, r.giveUp(err))
	}
	p.sweep()
	return nil
}

func (r *receiver) readHead() error {
	if err := r.wire.Start(); err != nil {
		return streamError(err)
	}
	_, payload, err := r.wire.Next(func(n int) []byte { return make([]byte, n) })
	if err != nil {
		return streamError(err)
	}
	if err := json.Unmarshal(payload, &r.rec.Head); err != nil {
		return fmt.Errorf("%w: head: %w", zfs.ErrStreamCorrupt, err)
	}
	if err := r.rec.Head.validate(); err != nil {
		return fmt.Errorf("%w: head: %v", zfs.ErrStreamCorrupt, err) //nolint:errorlint // the inner class must not show
	}
	return nil
}

func streamError(err error) error {
	switch {
	case errors.Is(err, wire.ErrTruncated):
		return fmt.Errorf("%w: %w", zfs.ErrStreamTruncated, err)
	case errors.Is(err, wire.ErrCorrupt):
		return fmt.Errorf("%w: %w", zfs.ErrStreamCorrupt, err)
	}
	return err
}

// begin decides whether the stream fits its target and reserves it.
func (r *receiver) begin(ctx context.Context) (release func(), err error) {
	name, snap, err := zfs.ValidateSnapshot(r.req.Target)
	if err != nil {
		return nil, err
	}
	r.rec.Snap = snap
	props, err := r.p.checkProperties(name, r.req.Properties)
	if err != nil {
		return nil, err
	}
	if r.rec.Head.From == 0 && r.rec.Head.Skip == 0 {
		if err := r.createTarget(name, props); err != nil {
			return nil, err
		}
	}
	recs, unlock, err := r.p.lockHeads(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	r.ds = recs[name]
	if !r.p.busy.startReceive(r.ds.GUID) {
		return nil, fmt.Errorf("%w: another receive into %s is running", zfs.ErrBusy, name)
	}
	release = func() { r.p.busy.endReceive(r.ds.GUID) }
	if err := r.check(ctx); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// createTarget makes the dataset of a full stream, incomplete until its end.
func (r *receiver) createTarget(name string, props map[string]string) error {
	var ds *datasetRec
	err := r.p.update(func(m meta) (err error) {
		if old, err := m.dataset(name); err == nil {
			if part, err := m.partial(old.GUID); err != nil || part != nil {
				return errors.Join(err, fmt.Errorf("%w: %s", zfs.ErrResumable, name))
			}
		}
		if ds, err = r.p.newDataset(m, name, props); err != nil {
			return err
		}
		ds.Inconsistent = true
		return m.putDataset(ds)
	})
	if err != nil {
		return err
	}
	r.ds, r.created = ds, true
	return nil
}

// check holds the stream against the target as it is now.
func (r *receiver) check(ctx context.Context) error {
	head := r.rec.Head
	err := r.p.view(func(m meta) (err error) {
		if r.old, err = m.partial(r.ds.GUID); err != nil {
			return err
		}
		if err := r.checkContinuation(); err != nil {
			return err
		}
		if err := m.nameIsFree(r.ds, r.rec.Snap); err != nil {
			return err
		}
		return checkBase(m, r.ds, head)
	})
	if err != nil || head.From == 0 {
		return err
	}
	return r.p.checkUnmodified(ctx, r.ds)
}

func (p *pool) checkUnmodified(ctx context.Context, ds *datasetRec) error {
	written, err := p.written(ctx, ds)
	if err == nil && written > 0 {
		err = fmt.Errorf("%w: %d bytes of %s", zfs.ErrModified, written, ds.Name)
	}
	return err
}

func (r *receiver) checkContinuation() error {
	if r.old == nil {
		if r.rec.Head.Skip > 0 {
			return fmt.Errorf("%w: the stream continues one that is not here", zfs.ErrTokenInvalid)
		}
		return nil
	}
	if r.rec.Head.Skip == 0 {
		return fmt.Errorf("%w: %s", zfs.ErrResumable, r.ds.Name)
	}
	want := r.old.Head
	want.Skip = r.old.Items
	want.Dataset, want.Snapshot = r.rec.Head.Dataset, r.rec.Head.Snapshot // names may change, identity not
	if want != r.rec.Head {
		return fmt.Errorf("%w: the stream does not continue what %s has", zfs.ErrTokenInvalid, r.ds.Name)
	}
	r.items, r.bytes = r.old.Items, r.old.Bytes
	return nil
}

func checkBase(m meta, ds *datasetRec, head streamHead) error {
	list, err := m.snapshots(ds.GUID)
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.GUID == head.To {
			return fmt.Errorf("%w: %s@%s is the snapshot of the stream", zfs.ErrExists, ds.Name, s.Name)
		}
	}
	switch {
	case head.From == 0 && len(list) == 0 && ds.Inconsistent:
		return nil
	case head.From == 0:
		return fmt.Errorf("%w: %s", zfs.ErrExists, ds.Name)
	case len(list) == 0 || list[len(list)-1].GUID != head.From:
		return fmt.Errorf("%w: %s wants %v as its newest snapshot", zfs.ErrDiverged, ds.Name, head.From)
	case list[len(list)-1].Root != head.FromRoot:
		return fmt.Errorf("%w: the content of %v is another one", zfs.ErrStreamCorrupt, head.From)
	}
	return nil
}

// commit makes the snapshot, if everything it consists of is here and the target
// is still what the stream is for, and brings the files.
func (r *receiver) commit(ctx context.Context, end streamEnd) error {
	r.ended = true
	if end.Items != r.items {
		return fmt.Errorf("%w: %d records of %d", zfs.ErrStreamCorrupt, r.items, end.Items)
	}
	if err := r.awaitFlush(); err != nil {
		return err
	}
	recs, unlock, err := r.p.lockHeads(ctx, r.ds.Name)
	if err != nil {
		return err
	}
	defer unlock()
	ds := recs[r.ds.Name]
	if r.rec.Head.From != 0 {
		if err := r.p.checkUnmodified(ctx, ds); err != nil {
			return err
		}
	}
	lazy := ds.Pending && !ds.Started
	if err := commitBatch(r.batch, func(m meta) error { return r.record(m, ds) }); err != nil {
		return err
	}
	r.p.step("received")
	if lazy && !r.p.isMounted(ds) {
		return nil
	}
	return r.p.settle(ctx, ds)
}

func (r *receiver) record(m meta, ds *datasetRec) error {
	head := r.rec.Head
	if err := checkBase(m, ds, head); err != nil {
		return err
	}
	if err := m.nameIsFree(ds, r.rec.Snap); err != nil {
		return err
	}
	s := &snapRec{Name: r.rec.Snap, GUID: head.To, Creation: head.Creation, Root: head.ToRoot, Dataset: ds.GUID}
	if err := r.p.addSnapshot(m, ds, s); err != nil {
		return missingIsCorrupt(err)
	}
	ds.Inconsistent = false
	if err := m.want(ds, head.ToRoot, false); err != nil {
		return err
	}
	return m.dropPartial(ds.GUID)
}

// dropPartial forgets a receive that was cut, with all it stored.
func (m meta) dropPartial(ds zfs.GUID) error {
	if err := store.DropStage(m.tx, uint64(ds)); err != nil {
		return err
	}
	return m.tx.Bucket(bucketPartial).Delete(idKey(uint64(ds)))
}
