package divergence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/agent/replicate"
	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

func TestMain(m *testing.M) { os.Exit(realzfs.Main(m)) }

const (
	share   = "0199-share"
	replica = "0199-replica"
)

// host is a pool with what tarn has on it.
type host struct {
	t    *testing.T
	pool realzfs.Pool
	fs   *zfs.Host

	mu       sync.Mutex
	commands map[string]int // by their verb
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, pool: realzfs.NewPool(t, 512), commands: map[string]int{}}
	fs, err := zfs.Open(t.Context(), zfs.Config{Pools: []string{h.pool.Name}})
	h.must(err)
	h.fs = fs
	h.must(fs.Create(t.Context(), h.root(), map[string]string{zfs.PropCanMount: "off"}, false))
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) root() string             { return h.pool.Name + "/tarn" }
func (h *host) dataset() string          { return h.root() + "/" + replica }
func (h *host) copies() replicate.Copies { return replicate.NewCopies(h.fs, h.root()) }

func marks(role string) map[string]string {
	return map[string]string{
		"tarn:share": share, "tarn:replica": replica, "tarn:role": role, "tarn:epoch": "1",
		zfs.PropCanMount: "noauto", zfs.PropReadOnly: "on",
	}
}

// write puts a text into a dataset and snapshots it.
func (h *host) write(dataset, text, snapshot string) {
	h.t.Helper()
	ctx := h.t.Context()
	h.must(h.fs.Set(ctx, dataset, map[string]string{zfs.PropReadOnly: "off"}))
	h.must(h.fs.Mount(ctx, dataset))
	d, err := h.fs.Dataset(ctx, dataset)
	h.must(err)
	h.must(os.WriteFile(filepath.Join(d.Mountpoint, "f"), []byte(text), 0o600))
	h.must(h.fs.Unmount(ctx, dataset, false))
	h.must(h.fs.Set(ctx, dataset, map[string]string{zfs.PropReadOnly: "on"}))
	h.must(h.fs.Snapshot(ctx, dataset+"@"+snapshot))
}

// read gives the text of a snapshot through a clone, as the copy's reader is told to.
func (h *host) read(snapshot string) string {
	h.t.Helper()
	ctx, look := h.t.Context(), h.pool.Name+"/look"
	h.must(h.fs.Clone(ctx, snapshot, look, map[string]string{zfs.PropReadOnly: "on", zfs.PropCanMount: "noauto"}))
	h.must(h.fs.Mount(ctx, look))
	d, err := h.fs.Dataset(ctx, look)
	h.must(err)
	text, err := os.ReadFile(filepath.Join(d.Mountpoint, "f"))
	h.must(err)
	h.must(h.fs.Unmount(ctx, look, false))
	h.must(h.fs.Destroy(ctx, look))
	return string(text)
}

// fork makes a replica whose history forked after "base", as a rejoin does: renamed,
// cloned, promoted. What was written after the base is in the copy.
func (h *host) fork() (aside string) {
	h.t.Helper()
	ctx := h.t.Context()
	h.must(h.fs.Create(ctx, h.dataset(), marks("primary"), false))
	h.write(h.dataset(), "old", "tarn.old")
	h.write(h.dataset(), "common", "tarn.base")
	h.write(h.dataset(), "lost", "tarn.lost")
	h.write(h.dataset(), "dirty", "tarn-divergent-1")
	h.must(h.fs.Hold(ctx, "tarn:divergent", h.dataset()+"@tarn-divergent-1"))
	h.must(h.fs.Create(ctx, h.root()+"/.divergent", map[string]string{zfs.PropCanMount: "off"}, false))
	aside = h.root() + "/.divergent/" + replica + "-1"
	h.must(h.fs.Rename(ctx, h.dataset(), aside))
	h.must(h.fs.Clone(ctx, aside+"@tarn.base", h.dataset(), marks("replica")))
	h.must(h.fs.Promote(ctx, h.dataset()))
	h.must(h.fs.Set(ctx, aside, map[string]string{"tarn:role": "divergent"}))
	return aside
}

func (h *host) names(dataset string) string {
	h.t.Helper()
	list, err := h.fs.Versions(h.t.Context(), dataset)
	h.must(err)
	var names []string
	for _, v := range list {
		names = append(names, v.Name)
	}
	return strings.Join(names, " ")
}

