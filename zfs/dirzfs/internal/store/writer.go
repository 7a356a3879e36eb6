package store

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	slabSize  = 256 << 10 // small chunks share one write
	smallSize = 32 << 10
	flushStep = 8 << 20 // start write-back this early, so that the sync at the end is short
)

// writer appends to one pack. Offsets are given out under the lock, large writes
// happen outside.
type writer struct {
	p         *packs
	id        uint32
	committed int64

	mu      sync.Mutex
	f       *os.File
	next    int64
	slab    []byte
	slabOff int64
	kicked  int64
}

func newWriter(p *packs) *writer {
	id, size := p.acquire()
	return &writer{p: p, id: id, committed: size, next: size}
}

// append stores data and tells where. The bytes are durable after sync.
func (w *writer) append(data []byte) (loc, error) {
	w.mu.Lock()
	if err := w.openLocked(); err != nil {
		w.mu.Unlock()
		return loc{}, err
	}
	if len(data) < smallSize {
		defer w.mu.Unlock()
		return w.appendSmall(data)
	}
	off := (w.next + packAlign - 1) &^ (packAlign - 1)
	w.next = off + int64(len(data))
	kick, from := w.next-w.kicked >= flushStep, w.kicked
	if kick {
		w.kicked = off
	}
	w.mu.Unlock()
	_, err := w.f.WriteAt(data, off)
	if kick && err == nil {
		// Only a hint: the sync at the end decides.
		_ = unix.SyncFileRange(int(w.f.Fd()), from, off-from, unix.SYNC_FILE_RANGE_WRITE)
	}
	return loc{w.id, off, len(data)}, err
}

func (w *writer) openLocked() (err error) {
	if w.f == nil {
		w.f, err = w.p.create(w.id)
	}
	return err
}

func (w *writer) appendSmall(data []byte) (loc, error) {
	if len(w.slab)+len(data) > slabSize {
		if err := w.flushSlab(); err != nil {
			return loc{}, err
		}
	}
	if w.slab == nil {
		w.slabOff = (w.next + packAlign - 1) &^ (packAlign - 1)
		w.slab = make([]byte, 0, slabSize)
		w.next = w.slabOff + slabSize
	}
	at := loc{w.id, w.slabOff + int64(len(w.slab)), len(data)}
	w.slab = append(w.slab, data...)
	return at, nil
}

func (w *writer) flushSlab() error {
	if w.slab == nil {
		return nil
	}
	_, err := w.f.WriteAt(w.slab, w.slabOff)
	if w.next == w.slabOff+slabSize { // nothing was written after it: keep the pack tight
		w.next = w.slabOff + int64(len(w.slab))
	}
	w.slab = nil
	return err
}

// sync makes all appended bytes durable and gives the size to commit.
func (w *writer) sync() (size int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return w.committed, nil
	}
	if err := w.flushSlab(); err != nil {
		return 0, err
	}
	return w.next, w.f.Sync()
}

// close gives the pack back; what was not committed is cut off.
func (w *writer) close(committed int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.p.release(w.id, committed)
	if w.f == nil {
		return nil
	}
	var errs []error
	if committed == 0 {
		errs = append(errs, os.Remove(w.f.Name()))
	} else if committed < w.next {
		errs = append(errs, w.f.Truncate(committed))
	}
	errs = append(errs, w.f.Close())
	w.f = nil
	return errors.Join(errs...)
}
