package nfs3

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
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
	everything = math.MaxInt64
)

// tree is one directory that is served. It holds nothing of it open between
// requests, so that it can be unmounted.
type tree struct {
	path string

	// running counts requests; whoever takes everything waits for them.
	running *semaphore.Weighted

	mu      sync.Mutex
	rules   Export
	links   map[node]link
	missing map[node]time.Time
	walking sync.Mutex
}

// link is where a node was last seen.
type link struct {
	parent node
	name   string
}

func newTree(e Export) *tree {
	return &tree{
		path: e.Path, running: semaphore.NewWeighted(everything), rules: e,
		links: map[node]link{}, missing: map[node]time.Time{},
	}
}

func (t *tree) export() Export {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rules
}

// drain waits until no request runs in the tree.
func (t *tree) drain(ctx context.Context) error {
	if err := t.running.Acquire(ctx, everything); err != nil {
		return err
	}
	t.running.Release(everything)
	return nil
}

// remember notes where a node is.
func (t *tree) remember(n node, parent node, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.links) >= maxLinks {
		clear(t.links) // what is asked for again is found by walking
	}
	t.links[n] = link{parent, name}
	delete(t.missing, n)
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
	return p, nil
}

// still tells whether the tree is where it was when the request began: if not, what
// was done may have been done to a copy that nobody serves any more.
func (p *place) still() error {
	var now unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, p.path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &now)
	if err != nil || nodeOf(&now) != p.root {
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
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	if err == nil && p.root != (node{}) && (st.Dev_major != p.dev.Dev_major || st.Dev_minor != p.dev.Dev_minor) {
		err = statusAcces
	}
	return st, err
}

// find is where a node is now; stale when it is nowhere.
func (p *place) find(n node) (string, unix.Statx_t, error) {
	if n == p.root {
		return ".", p.dev, nil
	}
	if name, ok := p.recall(n, p.root); ok {
		if st, err := p.stat(name); err == nil && nodeOf(&st) == n {
			return name, st, nil
		}
	}
	p.walking.Lock()
	defer p.walking.Unlock()
	p.mu.Lock()
	at, gone := p.missing[n]
	p.mu.Unlock()
	if gone && time.Since(at) < missingFor {
		return "", unix.Statx_t{}, statusStale
	}
	left := maxWalk
	name, st, err := p.walk(".", p.root, n, &left)
	if errors.Is(err, statusStale) {
		p.mu.Lock()
		if len(p.missing) >= maxLinks {
			clear(p.missing)
		}
		p.missing[n] = time.Now()
		p.mu.Unlock()
	}
	return name, st, err
}

// walk searches below dir, depth first, and remembers what it passes.
func (p *place) walk(dir string, parent, wanted node, left *int) (string, unix.Statx_t, error) {
	names, err := p.names(dir)
	if err != nil {
		return "", unix.Statx_t{}, statusStale // it went while we looked
	}
	for _, entry := range names {
		if *left--; *left < 0 {
			return "", unix.Statx_t{}, statusJukebox
		}
		name := path.Join(dir, entry)
		st, err := p.stat(name)
		if err != nil {
			continue
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
