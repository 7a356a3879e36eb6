package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tarn/zfs/dirzfs/internal/tree"
)

// applier turns the live files of a dataset from one tree into another. Every
// step can be repeated: after a crash the same apply is run again.
type applier struct {
	p     *pool
	ds    *datasetRec
	top   *dir
	tmp   *dir // on the same file system, out of reach of clients
	from  tree.Getter
	to    tree.Getter
	root  bool
	fresh bool // the dataset was empty: files need no temporary name

	buffers *sync.Pool
	serial  atomic.Int64

	mu    sync.Mutex
	index indexChange
	late  int64                    // bytes of files whose signature is too young
	ctime int64                    // the youngest
	first map[string]chan struct{} // files that others are links to, while they are written
}

// apply makes the files below top, of dataset ds, those of the tree to, starting
// from the tree from.
func (p *pool) apply(ctx context.Context, ds *datasetRec, top *dir, from, to tree.Hash, getFrom tree.Getter) (*indexChange, error) {
	tmp, err := openTop(filepath.Join(p.dir, "tmp"))
	if err != nil {
		return nil, err
	}
	defer tmp.close()
	a := &applier{
		p: p, ds: ds, top: top, tmp: tmp, from: getFrom, to: p.store.Object, root: os.Geteuid() == 0,
		fresh: from.IsZero(), buffers: newBuffers(), first: map[string]chan struct{}{},
	}
	if err := a.run(ctx, from, to); err != nil {
		return nil, fmt.Errorf("apply snapshot to %s: %w", ds.Name, err)
	}
	return &a.index, a.awaitClock(ctx)
}

func (a *applier) run(ctx context.Context, from, to tree.Hash) error {
	var old tree.Entry
	if !from.IsZero() {
		e, err := tree.Root(from, a.from)
		if err != nil {
			return err
		}
		old = e
	}
	e, err := tree.Root(to, a.to)
	if err != nil {
		return err
	}
	if err := a.dir(ctx, a.top, old.Child, e.Child); err != nil {
		return err
	}
	return a.finish(a.top, "", &e)
}

// awaitClock makes young signatures trustworthy by letting the file system's
// clock move on, when reading the files again would cost more.
func (a *applier) awaitClock(ctx context.Context) error {
	const worthWaiting = 4 << 20
	wait := time.Until(time.Unix(0, a.ctime+granularity))
	if wait <= 0 {
		return nil
	}
	if a.late < worthWaiting {
		for k, s := range a.index.put {
			if ctimeOf(s)+granularity > time.Now().UnixNano() {
				delete(a.index.put, k)
				a.index.drop = append(a.index.drop, []byte(k)) // the old one was another content's
			}
		}
		return nil
	}
	t := time.NewTimer(min(wait, granularity))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dir changes a directory's content. Its own metadata are set by the caller.
func (a *applier) dir(ctx context.Context, d *dir, from, to tree.Hash) error {
	if from == to {
		return nil
	}
	if err := a.writable(d); err != nil {
		return err
	}
	old, err := tree.ReadDir(from, a.from)
	if err != nil {
		return err
	}
	want, err := tree.ReadDir(to, a.to)
	if err != nil {
		return err
	}
	before := make(map[string]*tree.Entry, len(old))
	for i := range old {
		before[old[i].Name] = &old[i]
	}
	if err := a.removeOld(d, before, want); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i := range want {
		if err := a.change(gctx, g, d, before[want[i].Name], &want[i]); err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	return g.Wait()
}

// writable lets an ordinary user change a directory that is not writable.
func (a *applier) writable(d *dir) error {
	if a.root {
		return nil
	}
	st, err := d.stat("")
	if err != nil || st.Mode&0o700 == 0o700 {
		return err
	}
	return d.chmod("", st.Mode&0o7777|0o700)
}

func (a *applier) removeOld(d *dir, before map[string]*tree.Entry, want []tree.Entry) error {
	keep := make(map[string]tree.Kind, len(want))
	for i := range want {
		keep[want[i].Name] = want[i].Kind
	}
	for name, b := range before {
		k, ok := keep[name]
		if ok && (k == tree.Dir) == (b.Kind == tree.Dir) {
			continue
		}
		if err := d.removeAll(name); err != nil {
			return err
		}
		a.forget(d, name, b)
	}
	return nil
}

func (a *applier) forget(d *dir, name string, b *tree.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index.forget(d.rel, name)
	if b.Kind == tree.Dir {
		a.index.gone = append(a.index.gone, d.path(name))
	}
}

// change makes one node what it has to be: directories at once, files in the
// background.
func (a *applier) change(ctx context.Context, g *errgroup.Group, d *dir, old, e *tree.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if old != nil && reflect.DeepEqual(*old, *e) {
		return nil
	}
	if e.Kind == tree.Dir {
		return a.subdir(ctx, d, old, e)
	}
	path := d.path(e.Name)
	if e.Link != "" && e.Link != path {
		wait := a.waitFor(e.Link)
		g.Go(func() error { return a.linkTo(ctx, d, e, wait) })
		return nil
	}
	done := a.announce(e, path)
	g.Go(func() error {
		defer done()
		return a.node(ctx, d, old, e)
	})
	return nil
}

// announce registers a file that others will be links to.
func (a *applier) announce(e *tree.Entry, path string) (done func()) {
	if e.Link == "" {
		return func() {}
	}
	c := make(chan struct{})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.first[path] = c
	return func() { close(c) }
}

func (a *applier) waitFor(path string) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.first[path]; ok {
		return c
	}
	c := make(chan struct{})
	close(c) // not touched by this apply: it is there
	return c
}

func (a *applier) subdir(ctx context.Context, d *dir, old, e *tree.Entry) error {
	var child tree.Hash
	if old != nil && old.Kind == tree.Dir {
		child = old.Child
	}
	sub, err := a.openOrMake(d, e.Name)
	if err != nil {
		return err
	}
	defer sub.close()
	if err := a.dir(ctx, sub, child, e.Child); err != nil {
		return err
	}
	return a.finish(sub, "", e)
}

func (a *applier) openOrMake(d *dir, name string) (*dir, error) {
	err := unix.Mkdirat(d.fd(), name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		st, err := d.stat(name)
		if err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := d.removeAll(name); err != nil {
				return nil, err
			}
			if err := unix.Mkdirat(d.fd(), name, 0o700); err != nil {
				return nil, err
			}
		}
	} else if err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: d.path(name), Err: err}
	}
	return d.openDir(name)
}

