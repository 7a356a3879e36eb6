package replicate

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"tarn/agent/stream"
	"tarn/zfs"
)

// TestListsOnlyWhereThatDecides: a share that is written to costs no list of its
// snapshots, however many there are, until somebody may have changed them.
func TestListsOnlyWhereThatDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &lateEngine{}
		c, err := NewCadence(CadenceConfig{Engine: e, Root: testRoot, Board: stream.NewBoard(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		tracked := Tracked{Share: "s", Replica: "r", Dataset: testRoot + "/r", Epoch: 1, Every: time.Minute, Peers: []string{"p"}, Notify: func() {}}
		tick := func(what string, write bool, lists int) {
			t.Helper()
			if write {
				e.write()
				_ = e.sync(t.Context())
			}
			c.Set(tracked)
			c.all["r"].due = time.Time{}
			before := e.lists
			if err := c.tick(t.Context()); err != nil {
				t.Fatal(err)
			}
			if e.lists-before != lists {
				t.Errorf("%s: %d lists, want %d", what, e.lists-before, lists)
			}
			seen, _ := c.Tracking("r")
			if newest := e.snaps[len(e.snaps)-1]; seen.Head != newest {
				t.Errorf("%s: head %+v, want %+v", what, seen.Head, newest)
			}
			if listed := c.Listed("r"); listed[len(listed)-1] != seen.Head {
				t.Errorf("%s: the list ends with %+v", what, listed[len(listed)-1])
			}
		}
		tick("first", true, 1)
		tick("written to", true, 0)
		tick("written to again", true, 0)
		tick("unchanged: its head decides", false, 1)
		tracked.Wanted = []string{userPrefix + "1"}
		tick("a user's snapshot", true, 1)
		tick("which is there", true, 0)
		tracked.Wanted = nil
		tick("no more", true, 1)
		e.snaps = e.snaps[:1] // an administrator's rollback
		tick("rolled back, and written to", true, 0)
		time.Sleep(relist)
		tick("after a time", true, 1)
		if n := len(c.Listed("r")); n != len(e.snaps) {
			t.Errorf("%d listed of %d", n, len(e.snaps))
		}
	})
}

// TestIdleCostsNoList: where the engine says when snapshots changed, who has nothing to
// take lists nothing; in the seconds after a change, of which there may be more, it does.
func TestIdleCostsNoList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &lateEngine{}
		c, err := NewCadence(CadenceConfig{Engine: e, Root: testRoot, Board: stream.NewBoard(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c.Set(Tracked{Share: "s", Replica: "r", Dataset: testRoot + "/r", Epoch: 1, Every: 15 * time.Second, Peers: []string{"p"}, Notify: func() {}})
		take := func() {
			if err := e.Snapshot(t.Context(), testRoot+"/r@"+time.Now().Format("150405.000")); err != nil {
				t.Fatal(err)
			}
			e.changed = time.Now().Truncate(time.Second)
		}
		tick := func(what string, lists int) {
			t.Helper()
			c.all["r"].due = time.Time{}
			before, begun := e.lists, time.Now()
			if err := c.tick(t.Context()); err != nil {
				t.Fatal(err)
			}
			seen, _ := c.Tracking("r")
			if newest := e.snaps[len(e.snaps)-1]; e.lists-before != lists || seen.Head != newest || !seen.AsOf.Equal(begun) {
				t.Errorf("%s: %d lists, want %d; head %s of %s, equal to it as of %s ago", what, e.lists-before, lists, seen.Head.Name, newest.Name, begun.Sub(seen.AsOf))
			}
		}
		take()
		tick("a change of this second", 1)
		take()
		tick("another in the same", 1)
		time.Sleep(tellable)
		tick("now it can be told", 1)
		for range 3 {
			time.Sleep(15 * time.Second)
			tick("idle", 0)
		}
		take()
		tick("somebody else's", 1)
		time.Sleep(15 * time.Second)
		tick("dated", 1)
		tick("idle again", 0)
		time.Sleep(relist)
		tick("after a time all the same", 1)
	})
}

// TestReadsBackWhatIsThere: a snapshot that is gone before it was read back is no head.
func TestReadsBackWhatIsThere(t *testing.T) {
	e := &lateEngine{}
	c, err := NewCadence(CadenceConfig{Engine: &forgetful{e}, Root: testRoot, Board: stream.NewBoard(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c.Set(Tracked{Share: "s", Replica: "r", Dataset: testRoot + "/r", Epoch: 1, Every: time.Minute, Peers: []string{"p"}, Notify: func() {}})
	if err := c.tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if seen, _ := c.Tracking("r"); seen.Head != (zfs.Version{}) || seen.Taken != 0 || len(c.Listed("r")) != 0 {
		t.Errorf("%+v of a snapshot that is gone", seen)
	}
}

// forgetful loses every snapshot at once.
type forgetful struct{ *lateEngine }

func (f *forgetful) Snapshot(ctx context.Context, names ...string) error {
	err := f.lateEngine.Snapshot(ctx, names...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snaps = nil
	return err
}
