package replicate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/agent/keys"
	"tarn/agent/stream"
	"tarn/agent/stream/memzfs"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

const (
	testPool = "tank"
	testBase = "tarn"
	testRoot = testPool + "/" + testBase
)

// cluster is a set of hosts that replicate to each other over real mTLS.
type cluster struct {
	t     *testing.T
	share string
	hosts []*testHost
	mu    sync.Mutex
	ping  chan struct{} // closed at every report
	// encrypted is the share, by its type.
	encrypted bool
}

// testHost is one agent as far as replication goes.
type testHost struct {
	c       *cluster
	id      string
	replica string
	pool    string
	fs      testStorage
	mem     *memzfs.Host // fs, where faults are injected
	addr    string
	board   *stream.Board
	client  *stream.Client
	server  atomic.Pointer[stream.Server]
	lease   *testLease
	exports *testExports
	tls     *identity.Material
	keys    Keys
	damage  func(string) error

	// reserved keeps the address until every host of the cluster has one of its own.
	reserved net.Listener
	stop     context.CancelFunc
	done     chan error
	worker   *Worker
	want     *tarnv1.Assignment
	// away is how long its peers may be; 0 for the default. steps is what the hooks told.
	away  time.Duration
	steps map[string]int
	// cut ends streams from this host early.
	cut *cutter
}

func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	return newClusterOn(t, inMemory, n)
}

func newClusterOn(t *testing.T, on maker, n int) *cluster {
	t.Helper()
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, share: uuid.NewString(), ping: make(chan struct{})}
	for i := range n {
		c.hosts = append(c.hosts, c.newHost(ca, on, i))
	}
	for _, h := range c.hosts {
		_ = h.reserved.Close()
	}
	for _, h := range c.hosts {
		if s, ok := h.fs.(sealable); ok && s.seal(c.hosts[0].keys.Path(c.share)) {
			c.encrypted, h.keys = true, c.hosts[0].keys // copied everywhere
		}
	}
	return c
}

func (c *cluster) newHost(ca *identity.CA, on maker, i int) *testHost {
	c.t.Helper()
	h := &testHost{
		c: c, id: uuid.NewString(), replica: uuid.NewString(), fs: on(c.t, i),
		lease: &testLease{changed: make(chan struct{})}, exports: &testExports{all: map[string]bool{}}, cut: &cutter{}, steps: map[string]int{},
	}
	h.mem, _ = h.fs.(*memzfs.Host)
	h.pool = poolOf(h.fs)
	var err error
	if h.keys, err = keys.Open(filepath.Join(c.t.TempDir(), "keys")); err != nil {
		c.t.Fatal(err)
	}
	cert, key, err := ca.IssueKey(identity.Subject{Role: identity.RoleAgent, ID: h.id})
	if err != nil {
		c.t.Fatal(err)
	}
	dir := filepath.Join(c.t.TempDir(), h.id)
	if err := identity.SaveNode(dir, ca.CertPEM(), cert, key); err != nil {
		c.t.Fatal(err)
	}
	if h.tls, err = identity.LoadMaterial(dir); err != nil {
		c.t.Fatal(err)
	}
	l, err := net.Listen("tcp", ownLoopback())
	if err != nil {
		c.t.Fatal(err)
	}
	h.addr, h.reserved = l.Addr().String(), l
	return h
}

// ownLoopback is an address of this process's own, any port: one on 127.0.0.1 is given
// to somebody else as soon as it is let go of.
func ownLoopback() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d:0", 1+pid>>14&0x7f, pid>>7&0x7f, 1+pid&0x7f)
}