// TestForkedDataAreReadAndPurged: every snapshot of a copy can be read; a purge takes
// the copy alone, and then what it stood on can go.
func TestForkedDataAreReadAndPurged(t *testing.T) {
	h := newHost(t)
	aside := h.fork()
	ctx := t.Context()
	d, err := h.fs.Dataset(ctx, aside)
	h.must(err)
	detail, err := h.copies().Detail(ctx, d.GUID)
	h.must(err)
	if detail.GetOrigin() != h.dataset()+"@tarn.base" || detail.GetTotal() != 2 || detail.GetCopy().GetReplicaId() != replica {
		t.Fatalf("detail %v", detail)
	}
	for i, want := range []string{"lost", "dirty"} {
		if got := h.read(aside + "@" + detail.GetSnapshots()[i].GetName()); got != want {
			t.Errorf("snapshot %d holds %q, want %q", i, got, want)
		}
	}
	if err := h.fs.DestroySnapshots(ctx, h.dataset(), "tarn.base"); !errors.Is(err, zfs.ErrHasClones) {
		t.Errorf("the copy's origin could be destroyed: %v", err)
	}
	order := &tarnv1.PurgeOrder{Guid: detail.GetCopy().GetGuid(), ShareId: share, ReplicaId: "another", Dataset: aside}
	if err := h.copies().Purge(ctx, order); err == nil || h.names(aside) != "tarn.lost tarn-divergent-1" {
		t.Fatalf("another replica's order: %v, left %s", err, h.names(aside))
	}
	order.ReplicaId = replica
	h.must(h.copies().Purge(ctx, order))
	h.must(h.copies().Purge(ctx, order))
	if _, err := h.fs.Dataset(ctx, aside); !errors.Is(err, zfs.ErrNotExist) {
		t.Errorf("the copy is still there: %v", err)
	}
	if h.names(h.dataset()) != "tarn.old tarn.base" || h.read(h.dataset()+"@tarn.base") != "common" {
		t.Errorf("the replica has %s", h.names(h.dataset()))
	}
	h.must(h.fs.DestroySnapshots(ctx, h.dataset(), "tarn.base"))
}

// counted counts the commands of the storage.
type counted struct {
	*zfs.Host
	h *host
}

func (c counted) note(verb string) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.h.commands[verb]++
}

func (c counted) DestroySnapshots(ctx context.Context, dataset string, names ...string) error {
	c.note("destroy")
	return c.Host.DestroySnapshots(ctx, dataset, names...)
}

func (c counted) Versions(ctx context.Context, dataset string) ([]zfs.Version, error) {
	c.note("versions")
	return c.Host.Versions(ctx, dataset)
}

func (h *host) count(verb string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.commands[verb]
}

// TestRetentionOnAPool runs a replica's own worker: what the policy keeps, what is
// held, cloned or foreign stays, and the rest goes with one call.
func TestRetentionOnAPool(t *testing.T) {
	h := newHost(t)
	ctx := t.Context()
	h.must(h.fs.Create(ctx, h.dataset(), marks("primary"), false))
	for i := range 14 {
		h.must(h.fs.Snapshot(ctx, fmt.Sprintf("%s@tarn.%02d", h.dataset(), i)))
	}
	for _, name := range []string{"foreign", "tarn-user-x"} {
		h.must(h.fs.Snapshot(ctx, h.dataset()+"@"+name))
	}
	h.must(h.fs.Hold(ctx, "mine", h.dataset()+"@tarn.03"))
	h.must(h.fs.Clone(ctx, h.dataset()+"@tarn.05", h.root()+"/clone", map[string]string{zfs.PropCanMount: "noauto"}))
	w := h.worker()
	before, err := w.Preview(ctx, nil)
	h.must(err)
	if before.GetTotal() != 16 || before.GetGoing() != 12 {
		t.Errorf("preview without a policy: %d of %d go", before.GetGoing(), before.GetTotal())
	}
	// All of them are of this minute, and the first of a day stays.
	day := &tarnv1.KeepPolicy{Rules: []*tarnv1.KeepRule{{UpTo: durationpb.New(48 * time.Hour), Every: durationpb.New(24 * time.Hour)}}}
	h.run(w, day)
	const want = "tarn.00 tarn.03 tarn.05 foreign tarn-user-x"
	h.until("retention has run", func() bool { return h.count("destroy") > 0 && h.names(h.dataset()) == want })
	if n := h.count("destroy"); n != 1 {
		t.Errorf("%d calls destroyed, want one for all", n)
	}
	after, err := w.Preview(ctx, day)
	h.must(err)
	reasons := map[string]tarnv1.RetentionReason{}
	for _, v := range after.GetSnapshots() {
		reasons[v.GetName()] = v.GetCauses()[0].GetReason()
	}
	for name, want := range map[string]tarnv1.RetentionReason{
		"tarn.00": tarnv1.RetentionReason_RETENTION_REASON_POLICY, "tarn.03": tarnv1.RetentionReason_RETENTION_REASON_HELD,
		"tarn.05": tarnv1.RetentionReason_RETENTION_REASON_CLONED, "foreign": tarnv1.RetentionReason_RETENTION_REASON_FOREIGN,
		"tarn-user-x": tarnv1.RetentionReason_RETENTION_REASON_USER,
	} {
		if reasons[name] != want {
			t.Errorf("%s stays for %v, want %v", name, reasons[name], want)
		}
	}
	if after.GetGoing() != 0 || after.GetLastRunAt() == nil {
		t.Errorf("afterwards %v", after)
	}
	h.must(h.fs.Destroy(ctx, h.root()+"/clone"))
	h.must(h.fs.Release(ctx, "mine", h.dataset()+"@tarn.03"))
}

