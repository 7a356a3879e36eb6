package dirzfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
	"tarn/zfs/dirzfs/internal/wire"
)

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
