package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	packFull  = 256 << 20 // a pack beyond this takes no further batch
	packAlign = 4 << 10   // so that a hole punched for a large chunk frees all of it
	maxOpen   = 128       // descriptors kept for reading
)

// loc is where a chunk lies.
type loc struct {
	pack uint32
	off  int64
	len  int
}

// packs owns the pack files. Writers have a pack for themselves; readers share
// descriptors.
type packs struct {
	dir string

	mu    sync.Mutex
	free  map[uint32]int64 // committed size of packs that nobody writes
	busy  map[uint32]bool
	next  uint32
	files sync.RWMutex // held for reading during every pread: closing waits
	open  map[uint32]*os.File
}

func packName(id uint32) string { return fmt.Sprintf("%08d.pack", id) }

// openPacks brings the directory in line with the committed sizes.
func openPacks(dir string, sizes map[uint32]int64) (*packs, error) {
	p := &packs{dir: dir, free: sizes, busy: map[uint32]bool{}, open: map[uint32]*os.File{}, next: 1}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if err := p.reconcile(e.Name()); err != nil {
			return nil, err
		}
	}
	for id := range sizes {
		p.next = max(p.next, id+1)
	}
	return p, nil
}

func (p *packs) reconcile(name string) error {
	n, err := strconv.ParseUint(strings.TrimSuffix(name, ".pack"), 10, 32)
	if err != nil {
		return nil // not ours
	}
	path := filepath.Join(p.dir, name)
	size, known := p.free[uint32(n)]
	if !known {
		return os.Remove(path)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() <= size {
		return err
	}
	return os.Truncate(path, size)
}

// acquire gives a pack to append to, and where its committed bytes end.
func (p *packs) acquire() (id uint32, size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, size := range p.free {
		if size < packFull && !p.busy[id] {
			p.busy[id] = true
			return id, size
		}
	}
	id = p.next
	p.next++
	p.busy[id] = true
	return id, 0
}

// release returns a pack with its committed size; 0 for one never committed.
func (p *packs) release(id uint32, size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, id)
	if size > 0 {
		p.free[id] = size
	}
}

// retire takes a pack out of use unless somebody writes to it.
func (p *packs) retire(id uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[id] {
		return false
	}
	delete(p.free, id)
	return true
}

// create opens a pack for appending and makes a new one's name durable.
func (p *packs) create(id uint32) (*os.File, error) {
	path := filepath.Join(p.dir, packName(id))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	return f, SyncDir(p.dir)
}

// readAt fills buf from a pack. Whoever opens another may close it before it is read: then it
// is opened again.
func (p *packs) readAt(at loc, buf []byte) error {
	for {
		done, err := p.readOpen(at, buf)
		if done {
			return err
		}
		if err := p.openForReading(at.pack); err != nil {
			return err
		}
	}
}

// readOpen reads from a pack that is open, and keeps it so meanwhile.
func (p *packs) readOpen(at loc, buf []byte) (open bool, err error) {
	p.files.RLock()
	defer p.files.RUnlock()
	f := p.open[at.pack]
	if f == nil {
		return false, nil
	}
	_, err = f.ReadAt(buf, at.off)
	return true, err
}

func (p *packs) openForReading(id uint32) error {
	p.files.Lock()
	defer p.files.Unlock()
	if p.open[id] != nil {
		return nil
	}
	f, err := os.Open(filepath.Join(p.dir, packName(id)))
	if err != nil {
		return err
	}
	for other, old := range p.open {
		if len(p.open) < maxOpen {
			break
		}
		_ = old.Close() // read only: nothing to lose
		delete(p.open, other)
	}
	p.open[id] = f
	return nil
}

// punch gives the bytes of a dead chunk back. Failure costs space, not truth:
// file systems without holes get it back with the whole pack.
func (p *packs) punch(list []loc) {
	for _, at := range list {
		f, err := os.OpenFile(filepath.Join(p.dir, packName(at.pack)), os.O_WRONLY, 0)
		if err != nil {
			continue
		}
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at.off, int64(at.len))
		_ = f.Close()
	}
}

// remove deletes a pack without live chunks.
func (p *packs) remove(id uint32) error {
	p.files.Lock()
	defer p.files.Unlock()
	if f := p.open[id]; f != nil {
		_ = f.Close()
		delete(p.open, id)
	}
	p.mu.Lock()
	delete(p.free, id)
	p.mu.Unlock()
	err := os.Remove(filepath.Join(p.dir, packName(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (p *packs) close() error {
	p.files.Lock()
	defer p.files.Unlock()
	var errs []error
	for id, f := range p.open {
		errs = append(errs, f.Close())
		delete(p.open, id)
	}
	return errors.Join(errs...)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
