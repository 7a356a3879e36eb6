package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
)

// pool is an open pool.
type pool struct {
	name  string
	dir   string
	log   *slog.Logger
	lock  *os.File
	db    *bolt.DB
	store *store.Store
	boot  string
	step  func(point string)
	// window is how many bytes a receive holds between two commits.
	window int64

	// heads serialises work on the directory of a dataset, by GUID.
	heads  keyedMutex
	busy   busyTable
	quiet  quietTable
	small  group
	mounts sync.Mutex // checks that mounts do not nest

	closing context.Context // ended by close: running streams stop
	stop    context.CancelFunc
	ops     sync.WaitGroup // streams
	closed  atomic.Bool
}

func openPool(c Pool, log *slog.Logger, cfg Config) (_ *pool, err error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	p := &pool{name: c.Name, dir: dir, log: log, step: cfg.step, window: max(cfg.window, 0)}
	if p.window == 0 {
		p.window = receiveWindow
	}
	if p.step == nil {
		p.step = func(string) {}
	}
	p.closing, p.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if err := makeDirs(p.dir); err != nil {
		return nil, err
	}
	if p.lock, err = lockFile(filepath.Join(p.dir, "lock")); err != nil {
		return nil, err
	}
	if err := p.openDB(c.Capacity); err != nil {
		return nil, err
	}
	return p, p.recover()
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s is locked: another process has this pool open", zfs.ErrBusy, path), f.Close())
	}
	return f, nil
}

func (p *pool) openDB(capacity int64) (err error) {
	// The lock file is ours already: waiting for bbolt's own lock would be a bug.
	p.db, err = bolt.Open(filepath.Join(p.dir, "meta.db"), 0o600, &bolt.Options{
		Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: 64 << 20,
	})
	if err != nil {
		return fmt.Errorf("open meta.db: %w", err)
	}
	if err := p.update(func(m meta) error { return errors.Join(m.create(), p.createRoot(m)) }); err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	p.boot = strings.TrimSpace(string(b))
	p.store, err = store.Open(p.db, p.dir, capacity)
	return err
}

// createRoot makes the pool's identity and its root dataset, which is never mounted.
func (p *pool) createRoot(m meta) error {
	if m.number("guid") != 0 {
		if _, err := m.dataset(p.name); err != nil {
			return fmt.Errorf("%s holds a pool of another name: %w", p.dir, err)
		}
		return nil
	}
	if err := m.setNumber("guid", uint64(newGUID())); err != nil {
		return err
	}
	_, err := p.newDataset(m, p.name, map[string]string{zfs.PropCanMount: "off"})
	return err
}

// newGUID draws a random identity; zero means none.
func newGUID() zfs.GUID {
	for {
		if g := rand.Uint64(); g != 0 {
			return zfs.GUID(g)
		}
	}
}

func (p *pool) view(fn func(meta) error) error {
	return p.db.View(func(tx *bolt.Tx) error { return fn(meta{tx}) })
}

func (p *pool) update(fn func(meta) error) error {
	return p.db.Update(func(tx *bolt.Tx) error { return fn(meta{tx}) })
}

// sweep frees what the last operation dropped. It never fails an operation that
// is already committed.
func (p *pool) sweep() {
	if err := p.store.Sweep(); err != nil {
		p.log.Warn("sweep", "err", err)
	}
}

func (p *pool) close() error {
	p.stop()
	p.ops.Wait()
	if !p.closed.CompareAndSwap(false, true) {
		return nil
	}
	var errs []error
	if p.store != nil {
		errs = append(errs, p.store.Close())
	}
	if p.db != nil {
		errs = append(errs, p.db.Close())
	}
	if p.lock != nil {
		errs = append(errs, p.lock.Close())
	}
	return errors.Join(errs...)
}

func (p *pool) status() (zfs.PoolStatus, error) {
	s := zfs.PoolStatus{Name: p.name, Health: "ONLINE"}
	err := p.view(func(m meta) error {
		s.GUID = zfs.GUID(m.number("guid"))
		return nil
	})
	if err != nil {
		return s, err
	}
	s.Size, s.Free, err = p.room()
	return s, err
}

