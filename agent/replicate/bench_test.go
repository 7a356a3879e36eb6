package replicate

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
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
	b       *testing.B
	a, z    *rigHost
	news    chan struct{} // something was reported
	replica [][2]string   // of each share: on a, on z
}

type rigHost struct {
	id, addr string
	fs       *dirzfs.Host
	board    *stream.Board
	client   *stream.Client
	feed     *stream.Feed
	cadence  *Cadence
	workers  map[string]*Worker
	lease    *testLease
	tls      *identity.Material
	listener net.Listener
}

func newRig(b *testing.B, shares int) *rig {
	b.Helper()
	ca, err := identity.NewCA("bench")
	bench(b, err)
	r := &rig{b: b, news: make(chan struct{}, 1)}
	r.a, r.z = r.newHost(ca), r.newHost(ca)
	for range shares {
		r.replica = append(r.replica, [2]string{uuid.NewString(), uuid.NewString()})
	}
	return r
}

func bench(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (r *rig) newHost(ca *identity.CA) *rigHost {
	b := r.b
	h := &rigHost{id: uuid.NewString(), workers: map[string]*Worker{}, lease: &testLease{changed: make(chan struct{}), epoch: 1}, board: stream.NewBoard()}
	log := slog.New(slog.DiscardHandler)
	var err error
	h.fs, err = dirzfs.Open(dirzfs.Config{Pools: []dirzfs.Pool{{Name: testPool, Dir: b.TempDir()}}, Logger: log})
	bench(b, err)
	b.Cleanup(func() { _ = h.fs.Close() })
	bench(b, h.fs.Create(b.Context(), testRoot, map[string]string{"canmount": "off"}, true))
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
	h.cadence, err = NewCadence(CadenceConfig{Engine: h.fs, Root: testRoot, Board: h.board, Logger: log})
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
		g.Go(func() error { return r.serve(ctx, h) })
	}
	for _, ids := range r.replica {
		share := uuid.NewString()
		as := r.assignment(share, ids[0], tarnv1.Role_ROLE_ACTIVE, cadence)
		as.Peers = []*tarnv1.Peer{{ReplicaId: ids[1], HostId: r.z.id}}
		r.worker(ctx, g, r.a, as)
		as = r.assignment(share, ids[1], tarnv1.Role_ROLE_SECONDARY, cadence)
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

func (r *rig) assignment(share, replica string, role tarnv1.Role, cadence time.Duration) *tarnv1.Assignment {
	return &tarnv1.Assignment{
		ReplicaId: replica, ShareId: share, Pool: testPool, Role: role, Epoch: 1, Exports: &tarnv1.Exports{Revision: 1},
		SizeGib: 1, Cadence: durationpb.New(cadence), ReplicationType: tarnv1.ReplicationType_REPLICATION_TYPE_DR,
	}
}

func (r *rig) worker(ctx context.Context, g *errgroup.Group, h *rigHost, as *tarnv1.Assignment) {
	w, err := NewWorker(Config{
		ReplicaID: as.GetReplicaId(), ShareID: as.GetShareId(), Pool: testPool, Base: testBase, Engine: h.fs, Source: h.client,
		Feed: h.feed, Board: h.board, Cadence: h.cadence, Exports: &testExports{all: map[string]bool{}}, Lease: h.lease,
		Publish: func(*tarnv1.ReplicaReport) { r.poke() }, Logger: slog.New(slog.DiscardHandler),
	})
	bench(r.b, err)
	h.workers[as.GetReplicaId()] = w
	w.Assign(as)
	g.Go(func() error { return w.Run(ctx) })
}

func (r *rig) poke() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *rig) serve(ctx context.Context, h *rigHost) error {
	srv, err := stream.NewServer(stream.Config{
		Engine: h.fs, Board: h.board, Logger: slog.New(slog.DiscardHandler),
		PeerID: func(q *http.Request) (string, error) {
			id, err := identity.Peer(*q.TLS)
			return id.ID, err
		},
		Authorize: func(peer, _, replica string) (stream.Grant, error) { return h.workers[replica].Grant(peer) },
	})
	if err != nil {
		return err
	}
	upkeep := make(chan error, 1)
	go func() { upkeep <- srv.Run(ctx) }()
	defer func() { <-upkeep }()
	hs := &http.Server{Handler: srv, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	stopped := context.AfterFunc(ctx, func() { _ = hs.Close() })
	defer stopped()
	return hs.Serve(tls.NewListener(h.listener, h.tls.ServerConfig("http/1.1")))
}

// until waits for a condition, asked again at every report.
func (r *rig) until(ok func() bool) {
	limit := time.NewTimer(5 * time.Minute)
	defer limit.Stop()
	for !ok() {
		select {
		case <-r.news:
		case <-limit.C:
			r.b.Fatal("the shares never got there")
		}
	}
}

// fill changes 64 KiB of every dataset that is named.
func (r *rig) fill(datasets []string) {
	r.b.Helper()
	for _, name := range datasets {
		d, err := r.a.fs.Dataset(r.b.Context(), name)
		bench(r.b, err)
		data := make([]byte, 64<<10)
		_, _ = rand.Read(data)
		bench(r.b, os.WriteFile(filepath.Join(d.Mountpoint, "data"), data, 0o600))
	}
}

// shares are the datasets of the active replicas.
func (r *rig) shares() (names []string) {
	for _, ids := range r.replica {
		names = append(names, testRoot+"/"+ids[0])
	}
	return names
}

// floorDatasets makes datasets beside the shares, and their first copies.
func (r *rig) floorDatasets(n int) (names []string) {
	for _, h := range []*rigHost{r.a, r.z} {
		bench(r.b, h.fs.Create(r.b.Context(), testPool+"/floor", map[string]string{"canmount": "off"}, true))
	}
	for i := range n {
		name := fmt.Sprintf("%s/floor/%d", testPool, i)
		bench(r.b, r.a.fs.Create(r.b.Context(), name, map[string]string{"canmount": "on"}, false))
		names = append(names, name)
	}
	r.fill(names)
	r.floorRound(names, 0)
	return names
}

// floorRound is the least that any tool has to do: one snapshot call, then a send
// into a receive per dataset, as many at once as the agent runs.
func (r *rig) floorRound(names []string, round int) {
	var snaps []string
	for _, n := range names {
		snaps = append(snaps, fmt.Sprintf("%s@%d", n, round))
	}
	bench(r.b, r.a.fs.Snapshot(r.b.Context(), snaps...))
	g, ctx := errgroup.WithContext(r.b.Context())
	g.SetLimit(64)
	for i, n := range names {
		g.Go(func() error {
			req := zfs.SendRequest{Dataset: n, To: fmt.Sprint(round)}
			if round > 0 {
				req.From = fmt.Sprintf("@%d", round-1)
			}
			s, err := r.a.fs.Send(ctx, req)
			if err != nil {
				return err
			}
			return errors.Join(r.z.fs.Receive(ctx, zfs.ReceiveRequest{Target: snaps[i], Resumable: true}, s), s.Close())
		})
	}
	bench(r.b, g.Wait())
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

// BenchmarkRound100 is one round of 100 shares with 64 KiB of change each, from
// the snapshot until each copy is verified and reported, beside the floor in the
// same run: one snapshot call and 100 send|receive at the same concurrency.
func BenchmarkRound100(b *testing.B) {
	const shares = 100
	r := newRig(b, shares)
	floor := r.floorDatasets(shares)
	r.run(time.Hour)
	r.await(nil)
	var least, ours time.Duration
	n := 0
	for b.Loop() {
		n++
		b.StopTimer()
		r.fill(floor)
		begun := time.Now()
		r.floorRound(floor, n)
		least += time.Since(begun)
		r.fill(r.shares())
		before := r.heads()
		b.StartTimer()
		begun = time.Now()
		r.round(before)
		ours += time.Since(begun)
	}
	b.ReportMetric(float64(least.Milliseconds())/float64(n), "floor-ms")
	b.ReportMetric(float64(ours.Milliseconds())/float64(n), "round-ms")
	b.ReportMetric(ours.Seconds()/least.Seconds(), "x-floor")
}

// BenchmarkIdle1000 is what an agent with 1,000 secondaries that have nothing to
// do costs: share of one core, bytes allocated per second, and live heap. The
// sources are another agent of the same process, whose work is in the figures too.
func BenchmarkIdle1000(b *testing.B) {
	const shares, window = 1000, 20 * time.Second
	r := newRig(b, shares)
	r.run(15 * time.Second)
	r.await(nil)
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		used := processTime(b)
		wait, stop := context.WithTimeout(b.Context(), window)
		<-wait.Done()
		stop()
		used = processTime(b) - used
		runtime.ReadMemStats(&after)
		b.ReportMetric(100*used.Seconds()/window.Seconds(), "%core")
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/window.Seconds()/(1<<20), "MiB-alloc/s")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc)/(1<<20), "MiB-heap")
		b.ReportMetric(residentMiB(b), "MiB-rss")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
	}
}

func processTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	bench(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentMiB is the memory of this process that is in no file.
func residentMiB(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	bench(b, err)
	for line := range strings.Lines(string(status)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "RssAnon: %f kB", &kib); n == 1 {
			return kib / 1024
		}
	}
	b.Fatal("no RssAnon in /proc/self/status")
	return 0
}
