package replicate

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/agent/stream"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// fillBulk writes incompressible data into a new dataset of a's pool.
func (r *rig) fillBulk(name string, mib int) string {
	ds := r.a.pool + "/" + name
	bench(r.b, realzfs.Zfs("create", "-o", "compression=off", ds))
	d, err := r.a.fs.Dataset(r.b.Context(), ds)
	bench(r.b, err)
	f, err := os.Create(filepath.Join(d.Mountpoint, "bulk"))
	bench(r.b, err)
	block := make([]byte, 1<<20)
	for range mib {
		_, _ = rand.Read(block)
		_, err := f.Write(block)
		bench(r.b, err)
	}
	bench(r.b, f.Close())
	bench(r.b, realzfs.Zfs("snapshot", ds+"@1"))
	return ds
}

// TestBulkOnZFS moves a stream of many large blocks between real pools by both ways; a
// target that is full is said to be full by both.
func TestBulkOnZFS(t *testing.T) {
	var count spawns
	r := newRig(t, count.onPools, 0)
	ds := r.fillBulk("bulk", 24)
	way := r.newBulk(ds)
	for name, plain := range map[string]bool{"tls": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			target := r.z.pool + "/" + name
			bench(t, way.pull(t.Context(), plain, target))
			if guids(t, ds)["bulk"] != guids(t, target)[name] {
				t.Error("the snapshot did not arrive")
			}
			above := r.z.pool + "/small" + name
			bench(t, realzfs.Zfs("create", "-o", "quota=8M", above))
			if err := way.pull(t.Context(), plain, above+"/copy"); !errors.Is(err, zfs.ErrNoSpace) && !errors.Is(err, zfs.ErrQuota) {
				t.Errorf("24 MiB below a quota of 8 MiB: %v", err)
			}
		})
	}
}

// BenchmarkZFSBulk is a large full stream of data that cannot be compressed, through
// the agents' own server and client, beside the plain pipe.
func BenchmarkZFSBulk(b *testing.B) {
	mib, err := strconv.Atoi(cmp.Or(os.Getenv("TARN_BENCH_MIB"), "1024"))
	bench(b, err)
	var count spawns
	r := newRig(b, count.onPools, 0)
	ds := r.fillBulk("bulk", mib)
	way := r.newBulk(ds)
	took := map[string][]time.Duration{}
	n := 0
	for b.Loop() {
		n++
		for name, run := range map[string]func(target string) error{
			"pipe": func(target string) error { return shell(b.Context(), "zfs send "+ds+"@1 | zfs receive -u "+target) },
			"tls":  func(target string) error { return way.pull(b.Context(), false, target) },
			"tcp":  func(target string) error { return way.pull(b.Context(), true, target) },
		} {
			target := fmt.Sprintf("%s/%s%d", r.z.pool, name, n)
			took[name] = append(took[name], timed(func() { bench(b, run(target)) }))
			if guids(b, ds)["bulk"] != guids(b, target)[filepath.Base(target)] {
				b.Fatalf("%s did not bring the snapshot", name)
			}
			bench(b, realzfs.DestroyAll(target))
			bench(b, shell(b.Context(), "sync"))
		}
	}
	for name, list := range took {
		b.ReportMetric(float64(mib)/median(list).Seconds(), name+"-MiB/s")
	}
	b.ReportMetric(median(took["pipe"]).Seconds()/median(took["tls"]).Seconds(), "tls-of-pipe")
	b.ReportMetric(median(took["pipe"]).Seconds()/median(took["tcp"]).Seconds(), "tcp-of-pipe")
	b.ReportMetric(0, "ns/op")
}

// bulk is one dataset behind a server that lets everybody pull it.
type bulk struct {
	r      *rig
	plain  *stream.Client
	source *tarnv1.Source
}

func (r *rig) newBulk(ds string) *bulk {
	b := r.b
	networks := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	bench(b, err)
	door, err := stream.NewDoor(stream.PlainConfig{Listener: l, Advertise: l.Addr().String(), Networks: networks, Logger: slog.New(slog.DiscardHandler)})
	bench(b, err)
	r.a.server, err = stream.NewServer(stream.Config{
		Engine: r.a.fs, Board: r.a.board, Logger: slog.New(slog.DiscardHandler), Door: door,
		PeerID:    func(*http.Request) (string, error) { return r.z.id, nil },
		Authorize: func(string, string, string) (stream.Grant, error) { return stream.Grant{Dataset: ds, Epoch: 1}, nil },
	})
	bench(b, err)
	w := &bulk{r: r, source: &tarnv1.Source{ReplicaId: "bulk", HostId: r.a.id, Address: r.a.addr}}
	w.plain, err = stream.NewClient(stream.ClientConfig{
		TLS: func(string) *tls.Config { return r.z.tls.ClientConfig(identity.RoleAgent) }, PlainNetworks: networks,
	})
	bench(b, err)
	ctx, stop := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return door.Run(ctx) })
	g.Go(func() error { return r.a.serve(ctx) })
	b.Cleanup(func() {
		stop()
		_ = g.Wait()
		w.plain.Close()
		r.z.client.Close()
	})
	return w
}

func (w *bulk) pull(ctx context.Context, plain bool, target string) error {
	client := w.r.z.client
	if plain {
		client = w.plain
	}
	p, err := client.Pull(ctx, stream.Request{Source: w.source, Share: "bulk", Replica: "copy", Epoch: 1})
	if err != nil {
		return err
	}
	err = w.r.z.fs.Receive(ctx, zfs.ReceiveRequest{Target: target + "@" + p.Step.ToName}, p)
	return errors.Join(err, p.Finish())
}
