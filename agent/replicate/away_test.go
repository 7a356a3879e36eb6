package replicate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/agent/stream/memzfs"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// rewrite replaces what the share's one file holds by n bytes that fit no chunk
// of before.
func (h *testHost) rewrite(round, n int) {
	h.c.t.Helper()
	h.write(strings.Repeat(fmt.Sprintf("round %d ", round), n/8))
}

// kinds remembers the kinds of the steps that a worker pulled.
func (h *testHost) kinds() map[string]int {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	all := map[string]int{}
	for k, n := range h.steps {
		all[k] = n
	}
	return all
}

func TestLongAbsenceCostsTheSourceABookmark(t *testing.T) {
	everywhere(t, longAbsence)
}

// longAbsence: a replica is away for longer than its budget. The source goes on
// pruning, and the replica goes on from a bookmark, not from nothing.
func longAbsence(t *testing.T, on maker) {
	c := newClusterOn(t, on, 2)
	a, b := c.hosts[0], c.hosts[1]
	a.away = time.Nanosecond
	a.lease.set(1)
	a.assign(a.active(1))
	b.assign(b.secondary(1, a))
	a.start()
	b.start()
	c.until("active is writable", func() bool { return a.report().GetWritable() })
	a.write("before\n")
	c.until("in sync", inSync(a, b))
	base := zfs.GUID(b.head())
	b.kill()
	as := a.active(1)
	as.ProtectedGuids = []uint64{uint64(base)} // by the control plane, for b
	a.assign(as)
	present := func() (snapshot, cursor bool) {
		for _, v := range a.snapshots(a.dataset()) {
			snapshot = snapshot || v.Kind == zfs.KindSnapshot && v.GUID == base
			cursor = cursor || v.GUID == base && cursorOwner(v) == b.replica
		}
		return snapshot, cursor
	}
	for round := range 12 {
		a.rewrite(round, 4096)
		c.until("in a snapshot", func() bool {
			tr, _ := a.worker.cfg.Cadence.Tracking(a.replica)
			return tr.Dirty == 0 && tr.Taken > uint64(round)
		})
	}
	c.until("the base has become a bookmark", func() bool {
		snapshot, cursor := present()
		return !snapshot && cursor
	})
	before := b.kinds()
	b.start()
	c.until("in sync again", inSync(a, b))
	if after := b.kinds(); after["bookmark"] == before["bookmark"] || after["full"] != before["full"] {
		t.Errorf("steps before the absence %v, after it %v", before, after)
	}
	for round := range pruneAfter { // so that retention runs
		a.rewrite(100+round, 64)
		c.until("in sync", inSync(a, b))
	}
	c.until("the cursor goes once it is passed", func() bool {
		_, cursor := present()
		return !cursor
	})
	if len(b.report().GetDivergentCopies()) != 0 {
		t.Errorf("copies put aside: %v", b.report().GetDivergentCopies())
	}
	a.clean()
	b.clean()
}

// TestAwayBudgetLeavesTheLineage: a base that the share's history counts on stays
// a snapshot, whoever is away.
func TestAwayBudgetLeavesTheLineage(t *testing.T) {
	k := keeping{
		versions: []zfs.Version{version(1, "tarn.s.1.1", 1), version(2, "tarn.s.1.2", 1), version(3, "tarn.s.1.3", 0)},
		tags:     map[string][]string{"tarn.s.1.1": {"tarn.step.peer"}, "tarn.s.1.2": {"tarn.step.peer"}},
		late:     map[release]bool{{"tarn.step.peer", "tarn.s.1.1"}: true, {"tarn.step.peer", "tarn.s.1.2"}: true},
		self:     "me", peers: []string{"peer", "silent"}, recent: 1,
		protected: map[zfs.GUID]bool{1: true, 2: true}, fixed: map[zfs.GUID]bool{1: true},
	}
	v := k.prune()
	if len(v.convert) != 1 || v.convert[0].of.GUID != 2 || strings.Join(v.convert[0].replicas, " ") != "peer silent" || len(v.destroy) != 1 {
		t.Errorf("%+v", v)
	}
}

