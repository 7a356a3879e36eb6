package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
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

	ctx     context.Context // of this one request: ends the read
	cancel  context.CancelCauseFunc
	resp    *http.Response
	limit   *rate.Limiter
	stall   time.Duration
	started time.Time
	done    atomic.Int64
}

func newPull(ctx context.Context, cancel context.CancelCauseFunc, step Step, resp *http.Response, stall time.Duration, bytesPerSecond int64) *Pull {
	p := &Pull{Step: step, ctx: ctx, cancel: cancel, resp: resp, stall: stall, started: time.Now()}
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
	if p.limit != nil && len(b) > p.limit.Burst() {
		b = b[:p.limit.Burst()]
	}
	watch := time.AfterFunc(p.stall, func() { p.cancel(ErrStalled) })
	n, err := p.resp.Body.Read(b)
	watch.Stop()
	p.done.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		err = p.broken(err)
	}
	if p.limit != nil && n > 0 {
		if lerr := p.limit.WaitN(p.ctx, n); lerr != nil && err == nil {
			err = p.broken(lerr)
		}
	}
	return n, err
}

// broken says why reading ended: a cancelled context knows better than the socket.
func (p *Pull) broken(err error) error {
	if cause := context.Cause(p.ctx); cause != nil {
		return fmt.Errorf("read stream: %w", cause)
	}
	return fmt.Errorf("read stream: %v: %w", err, ErrUnreachable)
}

// Finish reads what is left, closes, and returns the sender's own result. It is
// the better explanation when a receive failed because its stream ended early.
func (p *Pull) Finish() error {
	if p.resp == nil {
		return nil
	}
	defer p.Close()
	// A receiver stops at the end of the stream, the trailer is behind it.
	if _, err := io.CopyN(io.Discard, p, bufferSize); !errors.Is(err, io.EOF) {
		if err == nil {
			return fmt.Errorf("receiver stopped before the end of the stream: %w", ErrUnknown)
		}
		return err
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

// Close ends the stream wherever it is.
func (p *Pull) Close() {
	if p.resp == nil {
		return
	}
	p.cancel(nil)
	_ = p.resp.Body.Close()
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
