package replicate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
)

// floorDatasets makes datasets beside the shares, and their first copies.
func (r *rig) floorDatasets(n int) (names []string) {
	for _, h := range []*rigHost{r.a, r.z} {
		bench(r.b, h.fs.Create(r.b.Context(), h.pool+"/floor", map[string]string{"canmount": "off"}, true))
	}
	for i := range n {
		name := fmt.Sprintf("%s/floor/%d", r.a.pool, i)
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
			return errors.Join(r.z.fs.Receive(ctx, zfs.ReceiveRequest{Target: r.z.pool + strings.TrimPrefix(snaps[i], r.a.pool), Resumable: true}, s), s.Close())
		})
	}
	bench(r.b, g.Wait())
}

// BenchmarkRound100 is one round of 100 shares with 64 KiB of change each, from
// the snapshot until each copy is verified and reported, beside the floor in the
// same run: one snapshot call and 100 send|receive at the same concurrency.
func BenchmarkRound100(b *testing.B) {
	const shares = 100
	r := newRig(b, onDirectories, shares)
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
	idle(b, newRig(b, onDirectories, 1000), new(spawns), 20*time.Second)
}

// idle waits for all shares of r to be in sync, and measures what follows.
func idle(b *testing.B, r *rig, count *spawns, window time.Duration) {
	r.run(15 * time.Second)
	r.await(nil)
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		used, children := processTime(b, syscall.RUSAGE_SELF), processTime(b, syscall.RUSAGE_CHILDREN)
		b.Logf("processes until all was in sync: %v", count.reset())
		wait, stop := context.WithTimeout(b.Context(), window)
		<-wait.Done()
		stop()
		used, children = processTime(b, syscall.RUSAGE_SELF)-used, processTime(b, syscall.RUSAGE_CHILDREN)-children
		runtime.ReadMemStats(&after)
		b.ReportMetric(100*used.Seconds()/window.Seconds(), "%core")
		b.ReportMetric(100*children.Seconds()/window.Seconds(), "%core-of-zfs")
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/window.Seconds()/(1<<20), "MiB-alloc/s")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc)/(1<<20), "MiB-heap")
		b.ReportMetric(residentMiB(b), "MiB-rss")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		b.Logf("processes in %s at rest: %v", window, count.reset())
		// The result line is lost when a large pool cannot be cleared away afterwards.
		b.Logf("%.2f%% of a core, %.2f%% in the tools of ZFS, %.0f MiB resident", 100*used.Seconds()/window.Seconds(), 100*children.Seconds()/window.Seconds(), residentMiB(b))
	}
}

func processTime(b *testing.B, who int) time.Duration {
	var u syscall.Rusage
	bench(b, syscall.Getrusage(who, &u))
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
