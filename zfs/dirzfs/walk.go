package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
)

// walker turns the live files of a dataset into a tree. It stats every node and
// reads those whose signature is not the one in the index.
type walker struct {
	p     *pool
	ds    *datasetRec
	batch *store.Batch
	// keep stores chunks; otherwise they are hashed only.
	keep bool

	mu    sync.Mutex
	index indexChange
	links map[uint64]string // inode -> first path, of files with several names
	root  bool              // we are the superuser
}

// walked is what a walk found.
type walked struct {
	root  tree.Hash
	top   tree.Entry
	index indexChange
}

// walk reads the live tree below top. Objects, and chunks if keep is set, go to
// batch; committing it is the caller's.
func (p *pool) walk(ctx context.Context, ds *datasetRec, batch *store.Batch, keep bool) (*walked, error) {
	top, err := p.openHead(ds)
	if err != nil {
		return nil, err
	}
	defer top.close()
	w := &walker{p: p, ds: ds, batch: batch, keep: keep, links: map[uint64]string{}, root: os.Geteuid() == 0}
	base, err := p.treeRoot(ds.At)
	if err != nil {
		return nil, err
	}
	known, err := p.loadIndex(ds.GUID, "/")
	if err != nil {
		return nil, err
	}
	sig, ok := known[""]
	st, err := top.stat("")
	if err != nil {
		return nil, err
	}
	e, err := w.node(ctx, top, "", &st, seen{base, sig, ok})
	if err != nil {
		return nil, err
	}
	h, err := tree.PutRoot(*e, batch.Object)
	return &walked{root: h, top: *e, index: w.index}, err
}

// treeRoot reads a root entry; nil for the zero hash.
func (p *pool) treeRoot(h tree.Hash) (*tree.Entry, error) {
	if h.IsZero() {
		return nil, nil
	}
	e, err := tree.Root(h, p.store.Object)
	return &e, err
}

// seen is what is known of a path: its entry in At and the signature it had then.
type seen struct {
	base  *tree.Entry
	sig   signature
	known bool
}

func (s seen) unchanged(st *unix.Stat_t) bool {
	kind, ok := kindOf(st)
	return ok && s.known && s.base != nil && s.base.Kind == kind && s.sig == signatureOf(st)
}

// node reads one node. d is its parent, or itself when name is "". A nil entry
// means that the node vanished or is not stored.
func (w *walker) node(ctx context.Context, d *dir, name string, st *unix.Stat_t, before seen) (*tree.Entry, error) {
	kind, ok := kindOf(st)
	if !ok {
		return nil, nil
	}
	e, err := w.entry(ctx, d, name, kind, st, before)
	if e == nil || err != nil || kind != tree.Dir {
		return e, err
	}
	return e, w.descend(ctx, d, name, e, before.base)
}

func (w *walker) entry(ctx context.Context, d *dir, name string, kind tree.Kind, st *unix.Stat_t, before seen) (*tree.Entry, error) {
	if before.unchanged(st) {
		clone := *before.base
		return &clone, nil
	}
	return w.read(ctx, d, name, kind, st, before.base)
}

// descend fills in a directory's content.
func (w *walker) descend(ctx context.Context, d *dir, name string, e, base *tree.Entry) error {
	sub := d
	if name != "" {
		var err error
		if sub, err = d.openDir(name); err != nil {
			return err
		}
		defer sub.close()
	}
	var child tree.Hash
	if base != nil && base.Kind == tree.Dir {
		child = base.Child
	}
	h, bytes, nodes, err := w.dir(ctx, sub, child)
	e.Child, e.Bytes, e.Nodes = h, bytes, nodes+1
	return err
}

