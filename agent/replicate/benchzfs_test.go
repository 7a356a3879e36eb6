package replicate

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// Figures of real pools, each beside what else does the same work on the same pools
// in the same run: make bench-zfs.

// benchShares is how many shares a round has.
func benchShares(b *testing.B) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("TARN_BENCH_SHARES"), "100"))
	bench(b, err)
	return n
}

// pairs is how many send|receive of the plain pipe run at once. zfs-fuse has eight
// threads for everything, and a receive that holds one while its send waits for one
// never ends.
func pairs() int {
	if realzfs.Kernel() {
		return 8
	}
	return 3
}

// spawns counts the processes that the engine starts, and when it last took a snapshot.
type spawns struct {
	n        atomic.Int64
	snapshot atomic.Int64 // when the call began, Unix nanoseconds

	mu  sync.Mutex
	ops map[string]int
}

func (s *spawns) ended(c zfs.Call) {
	s.n.Add(1)
	s.mu.Lock()
	if s.ops == nil {
		s.ops = map[string]int{}
	}
	s.ops[c.Op]++
	s.mu.Unlock()
	if c.Op == "snapshot" {
		s.snapshot.Store(c.Began.UnixNano())
	}
}

// reset gives the processes since the last reset by verb.
func (s *spawns) reset() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ops := s.ops
	s.ops = nil
	return ops
}

// onPools opens a host on a new pool of its own.
func (s *spawns) onPools(b testing.TB) (benchEngine, string) {
	pool := realzfs.NewPool(b, 6<<10)
	h, err := zfs.Open(b.Context(), zfs.Config{Pools: []string{pool.Name}, UserProperties: Marks(), Observe: s.ended})
	bench(b, err)
	b.Cleanup(func() { _ = h.Close() })
	return h, pool.Name
}

// plain is a set of datasets that something other than tarn copies.
type plain struct {
	name     string
	from, to string // datasets above them
	datasets []string
}

func (r *rig) plain(name string, n int) *plain {
	p := &plain{name: name, from: r.a.pool + "/" + name, to: r.z.pool + "/" + name}
	bench(r.b, realzfs.Zfs("create", "-o", "atime=off", p.from))
	for i := range n {
		ds := fmt.Sprintf("%s/%d", p.from, i)
		bench(r.b, realzfs.Zfs("create", ds))
		p.datasets = append(p.datasets, ds)
	}
	r.fill(p.datasets)
	return p
}

// shell runs a line as an administrator would type it.
func shell(ctx context.Context, line string) error {
	out, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// pipes is the floor: one snapshot call, then a plain send|receive for each dataset.
func (r *rig) pipes(p *plain, round int) {
	bench(r.b, shell(r.b.Context(), fmt.Sprintf("zfs snapshot -r %s@%d", p.from, round)))
	if round == 0 {
		bench(r.b, realzfs.Zfs("create", "-o", "canmount=off", p.to))
	}
	g, ctx := errgroup.WithContext(r.b.Context())
	g.SetLimit(pairs())
	for _, ds := range p.datasets {
		from := ""
		if round > 0 {
			from = fmt.Sprintf("-i %s@%d", ds, round-1)
		}
		g.Go(func() error {
			return shell(ctx, fmt.Sprintf("zfs send %s %s@%d | zfs receive -u %s/%s", from, ds, round, p.to, filepath.Base(ds)))
		})
	}
	bench(r.b, g.Wait())
}

// guids are those of the newest snapshots of the datasets below root, by the last
// part of the name.
func guids(b testing.TB, root string) map[string]string {
	out, err := exec.Command("zfs", "get", "-Hp", "-r", "-o", "name,property,value", "guid,createtxg", root).Output()
	bench(b, err)
	newest, txgs := map[string]string{}, map[string]int{}
	guid := map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		ds, _, snap := strings.Cut(f[0], "@")
		if !snap {
			continue
		}
		if f[1] == "guid" {
			guid[f[0]] = f[2]
			continue
		}
		txg, err := strconv.Atoi(f[2])
		bench(b, err)
		if key := filepath.Base(ds); txg >= txgs[key] {
			txgs[key], newest[key] = txg, guid[f[0]]
		}
	}
	return newest
}

