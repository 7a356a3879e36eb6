package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
	"tarn/zfs/durable"
)

// quietTable remembers, for unmounted datasets, what this process knows about their
// files: nobody holds them open, and they are unchanged.
type quietTable struct {
	mu   sync.Mutex
	free map[zfs.GUID]bool      // no holders since the last unmount
	same map[zfs.GUID]tree.Hash // the base that they were found equal to
}

func (q *quietTable) isFree(id zfs.GUID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.free[id]
}

func (q *quietTable) setFree(id zfs.GUID, free bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free == nil {
		q.free, q.same = map[zfs.GUID]bool{}, map[zfs.GUID]tree.Hash{}
	}
	if !free {
		delete(q.free, id)
		delete(q.same, id)
		return
	}
	q.free[id] = true
}

// unchanged tells whether unmounted files that nobody holds were equal to base.
func (q *quietTable) unchanged(id zfs.GUID, base tree.Hash) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	known, ok := q.same[id]
	return ok && q.free[id] && known == base
}

func (q *quietTable) remember(id zfs.GUID, base tree.Hash) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free[id] {
		q.same[id] = base
	}
}

// fenceFile names the GUID of a mounted dataset for Fence, which cannot open the
// database.
func fenceFile(poolDir, dataset string) string {
	return filepath.Join(poolDir, "fence", strings.ReplaceAll(dataset, "/", "%"))
}

// Fence makes a dataset unreachable without the help of the process that has the
// pool open, which may be stopped: it moves the files away from the mountpoint, in
// one rename, and is idempotent. Handles that are open keep working on the files
// until Unmount replaces them. It takes no lock; a Mount running at the same time
// may come after it.
func Fence(poolDir, dataset string) error {
	if err := zfs.ValidateDataset(dataset); err != nil {
		return fail("fence", dataset, err)
	}
	id, err := os.ReadFile(fenceFile(poolDir, dataset))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // never mounted
	}
	if err != nil {
		return fail("fence", dataset, err)
	}
	mountpoint := filepath.Join(poolDir, "mnt", dataset)
	// Any other name would be taken for a file system whose files are away already.
	if n, err := strconv.ParseUint(string(id), 10, 64); err != nil || n == 0 {
		if _, err := os.Lstat(mountpoint); errors.Is(err, fs.ErrNotExist) {
			return nil // not mounted, whatever its GUID is
		}
		return fail("fence", dataset, fmt.Errorf("%w: %s has %q, no GUID: stop the agent, move %s away, start the agent",
			zfs.ErrInvalid, fenceFile(poolDir, dataset), id, mountpoint))
	}
	err = moveOut(mountpoint, filepath.Join(poolDir, "heads", string(id)))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return nil // not mounted: its files are away already
	}
	return fail("fence", dataset, err)
}

// Mount makes a filesystem's files reachable at its mountpoint.
func (h *Host) Mount(ctx context.Context, name string) error {
	p, err := h.dataset(ctx, name)
	if err != nil {
		return fail("mount", name, err)
	}
	return fail("mount", name, p.mount(ctx, name))
}

func (p *pool) mount(ctx context.Context, name string) error {
	recs, unlock, err := p.lockHeads(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return p.mountLocked(ctx, recs[name])
}

func (p *pool) mountLocked(ctx context.Context, ds *datasetRec) error {
	if err := p.mountable(ds); err != nil {
		return err
	}
	if err := p.settle(ctx, ds); err != nil {
		return err
	}
	readOnly, err := p.effectiveReadOnly(ds)
	if err != nil {
		return err
	}
	if err := p.setMask(ctx, ds, readOnly); err != nil {
		return err
	}
	if p.isMounted(ds) {
		return nil
	}
	p.mounts.Lock()
	defer p.mounts.Unlock()
	if err := p.checkNesting(ds); err != nil {
		return err
	}
	return p.moveToMountpoint(ds)
}

func (p *pool) mountable(ds *datasetRec) error {
	if ds.Inconsistent {
		return fmt.Errorf("%w: %s is not completely received", zfs.ErrBusy, ds.Name)
	}
	return p.view(func(m meta) error {
		if v, _, err := m.property(ds, zfs.PropCanMount); err != nil || v == "off" {
			return errors.Join(err, fmt.Errorf("%w: %s has canmount=off", zfs.ErrInvalid, ds.Name))
		}
		if v, _, err := m.property(ds, zfs.PropMountpoint); err != nil || v == "none" {
			return errors.Join(err, fmt.Errorf("%w: %s has no mountpoint", zfs.ErrInvalid, ds.Name))
		}
		return nil
	})
}

// checkNesting refuses a mount below or above another: moving the outer tree away
// would take the inner one with it.
func (p *pool) checkNesting(ds *datasetRec) error {
	return p.view(func(m meta) error {
		all, err := m.below(p.name)
		for _, o := range all {
			inside := strings.HasPrefix(o.Name+"/", ds.Name+"/") || strings.HasPrefix(ds.Name+"/", o.Name+"/")
			if o.GUID != ds.GUID && inside && p.isMounted(o) {
				return fmt.Errorf("%w: %s is mounted, and mounts do not nest", zfs.ErrBusy, o.Name)
			}
		}
		return err
	})
}

func (p *pool) moveToMountpoint(ds *datasetRec) error {
	if err := p.finishMove(ds); err != nil {
		return err
	}
	if err := durable.Replace(fenceFile(p.dir, ds.Name), []byte(ds.GUID.String())); err != nil {
		return err
	}
	target := p.mountDir(ds.Name)
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) { // an empty parent of old mounts
		return fmt.Errorf("%w: mountpoint %s: %w", zfs.ErrBusy, target, err)
	}
	p.quiet.setFree(ds.GUID, false)
	if ds.Masked {
		if err := clearWriteBits(p.headDir(ds.GUID)); err != nil {
			return err
		}
	}
	p.step("before mount")
	err := moveIn(p.headDir(ds.GUID), target)
	p.step("mounted")
	return err
}