// room is the pool's size and free bytes: its capacity, never more than the file
// system has left.
func (p *pool) room() (size, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(p.dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", p.dir, err)
	}
	left := int64(st.Bavail) * st.Bsize
	used := p.store.Used()
	if limit := p.store.Limit(); limit > 0 {
		return limit, max(0, min(limit-used, left)), nil
	}
	return used + left, left, nil
}

// headDir is where an unmounted dataset's files are.
func (p *pool) headDir(id zfs.GUID) string { return filepath.Join(p.dir, "heads", id.String()) }

// mountDir is where a dataset's files are while clients can reach them.
func (p *pool) mountDir(name string) string { return filepath.Join(p.dir, "mnt", name) }

// keyedMutex is a mutex per GUID.
type keyedMutex struct {
	mu   sync.Mutex
	held map[zfs.GUID]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int
}

func (k *keyedMutex) lock(id zfs.GUID) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[zfs.GUID]*keyLock{}
	}
	l := k.held[id]
	if l == nil {
		l = &keyLock{}
		k.held[id] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
}

func (k *keyedMutex) unlock(id zfs.GUID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.held[id]
	l.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, id)
	}
}

// lockHeads locks the heads of the named datasets and gives their records as they
// are under the lock. unlock is never nil.
func (p *pool) lockHeads(ctx context.Context, names ...string) (recs map[string]*datasetRec, unlock func(), err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, func() {}, err
		}
		before, err := p.records(names)
		if err != nil {
			return nil, func() {}, err
		}
		unlock = p.lockAll(before)
		recs, err = p.records(names)
		if err == nil && sameGUIDs(before, recs) {
			return recs, unlock, nil
		}
		unlock() // renamed or destroyed while we waited: look again
	}
}

// lockBelow locks the heads of a dataset and of all below it.
func (p *pool) lockBelow(ctx context.Context, name string) (recs map[string]*datasetRec, unlock func(), err error) {
	var names []string
	err = p.view(func(m meta) error {
		if _, err := m.dataset(name); err != nil {
			return err
		}
		list, err := m.below(name)
		for _, d := range list {
			names = append(names, d.Name)
		}
		return err
	})
	if err != nil {
		return nil, func() {}, err
	}
	return p.lockHeads(ctx, names...)
}

func (p *pool) lockAll(recs map[string]*datasetRec) (unlock func()) {
	var ids []zfs.GUID
	for _, d := range recs {
		ids = append(ids, d.GUID)
	}
	slices.Sort(ids)
	for _, id := range ids {
		p.heads.lock(id)
	}
	return func() {
		for _, id := range ids {
			p.heads.unlock(id)
		}
	}
}

func (p *pool) records(names []string) (map[string]*datasetRec, error) {
	recs := make(map[string]*datasetRec, len(names))
	err := p.view(func(m meta) error {
		for _, n := range names {
			d, err := m.dataset(n)
			if err != nil {
				return err
			}
			recs[n] = d
		}
		return nil
	})
	return recs, err
}

func sameGUIDs(a, b map[string]*datasetRec) bool {
	for n, d := range a {
		if b[n] == nil || b[n].GUID != d.GUID {
			return false
		}
	}
	return true
}

// busyTable says what streams are using.
type busyTable struct {
	mu        sync.Mutex
	receiving map[zfs.GUID]bool
	sending   map[uint64]int // txg of snapshots
}

func (b *busyTable) startReceive(id zfs.GUID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.receiving[id] {
		return false
	}
	if b.receiving == nil {
		b.receiving = map[zfs.GUID]bool{}
	}
	b.receiving[id] = true
	return true
}

func (b *busyTable) endReceive(id zfs.GUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.receiving, id)
}

func (b *busyTable) isReceiving(id zfs.GUID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.receiving[id]
}

// use counts a stream that reads a snapshot in (1) or out (-1).
func (b *busyTable) use(txg uint64, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sending == nil {
		b.sending = map[uint64]int{}
	}
	if b.sending[txg] += n; b.sending[txg] == 0 {
		delete(b.sending, txg)
	}
}

func (b *busyTable) isSent(txg uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sending[txg] > 0
}
