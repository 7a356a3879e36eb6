package zfstest

import (
	"context"
	"io"
	"sync"

	"tarn/zfs"
)

// Faulty is a Host that fails on demand, for the tests of consumers. Operations are
// named by their method ("Snapshot", "Receive"); calls count from the time a fault
// is set, the first is 1. It is safe for concurrent use.
type Faulty struct {
	host Host

	mu     sync.Mutex
	calls  map[string]int
	faults map[string][]*fault
}

type fault struct {
	at     int // call number
	err    error
	after  bool // the work is done all the same: an unknown outcome
	cut    int64
	flip   bool
	stream bool
}

// NewFaulty wraps host.
func NewFaulty(host Host) *Faulty {
	return &Faulty{host: host, calls: map[string]int{}, faults: map[string][]*fault{}}
}

// Fail makes the nth call of op from now on fail with err, without doing anything.
func (f *Faulty) Fail(op string, nth int, err error) { f.add(op, nth, fault{err: err}) }

// FailAfter makes the nth call of op from now on do its work and then report err:
// what a lost answer looks like.
func (f *Faulty) FailAfter(op string, nth int, err error) {
	f.add(op, nth, fault{err: err, after: true})
}

// CutSend ends the nth stream from now on after at bytes, with
// io.ErrUnexpectedEOF.
func (f *Faulty) CutSend(nth int, at int64) { f.add("Send", nth, fault{stream: true, cut: at}) }

// FlipSend inverts byte at of the nth stream from now on.
func (f *Faulty) FlipSend(nth int, at int64) {
	f.add("Send", nth, fault{stream: true, cut: at, flip: true})
}

// Calls is how often op was called.
func (f *Faulty) Calls(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *Faulty) add(op string, nth int, x fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x.at = f.calls[op] + nth
	f.faults[op] = append(f.faults[op], &x)
}

func (f *Faulty) next(op string) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	for _, x := range f.faults[op] {
		if x.at == f.calls[op] {
			return x
		}
	}
	return nil
}

// do runs one call through its fault.
func (f *Faulty) do(op string, call func() error) error {
	x := f.next(op)
	if x == nil || x.stream {
		return call()
	}
	if !x.after {
		return x.err
	}
	if err := call(); err != nil {
		return err
	}
	return x.err
}

func faultyGet[T any](f *Faulty, op string, call func() (T, error)) (v T, err error) {
	err = f.do(op, func() error {
		v, err = call()
		return err
	})
	return v, err
}

// Send is the wrapped method with its faults.
func (f *Faulty) Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error) {
	x := f.next("Send")
	if x != nil && !x.stream && !x.after {
		return nil, x.err
	}
	s, err := f.host.Send(ctx, req)
	if err != nil || x == nil {
		return s, err
	}
	if x.stream {
		return &faultyStream{Stream: s, at: x.cut, flip: x.flip}, nil
	}
	_ = s.Close() // the caller is told that there is none
	return nil, x.err
}

// faultyStream hides the inner WriterTo, so that every byte passes Read.
type faultyStream struct {
	zfs.Stream
	pos, at int64
	flip    bool
}

func (s *faultyStream) Read(b []byte) (int, error) {
	if !s.flip {
		if s.pos >= s.at {
			return 0, io.ErrUnexpectedEOF
		}
		b = b[:min(int64(len(b)), s.at-s.pos)]
	}
	n, err := s.Stream.Read(b)
	if s.flip && s.at >= s.pos && s.at < s.pos+int64(n) {
		b[s.at-s.pos] ^= 0xff
	}
	s.pos += int64(n)
	return n, err
}