// dir reads a directory's entries, files in parallel.
func (w *walker) dir(ctx context.Context, d *dir, base tree.Hash) (h tree.Hash, bytes, nodes int64, err error) {
	if err := ctx.Err(); err != nil {
		return h, 0, 0, err
	}
	s, err := w.scan(d, base)
	if err != nil {
		return h, 0, 0, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i, name := range s.names {
		if err := w.visit(gctx, g, d, s, i, name); err != nil {
			return h, 0, 0, errors.Join(err, g.Wait())
		}
	}
	if err := g.Wait(); err != nil {
		return h, 0, 0, err
	}
	return s.put(w, d)
}

// scan is one directory while it is read.
type scan struct {
	base  map[string]*tree.Entry
	hash  tree.Hash
	known map[string]signature
	names []string
	found []*tree.Entry
}

func (w *walker) scan(d *dir, base tree.Hash) (*scan, error) {
	entries, err := tree.ReadDir(base, w.p.store.Object)
	if err != nil {
		return nil, err
	}
	s := &scan{base: make(map[string]*tree.Entry, len(entries)), hash: base}
	for i := range entries {
		s.base[entries[i].Name] = &entries[i]
	}
	if s.known, err = w.p.loadIndex(w.ds.GUID, d.rel); err != nil {
		return nil, err
	}
	s.names, err = d.names()
	s.found = make([]*tree.Entry, len(s.names))
	return s, err
}

// visit reads entry i: directories and unchanged nodes at once, files that have
// to be read in the background.
func (w *walker) visit(ctx context.Context, g *errgroup.Group, d *dir, s *scan, i int, name string) error {
	sig, known := s.known[name]
	before := seen{s.base[name], sig, known}
	st, err := d.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	kind, _ := kindOf(&st)
	link := w.link(d, name, kind, &st)
	work := func() error {
		e, err := w.node(ctx, d, name, &st, before)
		if e != nil {
			e.Name, e.Link = name, w.linkOf(link, e, d.path(name))
		}
		s.found[i] = e
		return err
	}
	if kind == tree.Dir || before.unchanged(&st) {
		return work()
	}
	g.Go(work)
	return nil
}

// link gives the first path of a node with several names, by walk order. Those of one whose
// path is too long for that become files of their own.
func (w *walker) link(d *dir, name string, kind tree.Kind, st *unix.Stat_t) string {
	if kind == tree.Dir || st.Nlink < 2 {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.links[st.Ino]; !ok {
		w.links[st.Ino] = d.path(name)
	}
	if first := w.links[st.Ino]; len(first) <= tree.MaxPath {
		return first
	}
	return ""
}

// linkOf keeps a recorded link to itself: its other names may be gone, which does
// not change this one.
func (w *walker) linkOf(link string, e *tree.Entry, own string) string {
	if link == "" && e.Link == own {
		return own
	}
	return link
}

// put stores the directory unless it is what the base has.
func (s *scan) put(w *walker, d *dir) (h tree.Hash, bytes, nodes int64, err error) {
	var list []tree.Entry
	live := make(map[string]bool, len(s.names))
	for _, e := range s.found {
		if e != nil {
			list = append(list, *e)
			live[e.Name] = true
		}
	}
	for name, b := range s.base {
		if live[name] {
			continue
		}
		if !w.root && (b.Kind == tree.CharDevice || b.Kind == tree.BlockDevice) {
			list = append(list, *b) // never made here: not a change
			continue
		}
		w.gone(d, name, b)
	}
	slices.SortFunc(list, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
	return tree.PutDir(list, w.putNew)
}

func (w *walker) putNew(h tree.Hash, payload []byte) error { return w.batch.Object(h, payload) }

func (w *walker) gone(d *dir, name string, b *tree.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index.forget(d.rel, name)
	if b.Kind == tree.Dir {
		w.index.gone = append(w.index.gone, d.path(name))
	}
}

// read makes the entry of a node that has to be looked at.
func (w *walker) read(ctx context.Context, d *dir, name string, kind tree.Kind, st *unix.Stat_t, base *tree.Entry) (e *tree.Entry, err error) {
	for try := range readTries {
		begun := time.Now().UnixNano()
		if e, err = w.readOnce(ctx, d, name, kind, base); err != nil || e == nil {
			break
		}
		after, statErr := d.stat(name)
		if statErr == nil && signatureOf(&after) == signatureOf(st) {
			w.remember(d, name, e, base, st, begun)
			return e, nil
		}
		if statErr != nil || try == readTries-1 {
			break
		}
		*st = after
		if k, ok := kindOf(st); !ok || k != kind {
			return nil, nil // replaced by something else while we looked: as if gone
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && e != nil && w.keep {
		w.forget(d, name)
	}
	if err == nil && e != nil && kind == tree.File {
		w.p.log.Warn("file kept changing while it was read", "dataset", w.ds.Name, "path", d.path(name))
	}
	return e, err
}

// readTries bounds how often a file that changes is read again.
const readTries = 3

// remember puts the node's signature into the index, if it can be trusted.
func (w *walker) remember(d *dir, name string, e, base *tree.Entry, st *unix.Stat_t, begun int64) {
	if !settled(st, begun) {
		if w.keep {
			w.forget(d, name)
		}
		return
	}
	if !w.keep && (base == nil || !sameNode(e, base)) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at := indexPlace(d, name)
	w.index.set(at[0], at[1], signatureOf(st))
}

// forget drops the signature of a node whose entry is new and whose own signature cannot
// be trusted: the one of before would be taken for that of the new entry.
func (w *walker) forget(d *dir, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := indexPlace(d, name)
	w.index.forget(at[0], at[1])
}

func (w *walker) readOnce(ctx context.Context, d *dir, name string, kind tree.Kind, base *tree.Entry) (*tree.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	st, err := d.stat(name)
	if err != nil {
		return nil, err
	}
	e := &tree.Entry{Name: name, Kind: kind, UID: st.Uid, GID: st.Gid, Mode: st.Mode & 0o7777, MTime: st.Mtim.Nano(), Nodes: 1}
	if err := w.trueOwner(d, name, e, base); err != nil {
		return nil, err
	}
	if e.Xattrs, err = d.xattrs(name, kind); err != nil {
		return nil, err
	}
	switch kind {
	case tree.File:
		return e, w.content(ctx, d, name, e)
	case tree.Symlink:
		buf := make([]byte, 4096)
		n, err := unix.Readlinkat(d.fd(), name, buf)
		e.Target = string(buf[:max(n, 0)])
		return e, err
	case tree.CharDevice, tree.BlockDevice:
		e.Rdev = st.Rdev
	}
	return e, nil
}

// trueOwner undoes what this host could not or did not want to give the file:
// other owners and setuid bits as an ordinary user, write bits when read-only.
func (w *walker) trueOwner(d *dir, name string, e, base *tree.Entry) error {
	if w.ds.Masked && e.Kind != tree.Symlink {
		m, ok, err := w.p.loadMode(w.ds.GUID, d.path(name))
		if err != nil {
			return err
		}
		if !ok && base != nil {
			m, ok = base.Mode, true
		}
		masked := liveMode(m, w.root) &^ 0o222
		if ok && (e.Mode == masked || name == "" && e.Mode == masked|0o200) { // the top is opened to be moved
			e.Mode = m
		}
	}
	if w.root || base == nil || base.Kind != e.Kind || int(e.UID) != os.Geteuid() {
		return nil
	}
	e.UID, e.GID = base.UID, base.GID
	if e.Mode == liveMode(base.Mode, false) {
		e.Mode = base.Mode
	}
	return nil
}

// liveMode is the mode that a file of the tree gets: setuid and setgid only from
// the superuser's hand.
func liveMode(mode uint32, root bool) uint32 {
	if root {
		return mode
	}
	return mode &^ 0o6000
}

// sameNode compares entries but for what lies below a directory and the link,
// which the walk computes anew.
func sameNode(a, b *tree.Entry) bool {
	x, y := *a, *b
	x.Child, x.Bytes, x.Nodes, x.Link, x.Name = y.Child, y.Bytes, y.Nodes, y.Link, y.Name
	return fmt.Sprint(x) == fmt.Sprint(y)
}