// TestBookmarkedBaseGoes: the process died between releasing the holds of a base
// that has become a bookmark, and destroying it.
func TestBookmarkedBaseGoes(t *testing.T) {
	cursor := zfs.Version{Kind: zfs.KindBookmark, Dataset: "p/d", Name: cursorName(1, "peer"), GUID: 1, CreateTXG: 1}
	k := keeping{
		versions: []zfs.Version{cursor, version(1, "tarn.s.1.1", 0), version(2, "tarn.s.1.2", 0), version(3, "tarn.s.1.3", 0)},
		self:     "me", peers: []string{"peer"}, recent: 1, protected: map[zfs.GUID]bool{1: true, 2: true},
	}
	if v := k.prune(); len(v.destroy) != 1 || v.destroy[0].GUID != 1 || len(v.cursors) != 0 {
		t.Errorf("%+v", v)
	}
}

// TestWorkIsTold walks a demotion, a seal and a cut receive that has to be dropped,
// and looks at what the hooks heard.
func TestWorkIsTold(t *testing.T) {
	c, a, b := pair(t)
	a.write(strings.Repeat("data", 1<<10))
	c.until("in sync", inSync(a, b))
	c.demote(a, b, 1)
	c.until("demotion told", func() bool { return a.heard("fence demote") == 1 })
	a.lease.set(0)
	if b.heard("bytes") < 4<<10 {
		t.Errorf("%d bytes told of a copy of 4 KiB", b.heard("bytes"))
	}
	f := b.assignment(tarnv1.Role_ROLE_FENCED, 1)
	f.OpId, f.Seal = "seal", true
	b.assign(f)
	c.until("seal told", func() bool { return b.heard("fence seal") == 1 })
}

// TestLostLeaseIsTold: the end of a lease is an action that people count.
func TestLostLeaseIsTold(t *testing.T) {
	c, a, b := pair(t)
	a.write("data")
	c.until("in sync", inSync(a, b))
	a.lease.set(0)
	c.until("told", func() bool { return a.heard("fence suspend") == 1 && !a.report().GetWritable() })
	if a.heard("fence failed") != 0 {
		t.Error("a failure is told that was none")
	}
}

// TestDroppedHalfIsTold: half a stream that is thrown away is counted by what its
// token says had arrived.
func TestDroppedHalfIsTold(t *testing.T) {
	c, a, b := pair(t)
	c.until("in sync", inSync(a, b))
	d := zfs.Dataset{Name: b.dataset(), ResumeToken: `{"Offset": 77}`}
	if err := b.worker.abort(t.Context(), &d, "role"); err != nil || b.heard("discarded role") != 77 {
		t.Errorf("%v, %d bytes told", err, b.heard("discarded role"))
	}
}

// TestAwayWithoutBookmarks: on a pool that has none, the base of a peer that is away stays,
// and retention goes on with the rest.
func TestAwayWithoutBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := memzfs.New(1, testPool)
		w := bare(fs, "me", tarnv1.Role_ROLE_ACTIVE, &tarnv1.Peer{ReplicaId: "away", HostId: "h"})
		ds, ops := w.l.dataset(), 0
		check(t, fs.Create(t.Context(), ds, nil, true))
		for i := range 4 {
			check(t, fs.Snapshot(t.Context(), fmt.Sprintf("%s@tarn.%d", ds, i)))
		}
		check(t, fs.Hold(t.Context(), holdStep+"away", ds+"@tarn.1"))
		time.Sleep(2 * w.cfg.AwayBudget)
		fs.Before = func(_ int, op, object string) error {
			if op != "bookmark" {
				return nil
			}
			ops++
			return &zfs.Error{Op: op, Object: object, Class: zfs.ErrUnsupported, Text: "bookmark feature not enabled"}
		}
		for range 2 {
			check(t, w.prune(t.Context()))
		}
		_, list, _ := fs.Peek(ds)
		if got := names(list); !slices.Equal(got, []string{"tarn.1", "tarn.3"}) || list[0].UserRefs != 1 || ops != 1 {
			t.Errorf("left %v with %d holds after %d tries", got, list[0].UserRefs, ops)
		}
	})
}
