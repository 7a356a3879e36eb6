package dirzfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
	"tarn/zfs/dirzfs/internal/wire"
)

// Send starts a stream. The snapshot cannot be destroyed until it is closed.
func (h *Host) Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error) {
	pl, release, err := h.plan(ctx, req)
	if err != nil {
		return nil, fail("send", req.Dataset+"@"+req.To, err)
	}
	return newSender(ctx, pl, release), nil
}

// frame is a record on its way through the sender: enumerated in order, read in
// parallel, given out in order.
type frame struct {
	typ   wire.Type
	hash  tree.Hash
	buf   []byte // header, payload, trailer
	ready chan struct{}
}

// sender is a running stream.
type sender struct {
	pl      *plan
	release func()
	cancel  context.CancelFunc
	group   *errgroup.Group
	ctx     context.Context // of the group
	order   chan *frame
	free    chan []byte

	framer wire.Framer
	cur    []byte // sealed bytes not given out yet
	whole  []byte // the buffer of cur, to be used again
	err    error  // sticky end of the stream
	closed bool
}

// queue is how many chunks are read ahead.
const queue = 16

func newSender(ctx context.Context, pl *plan, release func()) *sender {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(pl.p.closing, cancel)
	s := &sender{
		pl: pl, cancel: func() { stop(); cancel() }, order: make(chan *frame, queue), free: make(chan []byte, 2*queue),
		release: release,
	}
	s.group, s.ctx = errgroup.WithContext(ctx)
	work := make(chan *frame, queue)
	pl.p.ops.Add(1 + runtime.NumCPU())
	s.group.Go(func() error {
		defer pl.p.ops.Done()
		defer close(work)
		defer close(s.order)
		return s.enumerate(work)
	})
	for range runtime.NumCPU() {
		s.group.Go(func() error {
			defer pl.p.ops.Done()
			return s.load(work)
		})
	}
	s.cur = s.framer.Start()
	return s
}

// enumerate walks the difference and queues its records.
func (s *sender) enumerate(work chan<- *frame) error {
	if err := s.queueJSON(wire.Head, s.pl.head); err != nil {
		return err
	}
	d := newDiffer(s.pl.p.store.Object, s.pl.p.store.Object)
	var items int64
	d.chunk = func(h tree.Hash, length int) error {
		if items++; items <= s.pl.head.Skip {
			return nil
		}
		f := &frame{typ: wire.Chunk, hash: h, buf: s.buffer(length + wire.Overhead), ready: make(chan struct{})}
		if err := send(s.ctx, s.order, f); err != nil {
			return err
		}
		return send(s.ctx, work, f)
	}
	d.object = func(_ tree.Hash, payload []byte) error {
		if items++; items <= s.pl.head.Skip {
			return nil
		}
		return s.queueBytes(wire.Object, payload)
	}
	if err := d.learn(s.pl.head.FromRoot, s.pl.head.ToRoot); err != nil {
		return err
	}
	if err := d.emit(s.pl.head.FromRoot, s.pl.head.ToRoot); err != nil {
		return err
	}
	return s.queueJSON(wire.End, streamEnd{Items: items})
}

func send[T any](ctx context.Context, c chan<- T, v T) error {
	select {
	case c <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sender) queueJSON(t wire.Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode stream: %w", err)
	}
	return s.queueBytes(t, b)
}

func (s *sender) queueBytes(t wire.Type, payload []byte) error {
	f := &frame{typ: t, buf: make([]byte, len(payload)+wire.Overhead), ready: make(chan struct{})}
	copy(f.buf[wire.HeaderSize:], payload)
	close(f.ready)
	return send(s.ctx, s.order, f)
}

// buffer takes one of those that were given out already.
func (s *sender) buffer(n int) []byte {
	select {
	case b := <-s.free:
		if cap(b) >= n {
			return b[:n]
		}
	default:
	}
	return make([]byte, n, max(n, tree.ChunkSize+wire.Overhead))
}

// load reads and verifies chunks.
func (s *sender) load(work <-chan *frame) error {
	for f := range work {
		payload := f.buf[wire.HeaderSize : len(f.buf)-wire.TrailerSize]
		data, err := s.pl.p.store.Chunk(f.hash, payload)
		if err != nil {
			return err
		}
		if len(data) != len(payload) {
			return fmt.Errorf("%w: chunk %s has %d bytes", zfs.ErrPoolUnavailable, f.hash, len(data))
		}
		close(f.ready)
	}
	return nil
}

// Read gives the next bytes.
func (s *sender) Read(b []byte) (n int, err error) {
	for n < len(b) {
		if len(s.cur) == 0 {
			if n > 0 && len(s.order) == 0 || !s.next() {
				break
			}
		}
		k := copy(b[n:], s.cur)
		s.cur = s.cur[k:]
		n += k
	}
	if n == 0 && len(b) > 0 {
		return 0, s.err
	}
	return n, nil
}

// WriteTo writes the whole stream, in frames or bundles of small ones.
func (s *sender) WriteTo(w io.Writer) (total int64, err error) {
	bundle := make([]byte, 0, 2*tree.ChunkSize)
	for len(s.cur) > 0 || s.next() {
		bundle = append(bundle, s.cur...)
		s.cur = nil
		if len(bundle) < tree.ChunkSize/2 && len(s.order) > 0 {
			continue
		}
		n, err := w.Write(bundle)
		total += int64(n)
		if err != nil {
			return total, err
		}
		bundle = bundle[:0]
	}
	if errors.Is(s.err, io.EOF) {
		n, err := w.Write(bundle)
		return total + int64(n), err
	}
	return total, s.err
}

// next makes the following frame the current bytes.
func (s *sender) next() bool {
	if s.err != nil {
		return false
	}
	if s.whole != nil {
		select {
		case s.free <- s.whole:
		default:
		}
		s.whole = nil
	}
	f, ok := <-s.order
	if ok {
		select {
		case <-f.ready:
		case <-s.ctx.Done():
			// A reader failed, or everything is loaded and the group is done.
			select {
			case <-f.ready:
			default:
				ok = false
			}
		}
	}
	if !ok {
		s.finish()
		return false
	}
	s.framer.Seal(f.typ, f.buf)
	s.cur = f.buf
	if f.typ == wire.Chunk {
		s.whole = f.buf
	}
	return true
}

// finish waits for the workers: their error is the end of the stream, else EOF.
func (s *sender) finish() {
	if err := s.group.Wait(); err != nil {
		s.err = fail("send", s.pl.head.Dataset+"@"+s.pl.head.Snapshot, err)
		return
	}
	s.err = io.EOF
}

// Close ends the stream. It gives the sender's own error; closing before the end
// is not one.
func (s *sender) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	early := s.err == nil
	s.cancel()
	err := s.group.Wait()
	s.release()
	if s.err == nil {
		s.err = fail("send", s.pl.head.Dataset+"@"+s.pl.head.Snapshot, fmt.Errorf("closed: %w", context.Canceled))
	}
	if early && errors.Is(err, context.Canceled) {
		return nil
	}
	return fail("send", s.pl.head.Dataset+"@"+s.pl.head.Snapshot, err)
}
