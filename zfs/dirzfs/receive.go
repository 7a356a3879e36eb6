package dirzfs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

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

// readBody stores what comes until the end record.
func (r *receiver) readBody(ctx context.Context) (streamEnd, error) {
	for {
		window, err := r.readWindow(ctx)
		if err != nil || window.end != nil {
			return deref(window.end), err
		}
		if err := r.flush(true); err != nil {
			return streamEnd{}, err
		}
	}
}

func deref(e *streamEnd) streamEnd {
	if e == nil {
		return streamEnd{}
	}
	return *e
}

// window is a run of records between two commits.
type window struct{ end *streamEnd }

// readWindow reads until the batch is full or the stream ends. Hashing happens in
// the background; on return it is complete.
func (r *receiver) readWindow(ctx context.Context) (w window, err error) {
	g := &errgroup.Group{}
	g.SetLimit(runtime.NumCPU() + 1)
	var items, bytes int64
	for size := int64(0); size < r.p.window && w.end == nil && err == nil; {
		var n int
		if n, err = r.readRecord(ctx, g, &w); err == nil && w.end == nil {
			items, bytes, size = items+1, bytes+int64(n), size+int64(n)
		}
	}
	if waitErr := g.Wait(); waitErr != nil { // the window has gaps: it does not count
		return w, errors.Join(waitErr, r.batch.Close())
	}
	r.items, r.bytes = r.items+items, r.bytes+bytes
	return w, err
}

func (r *receiver) readRecord(ctx context.Context, g *errgroup.Group, w *window) (n int, err error) {
	if err := errors.Join(ctx.Err(), r.p.closing.Err()); err != nil {
		return 0, fmt.Errorf("%w: %w", zfs.ErrStreamTruncated, err)
	}
	var buf *[]byte
	typ, payload, err := r.wire.Next(func(n int) []byte {
		if n > tree.ChunkSize {
			return make([]byte, n)
		}
		buf = r.buffers.Get().(*[]byte)
		return *buf
	})
	if err != nil {
		return 0, streamError(err)
	}
	switch typ {
	case wire.Chunk:
		g.Go(func() error {
			defer r.buffers.Put(buf)
			return r.batch.Chunk(tree.Sum(payload), payload)
		})
	case wire.Object:
		err = r.object(append([]byte(nil), payload...))
	case wire.End:
		w.end = &streamEnd{}
		err = json.Unmarshal(payload, w.end)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", zfs.ErrStreamCorrupt, err)
	}
	return len(payload), nil
}

// object takes a node of the tree, if it is well formed.
func (r *receiver) object(payload []byte) error {
	if _, _, err := tree.Children(payload); err != nil {
		return err
	}
	return r.batch.Object(tree.Sum(payload), payload)
}

// flush makes the window durable. In the background, the next one is read
// meanwhile; otherwise it is on return.
func (r *receiver) flush(background bool) error {
	if err := r.awaitFlush(); err != nil {
		return err
	}
	batch, rec := r.batch, r.rec
	rec.Items, rec.Bytes = r.items, r.bytes
	rec.Head.Skip = 0
	r.batch = r.p.store.NewBatch()
	done := make(chan error, 1)
	r.flushed = done
	go func() { done <- r.commitWindow(batch, rec) }() // awaited by awaitFlush before the receive returns
	if background {
		return nil
	}
	return r.awaitFlush()
}

func (r *receiver) awaitFlush() error {
	if r.flushed == nil {
		return nil
	}
	err := <-r.flushed
	r.flushed = nil
	return err
}

func (r *receiver) commitWindow(batch *store.Batch, rec partialRec) error {
	defer r.p.step("window committed")
	return commitBatch(batch, func(m meta) error {
		if err := batch.Stage(m.tx, uint64(r.ds.GUID)); err != nil {
			return missingIsCorrupt(err)
		}
		if !r.req.Resumable {
			return nil // recovery finds the stage without an owner and drops it
		}
		return put(m.tx.Bucket(bucketPartial), idKey(uint64(r.ds.GUID)), rec)
	})
}

// missingIsCorrupt: a stream that refers to what it did not bring is damaged.
func missingIsCorrupt(err error) error {
	if errors.Is(err, store.ErrMissing) {
		return fmt.Errorf("%w: %w", zfs.ErrStreamCorrupt, err)
	}
	return err
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

// giveUp keeps what came of a stream that failed, or removes its traces.
func (r *receiver) giveUp(cause error) error {
	flushErr := r.awaitFlush()
	if !r.req.Resumable || flushErr != nil || r.items == 0 || r.hopeless(cause) {
		return errors.Join(flushErr, r.batch.Close(), r.p.forget(r.ds))
	}
	if r.ended {
		return r.batch.Close() // earlier windows are kept, the last comes again
	}
	return r.flush(false)
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