// arrivedAll checks by the GUIDs that a round of a peer did its work.
func (p *plain) arrivedAll(b testing.TB) bool {
	from, to := guids(b, p.from), guids(b, p.to)
	return len(from) >= len(p.datasets) && !slices.ContainsFunc(p.datasets, func(ds string) bool {
		key := filepath.Base(ds)
		return from[key] == "" || from[key] != to[key]
	})
}

func (p *plain) check(b *testing.B) {
	b.Helper()
	if !p.arrivedAll(b) {
		b.Fatalf("%s did not copy everything: %d of %d", p.name, len(guids(b, p.to)), len(p.datasets))
	}
}

// BenchmarkZFSRound is one round of many shares with 64 KiB of change each, from the
// snapshot until each copy is verified and reported, beside the plain pipe and the
// tools that are installed.
func BenchmarkZFSRound(b *testing.B) {
	shares := benchShares(b)
	var count spawns
	r := newRig(b, count.onPools, shares)
	floor := r.plain("floor", shares)
	r.pipes(floor, 0)
	peers := r.peers(shares)
	r.run(time.Hour)
	r.await(nil)
	took := map[string][]time.Duration{}
	var used int64
	n := 0
	for b.Loop() {
		n++
		r.fill(floor.datasets)
		took["floor"] = append(took["floor"], timed(func() { r.pipes(floor, n) }))
		floor.check(b)
		r.fill(r.shares())
		before, begun := r.heads(), count.n.Load()
		count.reset()
		took["tarn"] = append(took["tarn"], timed(func() { r.round(before) }))
		used += count.n.Load() - begun
		b.Logf("processes of a round of tarn: %v", count.reset())
		for _, p := range peers {
			r.fill(p.datasets)
			took[p.name] = append(took[p.name], timed(func() { p.round(b) }))
			p.check(b)
		}
	}
	for name, list := range took {
		b.ReportMetric(median(list).Seconds()*1000, name+"-ms")
		b.ReportMetric(median(list).Seconds()/median(took["floor"]).Seconds(), name+"-x-floor")
	}
	b.ReportMetric(float64(used)/float64(n*shares), "tarn-spawns/share")
	b.ReportMetric(0, "ns/op")
}

func timed(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

func median(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// BenchmarkZFSOneChange is one share with one small change: from the snapshot call to
// the GUID verified on the target, beside the plain pipe.
func BenchmarkZFSOneChange(b *testing.B) {
	var count spawns
	r := newRig(b, count.onPools, 1)
	floor := r.plain("floor", 1)
	r.pipes(floor, 0)
	r.run(time.Hour)
	r.await(nil)
	var raw, ours, verified []time.Duration
	n := 0
	for b.Loop() {
		n++
		r.fill(floor.datasets)
		raw = append(raw, timed(func() { r.pipes(floor, n) }))
		r.fill(r.shares())
		before := r.heads()
		ours = append(ours, timed(func() { r.round(before) }))
		verified = append(verified, time.Duration(r.verified.Load()-count.snapshot.Load()))
	}
	b.ReportMetric(median(raw).Seconds()*1000, "raw-ms")
	b.ReportMetric(median(verified).Seconds()*1000, "tarn-ms")
	b.ReportMetric(median(verified).Seconds()/median(raw).Seconds(), "x-raw")
	b.ReportMetric(median(ours).Seconds()*1000, "until-reported-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkZFSCreate is a new replica of an empty share until it is in sync.
func BenchmarkZFSCreate(b *testing.B) {
	var count spawns
	var took []time.Duration
	for b.Loop() {
		r := newRig(b, count.onPools, 1)
		took = append(took, timed(func() {
			r.run(time.Hour)
			r.await(nil)
		}))
	}
	b.ReportMetric(median(took).Seconds()*1000, "create-both-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkZFSIdle is what two agents with many replicas each cost that have nothing to
// do, over a minute: looks at the pool and retention included. TARN_BENCH_IDLE, 1000.
func BenchmarkZFSIdle(b *testing.B) {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("TARN_BENCH_IDLE"), "1000"))
	bench(b, err)
	var count spawns
	r := newRig(b, count.onPools, n)
	idle(b, r, &count, 2*time.Minute)
}

func TestMain(m *testing.M) { os.Exit(realzfs.Main(m)) }
