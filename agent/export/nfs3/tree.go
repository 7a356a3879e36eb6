package nfs3

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

const (
	// maxLinks bounds what is remembered of one tree: about 100 bytes each.
	maxLinks = 200_000
	// maxDepth bounds directories in each other.
	maxDepth = 1024
	// maxWalk bounds the search for one file that is not remembered.
	maxWalk = 1_000_000
	// missingFor is how long a file that was not found is not searched again.
	missingFor = 10 * time.Second
	// maxSearches bounds the requests that wait for a search in one tree; what they keep
	// busy is for all trees.
	maxSearches = 8
	everything  = math.MaxInt64
)

// tree is one directory that is served. It holds nothing of it open between
// requests, so that it can be unmounted.
type tree struct {
	path string

	// running counts requests; whoever takes everything waits for them.
	running *semaphore.Weighted

	// replays are answers for those who ask again.
	replays replays
	// closing ends searches, and lets no request begin: the tree is being taken away.
	closing atomic.Bool

	mu       sync.Mutex
	rules    Export
	verifier [8]byte // of writes that are not yet on disk
	links    map[node]link
	missing  map[node]time.Time
	// searched is when a search has last seen everything: what is not in links since then is nowhere.
	searched time.Time

	walking  sync.Mutex
	searches atomic.Int32
	moving   sync.RWMutex // held while an entry moves and is remembered
	dirMoves uint64       // of directories; guarded by mu, as is how often links were cleared
	cleared  uint64
}

// link is where a node was last seen.
type link struct {
	parent node
	name   string
}

func newTree(e Export) *tree {
	t := &tree{
		path: e.Path, running: semaphore.NewWeighted(everything), rules: e,
		links: map[node]link{}, missing: map[node]time.Time{},
	}
	t.doubt()
	return t
}

// doubt makes clients write again what they were not told to be on disk. A tree that is
// served again begins with it: another host may have had it meanwhile.
func (t *tree) doubt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = rand.Read(t.verifier[:]) // never fails
}

// promise is what an unstable write is answered with.
func (t *tree) promise() [8]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.verifier
}

func (t *tree) export() Export {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rules
}

// drain waits until no request runs in the tree. After that none ever will: one may have
// found the tree before, and not have begun.
func (t *tree) drain(ctx context.Context) error {
	t.closing.Store(true)
	return t.running.Acquire(ctx, everything)
}

// remember notes where a node is.
func (t *tree) remember(n node, parent node, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.links) >= maxLinks {
		clear(t.links) // what is asked for again is found by walking
		t.searched = time.Time{}
		t.cleared++
	}
	t.links[n] = link{parent, name}
	delete(t.missing, n)
}

// forget notes that a node is nowhere.
func (t *tree) forget(st *unix.Statx_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return // it has other names
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.links, nodeOf(st))
}

// move renames within the tree, so that no search misses what moves.
func (p *place) move(from, to string, parent node, name string) error {
	p.moving.RLock()
	defer p.moving.RUnlock()
	replaced, none := p.stat(to)
	moved, unknown := p.stat(from)
	if unknown == nil && moved.Mode&unix.S_IFMT == unix.S_IFDIR {
		p.mu.Lock()
		p.dirMoves++
		p.mu.Unlock()
	}
	if err := p.dir.Rename(from, to); err != nil {
		return err
	}
	if none == nil && nodeOf(&replaced) != nodeOf(&moved) {
		p.forget(&replaced)
	}
	if now, err := p.stat(to); err == nil {
		p.remember(nodeOf(&now), parent, name)
	}
	return nil
}

// recall is the path of a node as far as it is remembered; root is ".".
func (t *tree) recall(n, root node) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for n != root {
		l, ok := t.links[n]
		if !ok || len(names) > maxDepth {
			return "", false
		}
		names = append(names, l.name)
		n = l.parent
	}
	slices.Reverse(names)
	return path.Join(append([]string{"."}, names...)...), true
}

// place is an open tree during one request.
type place struct {
	*tree
	dir  *os.Root
	dev  unix.Statx_t // of the root
	root node
	sync func(*os.File) error
}

// enter opens the directory that is now at the tree's path.
func (t *tree) enter() (*place, error) {
	dir, err := os.OpenRoot(t.path)
	if err != nil {
		return nil, statusJukebox // not mounted at this moment
	}
	p := &place{tree: t, dir: dir}
	if p.dev, err = p.stat("."); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	p.root = nodeOf(&p.dev)
	if t.export().Mount && !mounted(t.path, &p.dev) {
		// Somebody has unmounted it: this is the directory below.
		return nil, errors.Join(statusJukebox, dir.Close())
	}
	return p, nil
}

// still tells whether the tree is where it was when the request began: if not, what
// was done may have been done to a copy that nobody serves any more.
func (p *place) still() error {
	fd, err := unix.Open(p.path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return statusJukebox
	}
	now, err := statOf(fd)
	if err = errors.Join(err, unix.Close(fd)); err != nil || nodeOf(&now) != p.root || now.Dev_major != p.dev.Dev_major || now.Dev_minor != p.dev.Dev_minor {
		return statusJukebox
	}
	return nil
}

// stat looks at the entry itself, never through a link, and not into other file systems.
func (p *place) stat(name string) (unix.Statx_t, error) {
	f, err := p.dir.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return unix.Statx_t{}, err
	}
	st, err := p.statFile(f)
	return st, errors.Join(err, f.Close())
}

