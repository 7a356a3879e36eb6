package nfs3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config of a Server. Key is required.
type Config struct {
	// Key seals handles: 16 bytes or more, the same at every start.
	Key []byte
	// Serving tells whether this host may serve a tree at this moment, for writing
	// if readOnly is false. It is asked before each request, and after it, before
	// anything is answered: it must be quick. Nil always may.
	Serving func(path string, readOnly bool) bool
	// AnyPort admits clients from ports of 1024 and above, where any program of
	// theirs may claim to be any user.
	AnyPort bool
	// MaxConnections at once, by default 512; from one address a quarter of them.
	MaxConnections int
	// IdleTimeout ends a connection on which nothing happens, by default 15 min.
	IdleTimeout time.Duration
	Logger      *slog.Logger

	// sync puts one open file on disk; tests watch.
	sync func(*os.File) error
}

// Export is one tree and who may reach it.
type Export struct {
	// Path is absolute; clients mount it under the same name.
	Path   string
	FSID   FSID
	Squash Squash
	// Mount says that a file system is mounted at Path: without it nothing is served.
	Mount bool
	// Access tells what a client may do.
	Access func(netip.Addr) (readOnly, ok bool)
}

// maxRunning bounds the requests that run at once, each with maxData at most.
const maxRunning = 64

// Server serves trees. Safe for concurrent use.
type Server struct {
	config Config
	seal   sealer
	slots  chan struct{}

	mu    sync.Mutex
	trees map[string]*tree // by path
	conns map[netip.Addr]int
	open  int
}

// New returns a Server without trees.
func New(config Config) (*Server, error) {
	if len(config.Key) < 16 {
		return nil, errors.New("nfs server needs a key of 16 bytes or more")
	}
	if config.Serving == nil {
		config.Serving = func(string, bool) bool { return true }
	}
	if config.MaxConnections == 0 {
		config.MaxConnections = 512
	}
	if config.IdleTimeout == 0 {
		config.IdleTimeout = 15 * time.Minute
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.sync == nil {
		config.sync = (*os.File).Sync
	}
	s := &Server{
		config: config, seal: sealer{config.Key}, slots: make(chan struct{}, maxRunning),
		trees: map[string]*tree{}, conns: map[netip.Addr]int{},
	}
	return s, nil
}

// Export serves a tree, or changes who may reach it: for the next request, on
// connections and handles that exist too.
func (s *Server) Export(e Export) error {
	if !filepath.IsAbs(e.Path) || filepath.Clean(e.Path) != e.Path || e.Access == nil {
		return fmt.Errorf("export %q: want a clean absolute path and rules", e.Path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.trees {
		if other := t.export(); other.FSID == e.FSID && other.Path != e.Path {
			return fmt.Errorf("export %s: fsid %x is that of %s", e.Path, e.FSID, other.Path)
		}
	}
	t, ok := s.trees[e.Path]
	if !ok {
		s.trees[e.Path] = newTree(e)
		return nil
	}
	t.mu.Lock()
	t.rules = e
	t.mu.Unlock()
	t.closing.Store(false) // it was to be taken away, in vain
	return nil
}

// Unexport takes a tree away. When it returns nil no request is running in the
// tree, and nothing of it is open.
func (s *Server) Unexport(ctx context.Context, path string) error {
	s.mu.Lock()
	t := s.trees[path]
	delete(s.trees, path)
	s.mu.Unlock()
	if t == nil {
		return nil
	}
	if err := t.drain(ctx); err != nil {
		// Nobody new comes in, but this must be asked for again.
		s.mu.Lock()
		if s.trees[path] == nil {
			t.mu.Lock()
			t.rules.Access = func(netip.Addr) (bool, bool) { return false, false }
			t.mu.Unlock()
			s.trees[path] = t
		}
		s.mu.Unlock()
		return fmt.Errorf("requests still run in %s: %w", path, err)
	}
	return nil
}

// byFSID finds the tree of a handle.
func (s *Server) byFSID(fsid FSID) *tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.trees {
		if t.export().FSID == fsid {
			return t
		}
	}
	return nil
}

// byPath finds the tree that a path is in, and the rest of the path.
func (s *Server) byPath(path string) (*tree, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *tree
	for _, t := range s.trees {
		if (path == t.path || strings.HasPrefix(path, t.path+"/")) && (best == nil || len(t.path) > len(best.path)) {
			best = t
		}
	}
	if best == nil {
		return nil, ""
	}
	return best, strings.TrimPrefix(strings.TrimPrefix(path, best.path), "/")
}

// Serve accepts connections on ln until ctx ends, then closes ln and all
// connections and returns nil.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	group.Go(func() error {
		for {
			conn, err := ln.Accept()
			if ctx.Err() != nil {
				if err == nil {
					_ = conn.Close()
				}
				return nil
			}
			if scarce(err) {
				s.config.Logger.Warn("NFS clients have to wait", "err", err)
				select {
				case <-time.After(scarcePause):
				case <-ctx.Done():
				}
				continue
			}
			if err != nil {
				return fmt.Errorf("accept NFS client: %w", err)
			}
			peer, ok := s.admit(conn)
			if !ok {
				_ = conn.Close()
				continue
			}
			group.Go(func() error {
				defer s.leave(peer.Addr())
				s.serve(ctx, conn, peer)
				return nil
			})
		}
	})
	return group.Wait()
}

// scarcePause is how long nobody is accepted when the system has no room.
const scarcePause = 100 * time.Millisecond

// scarce tells whether the system had no room for one more connection, which passes.
func scarce(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// admit counts a connection, if there is room and its port is one to trust.
func (s *Server) admit(conn net.Conn) (netip.AddrPort, bool) {
	peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return peer, false
	}
	peer = netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
	if !s.config.AnyPort && peer.Port() >= 1024 {
		s.config.Logger.Info("NFS client refused: its port is not below 1024", "client", peer)
		return peer, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.config.MaxConnections || s.conns[peer.Addr()] >= max(1, s.config.MaxConnections/4) {
		return peer, false
	}
	s.open++
	s.conns[peer.Addr()]++
	return peer, true
}

func (s *Server) leave(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	if s.conns[addr]--; s.conns[addr] <= 0 {
		delete(s.conns, addr)
	}
}