// start runs the host's agent parts with a fresh worker: what a process start is.
func (h *testHost) start() {
	h.c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.board = stream.NewBoard()
	var err error
	h.client, err = stream.NewClient(stream.ClientConfig{TLS: func(string) *tls.Config { return h.tls.ClientConfig(identity.RoleAgent) }, StallTimeout: 20 * time.Second})
	h.c.must(err)
	log := slog.New(slog.NewTextHandler(testWriter{h.c.t, h.id[:4]}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	feed, err := stream.NewFeed(stream.FeedConfig{Client: h.client, Logger: log})
	h.c.must(err)
	cadence, err := NewCadence(CadenceConfig{Engine: h.fs, Root: h.root(), Board: h.board, Logger: log, Sync: syncOf(h)})
	h.c.must(err)
	h.worker, err = NewWorker(Config{
		ReplicaID: h.replica, ShareID: h.c.share, Pool: h.pool, Base: testBase, Engine: h.fs, Lacks: lacksOf(h.fs), Can: flagsOf(h.fs),
		Source: h.client, Feed: feed, Board: h.board, Cadence: cadence, Exports: h.exports, Lease: h.lease, Keys: h.keys, Damage: h.damage,
		Publish: func(*tarnv1.ReplicaReport) { h.c.poke() }, Logger: log, KeepRecent: 4, AwayBudget: h.away, Settle: h.settle,
		Hooks: Hooks{
			Step: h.stepped, Bytes: func(_, _ string, n int64) { h.hear("bytes", int(n)) },
			Discarded: func(reason string, n int64) { h.hear("discarded "+reason, int(n)) },
			Fence: func(action string, err error) {
				if err != nil {
					action = "failed"
				}
				h.hear("fence "+action, 1)
			},
		},
	})
	h.c.must(err)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return feed.Run(ctx) })
	g.Go(func() error { return cadence.Run(ctx) })
	g.Go(func() error { return h.worker.Run(ctx) })
	// A handler of the life before may still run: it has its own worker.
	worker := h.worker
	srv, err := h.newServer(worker, log)
	h.c.must(err)
	h.server.Store(srv)
	g.Go(func() error { return h.serve(ctx, srv, log) })
	h.stop, h.done = cancel, make(chan error, 1)
	go func() { h.done <- g.Wait() }()
	if h.want != nil {
		h.worker.Assign(h.want)
	}
	h.c.t.Cleanup(h.kill)
}

func (h *testHost) stepped(_, _, kind, result string) {
	if result == "ok" {
		h.hear(kind, 1)
	}
}

// hear adds up what the hooks tell, heard gives it.
func (h *testHost) hear(what string, n int) {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	h.steps[what] += n
}

func (h *testHost) heard(what string) int {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	return h.steps[what]
}

// second runs a worker for one more replica, of another share, on the same host.
func (h *testHost) second(replica string) *testHost {
	h.c.t.Helper()
	o := &testHost{c: h.c, id: h.id, pool: h.pool, replica: replica, fs: h.fs, mem: h.mem, lease: &testLease{changed: make(chan struct{})}, exports: h.exports}
	cfg := h.worker.cfg
	cfg.ReplicaID, cfg.ShareID, cfg.Lease = replica, "other-share", o.lease
	var err error
	o.worker, err = NewWorker(cfg)
	h.c.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	o.stop, o.done = cancel, make(chan error, 1)
	go func() { o.done <- o.worker.Run(ctx) }()
	h.c.t.Cleanup(func() { cancel(); <-o.done })
	return o
}

// settle is the server's, which is made after the worker.
func (h *testHost) settle(ctx context.Context, replica string, versions []zfs.Version) (bool, error) {
	srv := h.server.Load()
	if srv == nil {
		return false, nil
	}
	return srv.Settle(ctx, replica, versions)
}

func (h *testHost) newServer(worker *Worker, log *slog.Logger) (*stream.Server, error) {
	return stream.NewServer(stream.Config{
		Engine: h.fs, Board: h.board, Logger: log,
		PeerID: func(r *http.Request) (string, error) {
			id, err := identity.Peer(*r.TLS)
			return id.ID, err
		},
		Can: func() zfs.StreamFlags { return flagsOf(h.fs) },
		Authorize: func(peer, share, replica string) (stream.Grant, error) {
			if share != h.c.share || replica != h.replica {
				return stream.Grant{}, stream.ErrDenied
			}
			return worker.Grant(peer)
		},
	})
}

// kill ends the host's process parts; its storage stays as it is.
func (h *testHost) kill() {
	if h.stop == nil {
		return
	}
	h.stop()
	if err := <-h.done; err != nil && !errors.Is(err, context.Canceled) {
		h.c.t.Errorf("host %s ended by itself: %v", h.id[:4], err)
	}
	h.client.Close()
	h.stop = nil
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) poke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.ping)
	c.ping = make(chan struct{})
}

// until waits for a condition, looked at after every report and at least every 20 ms.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	limit, every := c.patience()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		c.mu.Lock()
		ping := c.ping
		c.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-ping:
		case <-tick.C:
		case <-deadline.C:
			for _, h := range c.hosts {
				if h.worker != nil {
					c.t.Logf("host %s: %v", h.id[:4], h.worker.Report())
				}
			}
			c.t.Fatalf("never: %s", what)
		}
	}
}