// worker is one of the replica that owns its share and has no others.
func (h *host) worker() *replicate.Worker {
	h.t.Helper()
	log, engine := slog.New(slog.DiscardHandler), counted{h.fs, h}
	caps, err := h.fs.Capabilities(h.t.Context())
	h.must(err)
	board := stream.NewBoard()
	cadence, err := replicate.NewCadence(replicate.CadenceConfig{Engine: h.fs, Root: h.root(), Board: board, Logger: log})
	h.must(err)
	w, err := replicate.NewWorker(replicate.Config{
		ReplicaID: replica, ShareID: share, Pool: h.pool.Name, Base: "tarn", Engine: engine, Source: nobody{}, Feed: nobody{}, Board: board,
		Cadence: cadence, Exports: nobody{}, Lease: nobody{}, Publish: func(*tarnv1.ReplicaReport) {}, Logger: log, KeepRecent: 1,
		Survey: replicate.NewSurvey(h.fs, h.root()), Lacks: replicate.LacksOf(caps),
	})
	h.must(err)
	w.Assign(h.assignment(nil))
	return w
}

func (h *host) assignment(keep *tarnv1.KeepPolicy) *tarnv1.Assignment {
	return &tarnv1.Assignment{
		ReplicaId: replica, ShareId: share, Pool: h.pool.Name, Role: tarnv1.Role_ROLE_ACTIVE, Epoch: 1, Established: true,
		Exports: &tarnv1.Exports{Revision: 1}, Cadence: durationpb.New(time.Hour), Keep: keep,
	}
}

// run lets the worker live under a policy until the test ends.
func (h *host) run(w *replicate.Worker, keep *tarnv1.KeepPolicy) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w.Assign(h.assignment(keep))
	go func() { done <- w.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			h.t.Errorf("worker: %v", err)
		}
	})
}

// until waits for a condition that nobody announces.
func (h *host) until(what string, ok func() bool) {
	h.t.Helper()
	deadline, tick := time.NewTimer(time.Minute), time.NewTicker(50*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			h.t.Fatalf("never: %s: %s, destroyed %d times", what, h.names(h.dataset()), h.count("destroy"))
		}
	}
}

// nobody stands for neighbours that a lone owner without a lease has not.
type nobody struct{}

func (nobody) Pull(context.Context, stream.Request) (*stream.Pull, error) {
	return nil, stream.ErrNothing
}
func (nobody) Follow(*tarnv1.Source, func()) *stream.Following { return nil }
func (nobody) Held(string, string, uint64) bool                { return false }
func (nobody) Changed() <-chan struct{}                        { return nil }
func (nobody) Remove(context.Context, string) error            { return nil }
func (nobody) Apply(context.Context, string, *tarnv1.Exports, bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	return nil, nil, nil
}
