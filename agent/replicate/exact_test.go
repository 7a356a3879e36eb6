package replicate

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"tarn/agent/stream"
	"tarn/zfs"
)

// lateEngine is a storage whose listings show writes only after a sync or a
// snapshot, as transaction groups do.
type lateEngine struct {
	mu      sync.Mutex
	pending int64
	shown   int64
	snaps   []zfs.Version
	syncs   int
	lists   int
	changed time.Time // of the snapshots, to the second; zero: the engine does not tell
}

func (l *lateEngine) write() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending += 4096
}

func (l *lateEngine) sync(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.syncs++
	l.shown, l.pending = l.shown+l.pending, 0
	return nil
}

func (l *lateEngine) Datasets(context.Context, string) ([]zfs.Dataset, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []zfs.Dataset{{Name: testRoot + "/r", Mounted: true, Written: l.shown, SnapshotsChanged: l.changed}}, nil
}

func (l *lateEngine) Versions(context.Context, string) ([]zfs.Version, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lists++
	return append([]zfs.Version(nil), l.snaps...), nil
}

func (l *lateEngine) VersionsBelow(context.Context, string) (map[string][]zfs.Version, error) {
	return nil, zfs.ErrUnsupported
}

func (l *lateEngine) Named(_ context.Context, names ...string) ([]zfs.Version, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := make([]zfs.Version, len(names))
	for i, full := range names {
		for _, v := range l.snaps {
			if v.FullName() == full {
				found[i] = v
			}
		}
	}
	return found, nil
}

func (l *lateEngine) Snapshot(_ context.Context, names ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, name, err := zfs.ValidateSnapshot(names[0])
	n := uint64(len(l.snaps) + 1)
	l.snaps = append(l.snaps, zfs.Version{Kind: zfs.KindSnapshot, Dataset: testRoot + "/r", Name: name, GUID: zfs.GUID(n), CreateTXG: n})
	l.pending, l.shown = 0, 0
	return err
}

// TestUnchangedIsSaidOfWhatWasAsked: a listing that is behind the writers is never
// taken for the present, and a share that nobody writes to costs no snapshot.
func TestUnchangedIsSaidOfWhatWasAsked(t *testing.T) {
	e := &lateEngine{}
	c, err := NewCadence(CadenceConfig{Engine: e, Root: testRoot, Board: stream.NewBoard(), Logger: slog.New(slog.DiscardHandler), Sync: e.sync})
	if err != nil {
		t.Fatal(err)
	}
	c.Set(Tracked{Share: "s", Replica: "r", Dataset: testRoot + "/r", Epoch: 1, Every: time.Minute, Peers: []string{"p"}, Notify: func() {}})
	tick := func(what string, snaps, syncs int, current bool) {
		t.Helper()
		c.all["r"].due = time.Time{}
		begun := time.Now()
		if err := c.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen, _ := c.Tracking("r")
		if len(e.snaps) != snaps || e.syncs != syncs || current != !seen.AsOf.Before(begun) {
			t.Errorf("%s: %d snapshots, %d syncs, current %v; want %d, %d, %v", what, len(e.snaps), e.syncs, !seen.AsOf.Before(begun), snaps, syncs, current)
		}
	}
	tick("first", 1, 1, true)
	tick("unchanged, and not known to be", 1, 1, false)
	tick("unchanged", 1, 2, true)
	tick("still", 1, 3, true)
	e.write()
	tick("a write that no listing shows yet", 2, 4, true)
	for i := range 3 {
		e.write()
		e.shown, e.pending = e.pending, 0
		tick("busy: writers are not disturbed", 3+i, 4, true)
	}
	e.write() // after the last transaction group
	tick("seems unchanged", 5, 4, false)
	tick("and was not", 6, 5, true)
}