type testWriter struct {
	t    *testing.T
	name string
}

func (w testWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		w.t.Logf("%s %s", w.name, strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

func (h *testHost) root() string    { return h.pool + "/" + testBase }
func (h *testHost) dataset() string { return h.root() + "/" + h.replica }

// exported tells how clients reach the dataset, if they do.
func (h *testHost) exported() (readOnly, exported bool) {
	ds, _, _ := h.fs.Peek(h.dataset())
	return h.exports.state(ds.Mountpoint)
}

func (h *testHost) assign(a *tarnv1.Assignment) {
	h.want = a
	if h.stop != nil {
		h.worker.Assign(a)
	}
}

func (h *testHost) report() *tarnv1.ReplicaReport {
	if r := h.worker.Report(); r != nil {
		return r
	}
	return &tarnv1.ReplicaReport{}
}

// assignment has what every role shares.
func (h *testHost) assignment(role tarnv1.Role, epoch uint64) *tarnv1.Assignment {
	return &tarnv1.Assignment{
		ReplicaId: h.replica, ShareId: h.c.share, Pool: h.pool, Role: role, Epoch: epoch,
		Exports: &tarnv1.Exports{Revision: 1}, SizeGib: 1, Cadence: durationpb.New(cadenceOf(h.fs)),
		ReplicationType: tarnv1.ReplicationType_REPLICATION_TYPE_READABLE, Encrypted: h.c.encrypted,
	}
}

func (h *testHost) active(epoch uint64) *tarnv1.Assignment {
	a := h.assignment(tarnv1.Role_ROLE_ACTIVE, epoch)
	a.Established = epoch > 1
	a.Peers = h.peers()
	return a
}

func (h *testHost) peers() []*tarnv1.Peer {
	var list []*tarnv1.Peer
	for _, o := range h.c.hosts {
		if o != h {
			list = append(list, &tarnv1.Peer{ReplicaId: o.replica, HostId: o.id})
		}
	}
	return list
}

func (h *testHost) secondary(epoch uint64, of *testHost) *tarnv1.Assignment {
	a := h.assignment(tarnv1.Role_ROLE_SECONDARY, epoch)
	a.Source = &tarnv1.Source{ReplicaId: of.replica, HostId: of.id, Address: of.addr}
	return a
}

// snapshots lists a dataset's snapshots.
func (h *testHost) snapshots(dataset string) []zfs.Version {
	_, v, _ := h.fs.Peek(dataset)
	return v
}

// head is the GUID of the newest snapshot.
func (h *testHost) head() uint64 {
	list := h.snapshots(h.dataset())
	if len(list) == 0 {
		return 0
	}
	return uint64(list[len(list)-1].GUID)
}

// equal reports that two hosts have the same content and the same newest snapshot.
func (h *testHost) equal(o *testHost) bool {
	a, errA := h.fs.Read(h.dataset())
	b, errB := o.fs.Read(o.dataset())
	sa, sb := h.snapshots(h.dataset()), o.snapshots(o.dataset())
	return errA == nil && errB == nil && a == b && len(sa) > 0 && len(sb) > 0 && sa[len(sa)-1].GUID == sb[len(sb)-1].GUID
}

// clean checks that nothing of tarn's is left where nothing should be.
func (h *testHost) clean() {
	h.c.t.Helper()
	if list := h.snapshots(h.root() + "/" + stagingDir + "/" + h.replica); list != nil {
		h.c.t.Errorf("staging left: %v", list)
	}
	// Two while a newer one takes an older one's place, which goes on while we look.
	h.c.until("at most 2 snapshots are held with one tag", func() bool {
		for _, n := range h.tags() {
			if n > 2 {
				return false
			}
		}
		return true
	})
}

// tags counts the snapshots that each tag is held on.
func (h *testHost) tags() map[string]int {
	h.c.t.Helper()
	tags := map[string]int{}
	for _, v := range h.snapshots(h.dataset()) {
		holds, err := h.fs.Holds(context.Background(), v.FullName())
		switch {
		case errors.Is(err, zfs.ErrUnsupported): // counted, not named: its own and each peer's
			if v.UserRefs > len(h.c.hosts) {
				h.c.t.Errorf("%d holds on %s", v.UserRefs, v.FullName())
			}
		case errors.Is(err, zfs.ErrNotExist): // destroyed since it was listed
		default:
			h.c.must(err)
		}
		for _, x := range holds {
			tags[x.Tag]++
		}
	}
	return tags
}
