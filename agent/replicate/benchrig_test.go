package replicate

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/agent/stream"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// rig is two agents, as far as replication goes, with many shares from the first
// to the second over real mTLS.
type rig struct {
	b    testing.TB
	a, z *rigHost
	news chan struct{} // something was reported
	// verified is when a received snapshot was last read back, Unix nanoseconds.
	verified atomic.Int64
	replica  [][2]string // of each share: on a, on z
}

type rigHost struct {
	id, addr string
	pool     string
	fs       benchEngine
	board    *stream.Board
	client   *stream.Client
	feed     *stream.Feed
	server   *stream.Server
	survey   *Survey
	cadence  *Cadence
	workers  map[string]*Worker
	lease    *testLease
	tls      *identity.Material
	listener net.Listener
}

// benchEngine is a host's storage.
type benchEngine interface {
	Engine
	CadenceEngine
	stream.Engine
	Capabilities(ctx context.Context) (zfs.Capabilities, error)
}

// storage opens the storage of one host and tells its pool.
type storage func(b testing.TB) (benchEngine, string)

func onDirectories(b testing.TB) (benchEngine, string) {
	fs, err := dirzfs.Open(dirzfs.Config{Pools: []dirzfs.Pool{{Name: testPool, Dir: b.TempDir()}}, Logger: slog.New(slog.DiscardHandler)})
	bench(b, err)
	b.Cleanup(func() { _ = fs.Close() })
	return fs, testPool
}

func newRig(b testing.TB, open storage, shares int) *rig {
	b.Helper()
	ca, err := identity.NewCA("bench")
	bench(b, err)
	r := &rig{b: b, news: make(chan struct{}, 1)}
	r.a, r.z = r.newHost(ca, open), r.newHost(ca, open)
	for range shares {
		r.replica = append(r.replica, [2]string{uuid.NewString(), uuid.NewString()})
	}
	return r
}

