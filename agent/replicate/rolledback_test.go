package replicate

import (
	"context"
	"testing"
	"time"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// administrator is what somebody with root's rights does beside tarn.
type administrator interface {
	Holds(ctx context.Context, snapshot string) ([]zfs.Hold, error)
	Release(ctx context.Context, tag string, snapshots ...string) error
	DestroySnapshots(ctx context.Context, dataset string, names ...string) error
	Rollback(ctx context.Context, snapshot string) error
}

// rollBack takes a dataset back to one of its snapshots, whoever holds the later ones.
func rollBack(t *testing.T, h *testHost, to zfs.GUID) {
	t.Helper()
	admin := h.fs.(administrator)
	later := false
	target := ""
	for _, s := range h.snapshots(h.dataset()) {
		if s.GUID == to {
			later, target = true, s.FullName()
			continue
		}
		if !later {
			continue
		}
		holds, err := admin.Holds(t.Context(), s.FullName())
		check(t, err)
		for _, hold := range holds {
			check(t, admin.Release(t.Context(), hold.Tag, s.FullName()))
		}
		check(t, admin.DestroySnapshots(t.Context(), h.dataset(), s.Name))
	}
	check(t, admin.Rollback(t.Context(), target))
}

// An administrator rolls the active replica back. The copy is ahead then, and stays as it
// is until the active one goes on in another way: what the copy has alone is put aside,
// readable, and not destroyed with what the active one lost.
func TestRolledBackPrimaryShrinksNoCopy(t *testing.T) {
	c, a, b := pairOn(t, onDirectory)
	a.write("kept\n")
	as := a.active(1)
	as.Snapshots = []*tarnv1.WantedSnapshot{{SnapshotId: "user"}}
	a.assign(as)
	var base uint64
	c.until("a user's snapshot", func() bool {
		for _, s := range a.report().GetSnapshots() {
			if s.GetSnapshotId() == "user" && s.GetPresent() {
				base = s.GetGuid()
			}
		}
		return base != 0
	})
	bs := b.secondary(1, a)
	bs.Snapshots = []*tarnv1.WantedSnapshot{{SnapshotId: "user", Guid: base}}
	b.assign(bs)
	a.write("later\n")
	c.until("the copy has both", func() bool {
		text, err := b.fs.Read(b.dataset())
		return err == nil && text == "kept\nlater\n" && inSync(a, b)()
	})
	a.kill()
	rollBack(t, a, zfs.GUID(base))
	a.start()
	c.until("the active one is back", func() bool { return a.report().GetWritable() && a.head() == base })
	c.until("the copy says so", func() bool {
		r := b.report()
		return r.GetError().GetCode() == rolledBackCode && r.GetReady() && r.GetError().GetRetrying()
	})
	a.write("anew\n")
	c.until("the copy follows", func() bool {
		text, err := b.fs.Read(b.dataset())
		return err == nil && text == "kept\nanew\n" && inSync(a, b)()
	})
	c.until("it has nothing to say any more", func() bool { return b.report().GetError() == nil })
	c.until("what it had is kept aside", func() bool { return len(b.report().GetDivergentCopies()) == 1 })
	text, err := b.fs.Read(b.report().GetDivergentCopies()[0].GetDataset())
	if err != nil || text != "kept\nlater\n" {
		t.Errorf("kept aside is %q, %v", text, err)
	}
}

const rolledBackCode = tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_SOURCE_ROLLED_BACK

// A copy is ahead of what its source said a moment ago all the time, and of a source that
// went away. Only a source whose data are the older ones after the copy had newer ones has
// lost these.
func TestAheadIsNotOldNews(t *testing.T) {
	begun := time.Now()
	a := ahead{head: 3, source: 2, since: begun}
	if again := (ahead{head: 3, source: 2, since: begun.Add(time.Hour)}).after(a); again != a {
		t.Errorf("what goes on begins at %v", again.since)
	}
	if next := (ahead{head: 4, source: 2, since: begun.Add(time.Hour)}).after(a); !next.since.After(begun) {
		t.Error("another head has been here since the first one was")
	}
	for name, c := range map[string]struct {
		a    ahead
		seen stream.Seen
		told bool
	}{
		"before the copy had its head": {a, stream.Seen{GUID: 2, AsOf: begun.Add(-time.Second)}, false},
		"at the same moment":           {a, stream.Seen{GUID: 2, AsOf: begun}, false},
		"never known":                  {a, stream.Seen{GUID: 2}, false},
		"another head by now":          {a, stream.Seen{GUID: 3, AsOf: begun.Add(time.Second)}, false},
		"not ahead":                    {ahead{}, stream.Seen{AsOf: begun.Add(time.Second)}, false},
		"after the copy had its head":  {a, stream.Seen{GUID: 2, AsOf: begun.Add(time.Second)}, true},
	} {
		if e := c.a.problem(c.seen); (e != nil) != c.told || e != nil && e.GetCode() != rolledBackCode {
			t.Errorf("%s: %v", name, e)
		}
	}
}