func (p *place) statFile(f *os.File) (unix.Statx_t, error) {
	st, err := statOf(int(f.Fd()))
	if err == nil && p.root != (node{}) && (st.Dev_major != p.dev.Dev_major || st.Dev_minor != p.dev.Dev_minor) {
		err = statusAcces
	}
	return st, err
}

// mounted tells whether what a path leads to is another file system than that of its parent.
func mounted(path string, st *unix.Statx_t) bool {
	var above unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, filepath.Dir(path), 0, unix.STATX_BASIC_STATS, &above)
	return err == nil && (above.Dev_major != st.Dev_major || above.Dev_minor != st.Dev_minor)
}

func statOf(fd int) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	if err == nil {
		generation(fd, &st)
	}
	return st, err
}

// find is where a node is now; stale when it is nowhere.
func (p *place) find(n node) (string, unix.Statx_t, error) {
	if n == p.root {
		return ".", p.dev, nil
	}
	if name, st, err := p.remembered(n); !errors.Is(err, statusStale) || p.absent(n) {
		return name, st, err
	}
	defer p.searches.Add(-1)
	if p.searches.Add(1) > maxSearches {
		return "", unix.Statx_t{}, statusJukebox
	}
	p.walking.Lock()
	defer p.walking.Unlock()
	// Who searched before us may have passed it.
	if name, st, err := p.remembered(n); !errors.Is(err, statusStale) || p.absent(n) {
		return name, st, err
	}
	return p.search(n)
}

// search looks at everything below the tree until it finds n.
func (p *place) search(n node) (string, unix.Statx_t, error) {
	began := time.Now()
	p.mu.Lock()
	dirMoves, cleared := p.dirMoves, p.cleared
	p.mu.Unlock()
	left := maxWalk
	name, st, err := p.walk(".", p.root, n, &left)
	if !errors.Is(err, statusStale) {
		return name, st, err
	}
	// What was moved behind our back is remembered, but for what is below a directory.
	p.moving.Lock()
	name, st, err = p.remembered(n)
	p.moving.Unlock()
	if !errors.Is(err, statusStale) {
		return name, st, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirMoves != dirMoves {
		return "", unix.Statx_t{}, statusJukebox
	}
	if p.cleared == cleared {
		p.searched = began
	}
	if len(p.missing) >= maxLinks {
		clear(p.missing)
	}
	p.missing[n] = time.Now()
	return "", unix.Statx_t{}, statusStale
}

// remembered looks where a node was last seen.
func (p *place) remembered(n node) (string, unix.Statx_t, error) {
	name, ok := p.recall(n, p.root)
	if !ok {
		return "", unix.Statx_t{}, statusStale
	}
	st, err := p.stat(name)
	if err == nil && nodeOf(&st) != n {
		err = statusStale
	}
	if went(err) {
		err = statusStale
	}
	return name, st, err
}

// absent tells whether a search has lately seen everything, but not this node.
func (p *place) absent(n node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, linked := p.links[n]
	at, missed := p.missing[n]
	return missed && time.Since(at) < missingFor || !linked && time.Since(p.searched) < missingFor
}

// went tells whether an error says that something is not there, or not to be looked at. Any
// other, such as that no more files can be opened, says nothing about it.
func went(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, statusAcces) || errors.Is(err, statusStale) ||
		errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG)
}

// walk searches below dir, depth first, and remembers what it passes.
func (p *place) walk(dir string, parent, wanted node, left *int) (string, unix.Statx_t, error) {
	names, err := p.names(dir)
	if err != nil {
		if went(err) {
			err = statusStale // while we looked
		}
		return "", unix.Statx_t{}, err
	}
	for _, entry := range names {
		if p.closing.Load() {
			return "", unix.Statx_t{}, statusJukebox
		}
		if *left--; *left < 0 {
			return "", unix.Statx_t{}, statusJukebox
		}
		name := path.Join(dir, entry)
		st, err := p.stat(name)
		if went(err) {
			continue
		}
		if err != nil {
			return "", unix.Statx_t{}, err
		}
		n := nodeOf(&st)
		p.remember(n, parent, entry)
		if n == wanted {
			return name, st, nil
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		found, st, err := p.walk(name, n, wanted, left)
		if !errors.Is(err, statusStale) {
			p.remember(n, parent, entry) // there may have been too much to remember since
			return found, st, err
		}
	}
	return "", unix.Statx_t{}, statusStale
}

// names lists a directory.
func (p *place) names(dir string) ([]string, error) {
	f, err := p.dir.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, errors.Join(err, f.Close())
}

// open opens a regular file and makes sure that it is the one meant.
func (p *place) open(name string, n node, flags int) (*os.File, unix.Statx_t, error) {
	f, err := p.dir.OpenFile(name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, unix.Statx_t{}, err
	}
	st, err := p.statFile(f)
	switch {
	case err != nil:
	case nodeOf(&st) != n:
		err = statusStale
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = statusInval
	}
	if err != nil {
		return nil, st, errors.Join(err, f.Close())
	}
	return f, st, nil
}

// child is the path of an entry of dir.
func child(dir, name string) (string, error) {
	switch {
	case len(name) > maxName:
		return "", statusNameTooLong
	case name == "" || name == "." || name == "..":
		return "", statusInval
	case strings.ContainsAny(name, "/\x00"):
		return "", statusInval
	}
	return path.Join(dir, name), nil
}