func bench(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (h *rigHost) root() string { return h.pool + "/" + testBase }

func (r *rig) newHost(ca *identity.CA, open storage) *rigHost {
	b := r.b
	h := &rigHost{id: uuid.NewString(), workers: map[string]*Worker{}, lease: &testLease{changed: make(chan struct{}), epoch: 1}, board: stream.NewBoard()}
	log := slog.New(slog.DiscardHandler)
	var err error
	h.fs, h.pool = open(b)
	bench(b, h.fs.Create(b.Context(), h.root(), map[string]string{"canmount": "off"}, true))
	cert, key, err := ca.IssueKey(identity.Subject{Role: identity.RoleAgent, ID: h.id})
	bench(b, err)
	dir := b.TempDir()
	bench(b, identity.SaveNode(dir, ca.CertPEM(), cert, key))
	h.tls, err = identity.LoadMaterial(dir)
	bench(b, err)
	h.client, err = stream.NewClient(stream.ClientConfig{TLS: func(string) *tls.Config { return h.tls.ClientConfig(identity.RoleAgent) }})
	bench(b, err)
	h.feed, err = stream.NewFeed(stream.FeedConfig{Client: h.client, Logger: log})
	bench(b, err)
	h.cadence, err = NewCadence(CadenceConfig{Engine: h.fs, Root: h.root(), Board: h.board, Logger: log})
	bench(b, err)
	h.survey = NewSurvey(h.fs, h.root())
	h.server, err = stream.NewServer(stream.Config{
		Engine: h.fs, Board: h.board, Logger: log, Listed: h.cadence.Listed,
		PeerID: func(q *http.Request) (string, error) {
			id, err := identity.Peer(*q.TLS)
			return id.ID, err
		},
		Authorize: func(peer, _, replica string) (stream.Grant, error) { return h.workers[replica].Grant(peer) },
	})
	bench(b, err)
	h.listener, err = net.Listen("tcp", "127.0.0.1:0")
	bench(b, err)
	h.addr = h.listener.Addr().String()
	return h
}

// run starts both agents with all shares; they end with the benchmark.
func (r *rig) run(cadence time.Duration) {
	ctx, stop := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range []*rigHost{r.a, r.z} {
		g.Go(func() error { return h.feed.Run(ctx) })
		g.Go(func() error { return h.cadence.Run(ctx) })
		g.Go(func() error { return h.serve(ctx) })
	}
	for _, ids := range r.replica {
		share := uuid.NewString()
		as := r.a.assignment(share, ids[0], tarnv1.Role_ROLE_ACTIVE, cadence)
		as.Peers = []*tarnv1.Peer{{ReplicaId: ids[1], HostId: r.z.id}}
		r.worker(ctx, g, r.a, as)
		as = r.z.assignment(share, ids[1], tarnv1.Role_ROLE_SECONDARY, cadence)
		as.Source = &tarnv1.Source{ReplicaId: ids[0], HostId: r.a.id, Address: r.a.addr}
		r.worker(ctx, g, r.z, as)
	}
	r.b.Cleanup(func() {
		stop()
		_ = g.Wait()
		r.a.client.Close()
		r.z.client.Close()
	})
}

func (h *rigHost) assignment(share, replica string, role tarnv1.Role, cadence time.Duration) *tarnv1.Assignment {
	return &tarnv1.Assignment{
		ReplicaId: replica, ShareId: share, Pool: h.pool, Role: role, Epoch: 1, Exports: &tarnv1.Exports{Revision: 1},
		SizeGib: 1, Cadence: durationpb.New(cadence), ReplicationType: tarnv1.ReplicationType_REPLICATION_TYPE_DR,
	}
}

func (r *rig) worker(ctx context.Context, g *errgroup.Group, h *rigHost, as *tarnv1.Assignment) {
	caps, err := h.fs.Capabilities(ctx)
	bench(r.b, err)
	w, err := NewWorker(Config{
		ReplicaID: as.GetReplicaId(), ShareID: as.GetShareId(), Pool: h.pool, Base: testBase, Engine: h.fs, Source: h.client,
		Feed: h.feed, Board: h.board, Cadence: h.cadence, Settle: h.server.Settle, Lacks: LacksOf(caps), Can: caps.StreamFlags(), Survey: h.survey, Exports: &testExports{all: map[string]bool{}}, Lease: h.lease,
		Publish: func(*tarnv1.ReplicaReport) { r.poke() }, Hooks: Hooks{Phase: r.phase}, Logger: slog.New(slog.DiscardHandler),
	})
	bench(r.b, err)
	h.workers[as.GetReplicaId()] = w
	w.Assign(as)
	g.Go(func() error { return w.Run(ctx) })
}

func (r *rig) phase(name string, _ time.Duration) {
	if name == "verify" {
		r.verified.Store(time.Now().UnixNano())
	}
}

func (r *rig) poke() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (h *rigHost) serve(ctx context.Context) error {
	hs := &http.Server{Handler: h.server, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	stopped := context.AfterFunc(ctx, func() { _ = hs.Close() })
	defer stopped()
	return hs.Serve(tls.NewListener(h.listener, h.tls.ServerConfig("http/1.1")))
}

// until waits for a condition, asked again at every report.
func (r *rig) until(ok func() bool) {
	limit := time.NewTimer(20 * time.Minute) // a thousand shares on an old machine
	defer limit.Stop()
	for !ok() {
		select {
		case <-r.news:
		case <-limit.C:
			r.b.Fatalf("the shares never got there; the first is %v on the source, %v on the target",
				r.a.workers[r.replica[0][0]].Report(), r.z.workers[r.replica[0][1]].Report())
		}
	}
}

// syncer is an engine whose listings show writes late.
type syncer interface {
	Sync(ctx context.Context, pool string) error
}

// fill changes 64 KiB of every dataset that is named, and lets the listings know:
// every round begins with all of it written.
func (r *rig) fill(datasets []string) {
	r.b.Helper()
	for _, name := range datasets {
		d, err := r.a.fs.Dataset(r.b.Context(), name)
		bench(r.b, err)
		data := make([]byte, 64<<10)
		_, _ = rand.Read(data)
		bench(r.b, os.WriteFile(filepath.Join(d.Mountpoint, "data"), data, 0o600))
	}
	if s, ok := r.a.fs.(syncer); ok {
		bench(r.b, s.Sync(r.b.Context(), r.a.pool))
	}
}

// shares are the datasets of the active replicas.
func (r *rig) shares() (names []string) {
	for _, ids := range r.replica {
		names = append(names, r.a.root()+"/"+ids[0])
	}
	return names
}

// round lets everything be due now and waits until every copy has reported the
// head that its source took.
func (r *rig) round(before map[string]zfs.GUID) {
	c := r.a.cadence
	c.mu.Lock()
	for _, e := range c.all {
		e.due = time.Time{}
	}
	c.mu.Unlock()
	c.poke()
	r.await(before)
}

// await looks at each share until it is there, and then no more: looking must not
// cost what is measured.
func (r *rig) await(before map[string]zfs.GUID) {
	left := r.replica
	r.until(func() bool {
		for len(left) > 0 && r.arrived(before, left[0]) {
			left = left[1:]
		}
		return len(left) == 0
	})
}

func (r *rig) arrived(before map[string]zfs.GUID, ids [2]string) bool {
	t, _ := r.a.cadence.Tracking(ids[0])
	report := r.z.workers[ids[1]].Report()
	return t.Head.GUID != 0 && t.Head.GUID != before[ids[0]] && report.GetHeadGuid() == uint64(t.Head.GUID) && report.GetReady()
}

func (r *rig) heads() map[string]zfs.GUID {
	heads := map[string]zfs.GUID{}
	for _, ids := range r.replica {
		t, _ := r.a.cadence.Tracking(ids[0])
		heads[ids[0]] = t.Head.GUID
	}
	return heads
}