// Unmount ends reachability first, by moving the files away, and then looks for
// processes that still have some open. Without force they make it fail with
// ErrBusy, and the files return. With force they keep the old files, aside in the
// pool's orphans directory, and the dataset gets a copy that they cannot reach.
//
// Holders are looked for in /proc: an ordinary user sees only processes of its own.
func (h *Host) Unmount(ctx context.Context, name string, force bool) error {
	p, err := h.dataset(ctx, name)
	if err != nil {
		return fail("unmount", name, err)
	}
	recs, unlock, err := p.lockHeads(ctx, name)
	if err != nil {
		return fail("unmount", name, err)
	}
	defer unlock()
	return fail("unmount", name, p.unmountLocked(ctx, recs[name], force))
}

func (p *pool) unmountLocked(ctx context.Context, ds *datasetRec, force bool) error {
	if err := p.finishMove(ds); err != nil {
		return err
	}
	_, mounted, err := p.findHead(ds)
	if err != nil {
		return err
	}
	if !mounted && p.quiet.isFree(ds.GUID) {
		return nil
	}
	if mounted {
		if err := p.moveToHead(ds); err != nil {
			return err
		}
	}
	p.step("unmounted")
	held, err := holders(p.headDir(ds.GUID))
	if err != nil {
		return err
	}
	switch {
	case len(held) == 0:
	case force:
		p.log.Warn("replacing files that are still open", "dataset", ds.Name, "holders", held)
		if err := p.replaceFiles(ctx, ds); err != nil {
			return err
		}
	default:
		return errors.Join(fmt.Errorf("%w: open in %s", zfs.ErrBusy, strings.Join(held, ", ")), p.returnTo(ds, mounted))
	}
	p.quiet.setFree(ds.GUID, true)
	return nil
}

func (p *pool) moveToHead(ds *datasetRec) error {
	err := moveOut(p.mountDir(ds.Name), p.headDir(ds.GUID))
	if err != nil && isDir(p.headDir(ds.GUID)) {
		err = nil // a fence was faster
	}
	if err == nil {
		p.pruneMountParents(ds.Name)
	}
	return err
}

// pruneMountParents removes the empty directories above a former mountpoint.
func (p *pool) pruneMountParents(name string) {
	p.mounts.Lock()
	defer p.mounts.Unlock()
	for {
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return
		}
		name = name[:i]
		if os.Remove(p.mountDir(name)) != nil {
			return // in use by another mount
		}
	}
}

func (p *pool) returnTo(ds *datasetRec, mounted bool) error {
	if !mounted {
		return nil // fenced, and it stays so
	}
	p.mounts.Lock()
	defer p.mounts.Unlock()
	return p.moveToMountpoint(ds)
}

// replaceFiles gives the dataset a copy of its files, in one exchange, and leaves
// the originals to those who have them open.
func (p *pool) replaceFiles(ctx context.Context, ds *datasetRec) error {
	if err := p.settle(ctx, ds); err != nil {
		return err
	}
	if err := p.captureHead(ctx, ds); err != nil {
		return err
	}
	p.step("head captured")
	aside, err := os.MkdirTemp(filepath.Join(p.dir, "orphans"), ds.GUID.String()+"-")
	if err != nil {
		return err
	}
	change, err := p.copyHead(ctx, ds, aside)
	if err != nil {
		return errors.Join(err, os.RemoveAll(aside))
	}
	if err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, p.headDir(ds.GUID), unix.RENAME_EXCHANGE); err != nil {
		return errors.Join(&os.LinkError{Op: "exchange", Old: p.headDir(ds.GUID), New: aside, Err: err}, os.RemoveAll(aside))
	}
	p.step("head exchanged")
	p.log.Warn("files kept aside for their holders", "dataset", ds.Name, "dir", aside)
	return p.update(func(m meta) error {
		ds.Boot = ""
		return errors.Join(change.write(m.tx, ds.GUID), m.putDataset(ds))
	})
}

// captureHead stores the live files as the tree At.
func (p *pool) captureHead(ctx context.Context, ds *datasetRec) error {
	batch := p.store.NewBatch()
	live, err := p.walk(ctx, ds, batch, true)
	if err != nil {
		return errors.Join(err, batch.Close())
	}
	return commitBatch(batch, func(m meta) error {
		if err := errors.Join(dropSubBucket(m.tx, bucketIndex, ds.GUID), dropSubBucket(m.tx, bucketModes, ds.GUID)); err != nil {
			return err
		}
		return m.setAt(ds, live.root)
	})
}

func (p *pool) copyHead(ctx context.Context, ds *datasetRec, to string) (*indexChange, error) {
	top, err := openTop(to)
	if err != nil {
		return nil, err
	}
	defer top.close()
	change, err := p.apply(ctx, ds, top, tree.Hash{}, ds.At, p.store.Object)
	if err != nil {
		return nil, err
	}
	return change, p.syncFiles()
}