// node makes a file, symlink, fifo or device.
func (a *applier) node(ctx context.Context, d *dir, old, e *tree.Entry) error {
	if old != nil && sameContent(old, e) {
		return a.finish(d, e.Name, e)
	}
	switch e.Kind {
	case tree.File:
		return a.file(ctx, d, old, e)
	case tree.CharDevice, tree.BlockDevice:
		if !a.root {
			return nil // the walk knows that an ordinary user has no devices
		}
	}
	return a.special(d, e)
}

// sameContent tells whether only metadata differ. A symlink has none worth the
// difference.
func sameContent(old, e *tree.Entry) bool {
	return old.Kind == e.Kind && e.Kind != tree.Symlink && old.Size == e.Size && old.Link == e.Link && old.Rdev == e.Rdev &&
		reflect.DeepEqual(old.Refs, e.Refs) && reflect.DeepEqual(old.Lists, e.Lists)
}

func (a *applier) writableNode(d *dir, e *tree.Entry) error {
	if a.root {
		return nil
	}
	return d.chmod(e.Name, 0o700)
}

func (a *applier) tempName() string {
	return fmt.Sprintf("%v-%d", a.ds.GUID, a.serial.Add(1))
}

// special makes a node without content beside the tree and moves it in.
func (a *applier) special(d *dir, e *tree.Entry) error {
	name := a.tempName()
	if err := a.tmp.removeAll(name); err != nil {
		return err
	}
	var err error
	switch e.Kind {
	case tree.Symlink:
		err = unix.Symlinkat(e.Target, a.tmp.fd(), name)
	case tree.Fifo:
		err = unix.Mknodat(a.tmp.fd(), name, unix.S_IFIFO|0o600, 0)
	case tree.CharDevice:
		err = unix.Mknodat(a.tmp.fd(), name, unix.S_IFCHR|0o600, int(e.Rdev))
	case tree.BlockDevice:
		err = unix.Mknodat(a.tmp.fd(), name, unix.S_IFBLK|0o600, int(e.Rdev))
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", d.path(e.Name), err)
	}
	return a.moveIn(name, d, e)
}

// moveIn gives a finished temporary node its name.
func (a *applier) moveIn(name string, d *dir, e *tree.Entry) error {
	if err := a.metadata(a.tmp, name, e); err != nil {
		return err
	}
	if err := unix.Renameat(a.tmp.fd(), name, d.fd(), e.Name); err != nil {
		return &os.LinkError{Op: "rename", Old: name, New: d.path(e.Name), Err: err}
	}
	return a.remember(d, e.Name, e)
}

// linkTo makes a second name of a file that is already complete.
func (a *applier) linkTo(ctx context.Context, d *dir, e *tree.Entry, ready <-chan struct{}) error {
	select {
	case <-ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	parent, base, err := a.openParent(e.Link)
	if err != nil { // a tree that lies about its links still has the content
		return a.node(ctx, d, nil, e)
	}
	defer parent.close()
	name := a.tempName()
	if err := a.tmp.removeAll(name); err != nil {
		return err
	}
	if err := unix.Linkat(parent.fd(), base, a.tmp.fd(), name, 0); err != nil {
		return a.node(ctx, d, nil, e) // not there, a directory, or too many links
	}
	if err := unix.Renameat(a.tmp.fd(), name, d.fd(), e.Name); err != nil {
		return &os.LinkError{Op: "rename", Old: name, New: d.path(e.Name), Err: err}
	}
	// Between two names of one file rename does nothing and leaves both.
	if err := a.tmp.removeAll(name); err != nil {
		return err
	}
	return a.relink(parent, base, d, e)
}
