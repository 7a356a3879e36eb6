package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/durationpb"

	tarnv1 "tarn/proto/tarn/v1"
)

// Pull is a running stream from a source. Read it to the end, then Finish.
// Progress may be called from any goroutine, the rest from one.
type Pull struct {
	// Step is what the stream brings.
	Step Step
	// Moved hears of the bytes as they arrive; set before the first Read, optional.
	Moved func(n int)

	ctx     context.Context // of this one request: ends the read
	cancel  context.CancelCauseFunc
	resp    *http.Response
	plain   *net.TCPConn // brings the bytes when the answer's body does not
	nothing func()       // told when plain ended without a byte: it may not have been let in
	buffers *sync.Pool   // of *[]byte, bufferSize
	limit   *rate.Limiter
	stall   time.Duration
	// patience of Finish.
	patience time.Duration
	started  time.Time
	done     atomic.Int64
}

func newPull(ctx context.Context, cancel context.CancelCauseFunc, step Step, resp *http.Response, stall time.Duration, bytesPerSecond int64, buffers *sync.Pool) *Pull {
	p := &Pull{Step: step, ctx: ctx, cancel: cancel, resp: resp, stall: stall, patience: endPatience, started: time.Now(), buffers: buffers}
	if bytesPerSecond > 0 {
		// A burst of a tenth of a second keeps small steps quick and the line smooth.
		burst := max(int(min(bytesPerSecond/10, bufferSize)), 4<<10)
		p.limit = rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
	}
	return p
}

// Read gives the stream's bytes. It fails with ErrStalled when none arrives for
// the stall limit; time that the reader itself takes does not count.
func (p *Pull) Read(b []byte) (int, error) {
	n, err := p.read(b[:min(len(b), p.most())])
	return n, p.took(n, err)
}

func (p *Pull) read(b []byte) (int, error) {
	if p.plain != nil {
		p.arm()
		return p.plain.Read(b)
	}
	watch := time.AfterFunc(p.stall, func() { p.cancel(ErrStalled) })
	defer watch.Stop()
	return p.resp.Body.Read(b)
}

// WriteTo moves the whole stream to w, which io.Copy prefers to Read: inside the
// kernel where that is possible. Limits are those of Read.
func (p *Pull) WriteTo(w io.Writer) (int64, error) {
	begun := p.done.Load()
	var err error
	if s := p.splicer(w); s != nil {
		err = p.splice(s)
	} else {
		buf := p.buffers.Get().(*[]byte)
		defer p.buffers.Put(buf)
		// Without the wrappers it would come back here, or take a smaller buffer.
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{p}, *buf)
	}
	return p.done.Load() - begun, err
}

func (p *Pull) splicer(w io.Writer) *splicer {
	if p.plain == nil {
		return nil
	}
	return newSplicer(w, p.plain)
}

func (p *Pull) splice(s *splicer) error {
	for {
		n, err := s.move(p.most(), p.arm)
		if err = p.took(n, err); errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *Pull) arm() { _ = p.plain.SetReadDeadline(time.Now().Add(p.stall)) }

// most is how many bytes may be taken at once.
func (p *Pull) most() int {
	if p.limit == nil {
		return math.MaxInt
	}
	return p.limit.Burst()
}

// took counts what arrived and waits for the rate limit; err is made clearer.
func (p *Pull) took(n int, err error) error {
	p.done.Add(int64(n))
	if n > 0 && p.Moved != nil {
		p.Moved(n)
	}
	if err != nil && p.plain != nil && p.done.Load() == 0 {
		p.nothing()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = p.broken(err)
	}
	if p.limit != nil && n > 0 {
		if lerr := p.limit.WaitN(p.ctx, n); lerr != nil && err == nil {
			err = p.broken(lerr)
		}
	}
	return err
}

// broken says why reading ended: a cancelled context knows better than the socket. A
// splice also fails when the pipe's reader is gone, which says nothing of the stream.
func (p *Pull) broken(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("write stream: %w", err)
	}
	if cause := context.Cause(p.ctx); cause != nil {
		return fmt.Errorf("read stream: %w", cause)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("read stream: %w", ErrStalled)
	}
	return fmt.Errorf("read stream: %v: %w", err, ErrUnreachable)
}

// endPatience is how long a sender may take, after its last byte, to say how it ended: it
// waits for its zfs send. Later that is no news to anybody.
const endPatience = 10 * time.Second

// Finish reads what is left, closes, and returns the sender's own result. It is
// the better explanation when a receive failed because its stream ended early. It ends
// after 10 s at the latest, with ErrStalled. Who does not want to know calls Close.
func (p *Pull) Finish() error {
	if p.resp == nil {
		return nil
	}
	defer p.Close()
	late := time.AfterFunc(p.patience, func() { p.cancel(fmt.Errorf("the sender did not say how it ended: %w", ErrStalled)) })
	defer late.Stop()
	// A receiver stops at the end of the stream, the trailer is behind it.
	if _, err := io.CopyN(io.Discard, p, bufferSize); !errors.Is(err, io.EOF) {
		if err == nil {
			return fmt.Errorf("receiver stopped before the end of the stream: %w", ErrUnknown)
		}
		return err
	}
	if p.plain != nil {
		if err := p.trailer(); err != nil {
			return err
		}
	}
	switch result := p.resp.Trailer.Get(headerResult); result {
	case "ok":
		return nil
	case "":
		return fmt.Errorf("stream without the sender's result: %w", ErrUnreachable)
	default:
		return decodeError([]byte(result))
	}
}

// trailer reads the end of the answer, whose bytes came by another way.
func (p *Pull) trailer() error {
	watch := time.AfterFunc(p.stall, func() { p.cancel(ErrStalled) })
	defer watch.Stop()
	if _, err := io.Copy(io.Discard, io.LimitReader(p.resp.Body, maxHeaderBytes)); err != nil {
		return p.broken(err)
	}
	return nil
}

// Close ends the stream wherever it is.
func (p *Pull) Close() {
	if p.resp == nil {
		return
	}
	p.cancel(nil)
	_ = p.resp.Body.Close()
	if p.plain != nil {
		_ = p.plain.Close()
	}
}

// Bytes is how many bytes of the stream arrived.
func (p *Pull) Bytes() int64 { return p.done.Load() }

// Progress describes the stream now; the rate is its average so far.
func (p *Pull) Progress() *tarnv1.TransferProgress {
	done, elapsed := p.done.Load(), time.Since(p.started)
	t := &tarnv1.TransferProgress{
		Kind: p.Step.Kind, FromGuid: uint64(p.Step.From), ToGuid: uint64(p.Step.To),
		ExpectedBytes: p.Step.Estimate, DoneBytes: done, Elapsed: durationpb.New(elapsed),
	}
	if s := elapsed.Seconds(); s > 0 {
		t.BytesPerSecond = float64(done) / s
	}
	if left := p.Step.Estimate - done; left > 0 && t.BytesPerSecond > 0 {
		t.Eta = durationpb.New(time.Duration(float64(left) / t.BytesPerSecond * float64(time.Second)))
	}
	return t
}
