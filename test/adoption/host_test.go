package adoption

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/agent/replicate"
	"tarn/agent/stream"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

const base = "tarn"

// host is what an agent has of replication, on one pool.
type host struct {
	t           *testing.T
	pool        string
	id, replica string
	share       string
	addr        string
	listener    net.Listener // of the first start
	fs          *zfs.Host
	engine      replicate.Engine // fs, unless it is to fail
	lacks       replicate.Lacks
	tls         *identity.Material
	lease       *lease
	worker      *replicate.Worker
	stop        func()

	mu    sync.Mutex
	steps map[string]int
	bytes int64
}

// newHost has its own certificate and an address, and nothing running.
func newHost(t *testing.T, ca *identity.CA, share, pool string) *host {
	t.Helper()
	h := &host{t: t, pool: pool, id: uuid.NewString(), replica: uuid.NewString(), share: share, lease: &lease{changed: make(chan struct{})}, steps: map[string]int{}}
	var err error
	h.fs, err = zfs.Open(t.Context(), zfs.Config{Pools: []string{pool}})
	h.must(err)
	caps, err := h.fs.Capabilities(t.Context())
	h.must(err)
	h.lacks = replicate.LacksOf(caps)
	cert, key, err := ca.IssueKey(identity.Subject{Role: identity.RoleAgent, ID: h.id})
	h.must(err)
	dir := filepath.Join(t.TempDir(), h.id)
	h.must(identity.SaveNode(dir, ca.CertPEM(), cert, key))
	h.tls, err = identity.LoadMaterial(dir)
	h.must(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	h.must(err)
	h.listener, h.addr = l, l.Addr().String()
	t.Cleanup(func() { _ = l.Close() })
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) root() string    { return h.pool + "/" + base }
func (h *host) dataset() string { return h.root() + "/" + h.replica }

// start runs the host's parts until the test ends.
func (h *host) start() {
	h.t.Helper()
	if h.engine == nil {
		h.engine = h.fs
	}
	log := slog.New(slog.NewTextHandler(logWriter{h.t, h.pool}, nil))
	board := stream.NewBoard()
	client, err := stream.NewClient(stream.ClientConfig{TLS: func(string) *tls.Config { return h.tls.ClientConfig(identity.RoleAgent) }, StallTimeout: time.Minute})
	h.must(err)
	feed, err := stream.NewFeed(stream.FeedConfig{Client: client, Logger: log})
	h.must(err)
	cadence, err := replicate.NewCadence(replicate.CadenceConfig{Engine: h.fs, Root: h.root(), Board: board, Logger: log, Sync: h.sync})
	h.must(err)
	server, err := stream.NewServer(stream.Config{
		Engine: h.fs, Board: board, Logger: log,
		PeerID: func(r *http.Request) (string, error) {
			id, err := identity.Peer(*r.TLS)
			return id.ID, err
		},
		Authorize: func(peer, _, _ string) (stream.Grant, error) { return h.worker.Grant(peer) },
	})
	h.must(err)
	h.worker, err = replicate.NewWorker(replicate.Config{
		ReplicaID: h.replica, ShareID: h.share, Pool: h.pool, Base: base, Engine: h.engine, Source: client, Feed: feed, Board: board,
		Cadence: cadence, Exports: noExports{}, Lease: h.lease, Publish: func(*tarnv1.ReplicaReport) {}, Lacks: h.lacks, Settle: server.Settle, Logger: log,
		Hooks: replicate.Hooks{Step: h.stepped, Bytes: h.moved},
	})
	h.must(err)
	listener := h.listener
	if h.listener = nil; listener == nil { // it goes with its process; nobody asks the next one
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		h.must(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return feed.Run(ctx) })
	g.Go(func() error { return cadence.Run(ctx) })
	g.Go(func() error { return h.worker.Run(ctx) })
	g.Go(func() error { return h.serve(ctx, listener, server, log) })
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			h.t.Errorf("host %s: %v", h.pool, err)
		}
		client.Close()
	})
	h.t.Cleanup(h.stop)
}

// sync lets a listing show what was written before it was asked for.
func (h *host) sync(ctx context.Context) error { return h.fs.Sync(ctx, h.pool) }

func (h *host) serve(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	hs := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { _ = hs.Close() })()
	if err := hs.Serve(tls.NewListener(listener, h.tls.ServerConfig("http/1.1"))); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (h *host) stepped(_, _, kind, result string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.steps[kind+" "+result]++
}

func (h *host) moved(_, _ string, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytes += n
}

// received is how many bytes came, and in which steps.
func (h *host) received() (int64, map[string]int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bytes, h.steps
}

func (h *host) assign(role tarnv1.Role, from string, edit ...func(*tarnv1.Assignment)) {
	a := &tarnv1.Assignment{
		ReplicaId: h.replica, ShareId: h.share, Pool: h.pool, Role: role, Epoch: 1, Exports: &tarnv1.Exports{Revision: 1},
		Cadence: durationpb.New(patience() / 300), ReplicationType: tarnv1.ReplicationType_REPLICATION_TYPE_READABLE, ManagedFrom: from,
	}
	for _, e := range edit {
		e(a)
	}
	h.worker.Assign(a)
}

func (h *host) report() *tarnv1.ReplicaReport {
	if r := h.worker.Report(); r != nil {
		return r
	}
	return &tarnv1.ReplicaReport{}
}

// patience is long where a processor is emulated; a 300th of it lies between snapshots.
func patience() time.Duration {
	if os.Getenv("TARN_VM") != "" {
		return 5 * time.Minute
	}
	return time.Minute
}

// until waits for a condition of the reports.
func (h *host) until(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(patience())
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			h.t.Fatalf("never: %s: %v", what, h.report())
		}
		<-tick.C
	}
}

type lease struct {
	mu      sync.Mutex
	held    bool
	changed chan struct{}
}

func (l *lease) Held(string, string, uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

func (l *lease) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *lease) set(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	close(l.changed)
	l.changed = make(chan struct{})
}

// noExports serves nobody: what is taken over here is looked at on its host.
type noExports struct{}

func (noExports) Apply(context.Context, string, *tarnv1.Exports, bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	return nil, nil, nil
}

func (noExports) Remove(context.Context, string) error { return nil }

type logWriter struct {
	t    *testing.T
	name string
}

func (w logWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		w.t.Logf("%s %s", w.name, strings.TrimSpace(string(b)))
	}
	return len(b), nil
}
