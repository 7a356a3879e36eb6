package dirzfs_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// BenchmarkStream1GiB sends and receives 1 GiB of random data in 64 files, beside a
// cp -r of the same tree followed by sync: both are durable at the end. The metric
// x-cp is the time of the stream by that of the copy, x-cp-nosync by that of a copy
// that is left to the page cache.
func BenchmarkStream1GiB(b *testing.B) {
	const files, size = 64, 16 << 20
	h, err := dirzfs.Open(dirzfs.Config{
		Pools:  []dirzfs.Pool{{Name: "a", Dir: b.TempDir()}, {Name: "b", Dir: b.TempDir()}},
		Logger: slog.New(slog.DiscardHandler),
	})
	must(b, err)
	defer func() { must(b, h.Close()) }()
	must(b, h.Create(b.Context(), "a/x", map[string]string{"canmount": "on"}, false))
	d, err := h.Dataset(b.Context(), "a/x")
	must(b, err)
	for i := range files {
		must(b, writeRandom(filepath.Join(d.Mountpoint, fmt.Sprintf("f%02d", i)), size))
	}
	start := time.Now()
	must(b, h.Snapshot(b.Context(), "a/x@1"))
	b.ReportMetric(time.Since(start).Seconds(), "snapshot-s")
	b.SetBytes(files * size)
	var stream, copied, plain time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		c, p := copyTree(b, d.Mountpoint)
		copied, plain = copied+c, plain+p
		b.StartTimer()
		start := time.Now()
		s, err := h.Send(b.Context(), zfs.SendRequest{Dataset: "a/x", To: "1"})
		must(b, err)
		err = h.Receive(b.Context(), zfs.ReceiveRequest{Target: fmt.Sprintf("b/y%d@1", i), Resumable: true}, s)
		must(b, errors.Join(err, s.Close()))
		stream += time.Since(start)
		b.StopTimer()
		must(b, exec.Command("sync").Run())
		b.StartTimer()
	}
	b.ReportMetric(stream.Seconds()/copied.Seconds(), "x-cp")
	b.ReportMetric(stream.Seconds()/plain.Seconds(), "x-cp-nosync")
}

// copyTree times cp -r with and without the sync that makes it durable.
func copyTree(b *testing.B, from string) (synced, plain time.Duration) {
	to := filepath.Join(b.TempDir(), "copy")
	must(b, exec.Command("sync").Run())
	start := time.Now()
	must(b, exec.Command("cp", "-r", from, to).Run())
	plain = time.Since(start)
	must(b, exec.Command("sync").Run())
	synced = time.Since(start)
	must(b, os.RemoveAll(to))
	return synced, plain
}

func writeRandom(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, size)
	return errors.Join(err, f.Close())
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkSmallChange is one round of replication: 64 KiB change, snapshot,
// increment, into a mounted read-only copy of 1,000 files.
func BenchmarkSmallChange(b *testing.B) {
	h, err := dirzfs.Open(dirzfs.Config{
		Pools:  []dirzfs.Pool{{Name: "a", Dir: b.TempDir()}, {Name: "b", Dir: b.TempDir()}},
		Logger: slog.New(slog.DiscardHandler),
	})
	must(b, err)
	defer func() { must(b, h.Close()) }()
	must(b, h.Create(b.Context(), "a/x", map[string]string{"canmount": "on"}, false))
	d, err := h.Dataset(b.Context(), "a/x")
	must(b, err)
	for i := range 1000 {
		must(b, writeRandom(filepath.Join(d.Mountpoint, fmt.Sprint(i)), 1000))
	}
	must(b, h.Snapshot(b.Context(), "a/x@0"))
	relay := func(from, to string) {
		s, err := h.Send(b.Context(), zfs.SendRequest{Dataset: "a/x", From: from, To: to})
		must(b, err)
		must(b, errors.Join(h.Receive(b.Context(), zfs.ReceiveRequest{Target: "b/y@" + to, Resumable: true}, s), s.Close()))
	}
	relay("", "0")
	must(b, h.Set(b.Context(), "b/y", map[string]string{"readonly": "on"}))
	must(b, h.Mount(b.Context(), "b/y"))
	var snapshot time.Duration
	for i := 0; b.Loop(); i++ {
		must(b, writeRandom(filepath.Join(d.Mountpoint, "7"), 64<<10))
		start := time.Now()
		must(b, h.Snapshot(b.Context(), fmt.Sprintf("a/x@%d", i+1)))
		snapshot += time.Since(start)
		relay(fmt.Sprintf("@%d", i), fmt.Sprint(i+1))
	}
	b.ReportMetric(float64(snapshot.Milliseconds())/float64(b.N), "snapshot-ms")
}

// BenchmarkIdleDatasets lists 200 mounted datasets in which nothing happens.
func BenchmarkIdleDatasets(b *testing.B) {
	h, err := dirzfs.Open(dirzfs.Config{Pools: []dirzfs.Pool{{Name: "a", Dir: b.TempDir()}}, Logger: slog.New(slog.DiscardHandler)})
	must(b, err)
	defer func() { must(b, h.Close()) }()
	var names []string
	for i := range 200 {
		name := fmt.Sprintf("a/x%d", i)
		must(b, h.Create(b.Context(), name, map[string]string{"canmount": "on"}, false))
		d, err := h.Dataset(b.Context(), name)
		must(b, err)
		for f := range 20 {
			must(b, writeRandom(filepath.Join(d.Mountpoint, fmt.Sprint(f)), 1000))
		}
		names = append(names, name+"@1")
	}
	must(b, h.Snapshot(b.Context(), names...))
	for b.Loop() {
		_, err := h.Datasets(b.Context(), "a")
		must(b, err)
	}
}
