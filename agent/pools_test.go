package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"tarn/zfs"
)

// shelf is an inventory that a test puts pools into.
type shelf struct {
	list []zfs.PoolStatus
	err  error
}

func (s *shelf) Capabilities(context.Context) (zfs.Capabilities, error) {
	return zfs.Capabilities{}, s.err
}

func (s *shelf) Pools(context.Context) ([]zfs.PoolStatus, error) { return s.list, s.err }

// watched is a pools under test with what it did.
type watched struct {
	*pools
	shelf    *shelf
	prepared []string
	told     []string
	refuse   error
}

func newWatched(names ...string) *watched {
	w := &watched{shelf: &shelf{}}
	w.pools = &pools{
		inventory: w.shelf, names: names, log: slog.New(slog.DiscardHandler),
		prepare: func(_ context.Context, pool string) error {
			w.prepared = append(w.prepared, pool)
			return w.refuse
		},
		changed: func(usable, lost []string) {
			for _, p := range usable {
				w.told = append(w.told, "+"+p)
			}
			for _, p := range lost {
				w.told = append(w.told, "-"+p)
			}
		},
	}
	w.pools.prepared = map[string]zfs.GUID{}
	return w
}

func (w *watched) expect(t *testing.T, what, told, prepared, problem string) {
	t.Helper()
	w.told, w.prepared = nil, nil
	w.look(t.Context())
	if got := strings.Join(w.told, " "); got != told {
		t.Errorf("%s: told %q, want %q", what, got, told)
	}
	if got := strings.Join(w.prepared, " "); got != prepared {
		t.Errorf("%s: prepared %q, want %q", what, got, prepared)
	}
	err := w.err()
	if (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
		t.Errorf("%s: problem %v, want %q", what, err, problem)
	}
}

func TestPoolsComeAndGo(t *testing.T) {
	w := newWatched("tank", "pond")
	tank := zfs.PoolStatus{Name: "tank", GUID: 1, Health: "ONLINE", Size: 10, Free: 4}
	pond := zfs.PoolStatus{Name: "pond", GUID: 2, Health: "DEGRADED"}

	w.shelf.err = errors.New("zfs is not installed")
	w.expect(t, "no storage", "-tank -pond", "", "zfs is not installed")
	w.shelf.err = nil
	w.shelf.list = []zfs.PoolStatus{tank, {Name: "other", Health: "ONLINE"}}
	w.expect(t, "one is there", "+tank", "tank", "zpool import pond")
	if !errors.Is(w.missing("pond"), zfs.ErrPoolUnavailable) || w.missing("tank") != nil {
		t.Errorf("missing: %v, %v", w.missing("pond"), w.missing("tank"))
	}
	want := []zfs.PoolStatus{tank, {Name: "pond", Health: "UNAVAIL"}}
	if got := w.status(); !slices.Equal(got, want) {
		t.Errorf("status %+v", got)
	}
	w.refuse = errors.New("no right to create")
	w.shelf.list = append(w.shelf.list, pond)
	w.expect(t, "both, one not ready", "", "pond", "no right to create")
	w.refuse = nil
	w.expect(t, "both", "+pond", "pond", "")
	w.expect(t, "nothing new", "", "", "")

	w.shelf.list[0].Health = "SUSPENDED"
	w.expect(t, "suspended", "-tank", "", "zpool clear tank")
	w.shelf.list[0].Health = "ONLINE"
	w.expect(t, "goes on", "+tank", "", "")
	w.shelf.list[0].GUID = 7
	w.expect(t, "another pool of that name", "", "tank", "")
	w.shelf.list = nil
	w.expect(t, "exported", "-tank -pond", "", "zpool import tank")
	w.shelf.list = []zfs.PoolStatus{tank, pond}
	w.expect(t, "imported", "+tank +pond", "tank pond", "")
	w.shelf.list[0].Health = "FAULTED"
	w.expect(t, "faulted", "-tank", "", "zpool status tank")
}

// An end of the agent during a look says nothing about pools.
func TestLookThatIsCutChangesNothing(t *testing.T) {
	w := newWatched("tank")
	w.shelf.list = []zfs.PoolStatus{{Name: "tank", Health: "ONLINE"}}
	w.expect(t, "there", "+tank", "tank", "")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	w.shelf.list, w.shelf.err = nil, context.Canceled
	w.look(ended)
	if err := w.err(); err != nil {
		t.Errorf("after a cut look: %v", err)
	}
}
