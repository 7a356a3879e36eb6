package zfs

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// lookings is how many looks in a row have to find that a receive took nothing. They are
// counted, not timed: a machine that stood still has looked at nothing meanwhile.
const lookings = 10

// inlet is the pipe into zfs receive. It counts what goes in, by whatever way, so that a
// receive that takes nothing is told from a source that sends nothing.
type inlet struct {
	file  *os.File
	raw   syscall.RawConn
	given atomic.Int64
}

// newInlet makes the pipe; out is for the process.
func newInlet() (in *inlet, out *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	growPipe(w)
	raw, err := w.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(err, r.Close(), w.Close())
	}
	return &inlet{file: w, raw: raw}, r, nil
}

// File is for those who splice: they tell Gave what they moved.
func (i *inlet) File() *os.File { return i.file }

// Gave counts n bytes that are in the pipe now.
func (i *inlet) Gave(n int) { i.given.Add(int64(n)) }

// Close ends the stream for its reader, and a Write that waits for room.
func (i *inlet) Close() error { return i.file.Close() }

// Write is that of a file, with each piece counted as soon as it is in the pipe.
func (i *inlet) Write(p []byte) (n int, err error) {
	waitErr := i.raw.Write(func(fd uintptr) bool {
		for n < len(p) {
			var m int
			if m, err = syscall.Write(int(fd), p[n:]); m > 0 {
				n += m
				i.Gave(m)
			}
			switch {
			case err == nil, err == syscall.EINTR:
			default:
				return err != syscall.EAGAIN
			}
		}
		return true
	})
	if err == nil || err == syscall.EAGAIN {
		err = waitErr
	}
	if err != nil {
		return n, fmt.Errorf("write into zfs receive: %w", err)
	}
	return n, nil
}

// appetite judges by looks at a pipe whether its reader still takes what is there.
type appetite struct {
	taken int64
	fasts int // looks in a row at which bytes waited and none had been taken
}

// look is told how many bytes went in so far, and how many of them are in the pipe. It
// reports a reader that has taken nothing for lookings looks while bytes waited.
func (a *appetite) look(given, waiting int64) (lost bool) {
	taken := given - waiting
	if waiting <= 0 || taken != a.taken {
		a.taken, a.fasts = taken, 0
		return false
	}
	a.fasts++
	return a.fasts >= lookings
}

// untaken tells, once, how many bytes the reader has left in the pipe for patience without
// taking any. It stops looking when ended is closed.
func (i *inlet) untaken(patience time.Duration, ended <-chan struct{}) <-chan int64 {
	lost := make(chan int64, 1)
	go func() {
		tick := time.NewTicker(patience / lookings)
		defer tick.Stop()
		var a appetite
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			// In this order: what goes in between the two looks like an appetite.
			given := i.given.Load()
			waiting, err := bytesIn(i.raw)
			if err != nil { // closed: the end of the stream has a bound of its own
				return
			}
			if a.look(given, waiting) {
				lost <- waiting
				return
			}
		}
	}()
	return lost
}
