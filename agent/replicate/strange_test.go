package replicate

import (
	"errors"
	"strings"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// TestRenamedUnderAStream: an administrator renames a copy while a stream comes in, the
// agent notices, and the dataset is back when the stream ends.
func TestRenamedUnderAStream(t *testing.T) {
	w := Worker{s: state{f: facts{away: "tank/kept"}}}
	w.took(pullResult{got: zfs.Version{GUID: 7}})
	if !w.stale {
		t.Error("nobody looks at what is there now")
	}
}

// TestStagingIsDropped: what was on its way in the place of a dataset that is back again
// does not stay for ever.
func TestStagingIsDropped(t *testing.T) {
	c, a, b := pair(t)
	a.write(strings.Repeat("all of it again\n", 32<<10))
	c.until("in sync", inSync(a, b))
	away := b.pool + "/kept"
	b.kill()
	c.must(b.fs.Unmount(t.Context(), b.dataset(), false))
	b.rename(b.dataset(), away)
	slow := b.secondary(1, a)
	slow.Options = &tarnv1.ReplicationOptions{RateLimit: 16 << 10}
	b.assign(slow)
	before := b.heard("bytes")
	b.start() // it has never seen the dataset, and nobody says that there is one
	c.until("a copy on its way", func() bool { return b.heard("bytes") > before+8<<10 })
	b.kill()
	staging := b.root() + "/" + stagingDir + "/" + b.replica
	if d, _, there := b.fs.Peek(staging); !there || d.ResumeToken == "" {
		t.Fatalf("half a copy: %v", d)
	}
	b.rename(away, b.dataset())
	b.assign(b.secondary(1, a))
	b.start()
	a.write("two\n")
	c.until("in sync when it is back", inSync(a, b))
	c.until("nothing is left of the new copy", func() bool { _, _, there := b.fs.Peek(staging); return !there })
}

var errNoPath = errors.New("mountpoint is not a clean absolute path")

// TestWithoutMountpoint: a dataset without a mountpoint cannot be reached, so that nothing
// has to be taken away before it is demoted or removed.
func TestWithoutMountpoint(t *testing.T) {
	c, a, b := pair(t)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	a.kill()
	b.kill()
	a.exports.refuse, b.exports.refuse = errNoPath, errNoPath
	for _, h := range c.hosts {
		c.must(h.fs.Unmount(t.Context(), h.dataset(), false))
		c.must(h.fs.Set(t.Context(), h.dataset(), map[string]string{zfs.PropMountpoint: none}))
	}
	a.lease.set(0)
	demote := a.assignment(tarnv1.Role_ROLE_FENCED, 1)
	demote.OpId = "op"
	a.assign(demote)
	b.assign(b.assignment(tarnv1.Role_ROLE_DELETING, 1))
	a.start()
	b.start()
	c.until("demoted", func() bool { return a.report().GetDemoteAck().GetOpId() == "op" })
	c.until("removed", func() bool { return b.report().GetGone() })
}

// TestManagedStaysManaged: a dataset that was taken over and lost a failover is put aside;
// what goes on in its name keeps its path, and is given back under its former name as what
// it was.
func TestManagedStaysManaged(t *testing.T) { plainly(t, managedStaysManaged) }

func managedStaysManaged(t *testing.T, on maker) {
	c := newClusterOn(t, on, 2)
	a, b := c.hosts[0], c.hosts[1]
	a.foreign(foreignName)
	path := func() string { ds, _, _ := a.fs.Peek(foreignName); return ds.Mountpoint }()
	a.lease.set(1)
	a.assign(manages(a.active(1), foreignName))
	b.assign(b.secondary(1, a))
	a.start()
	b.start()
	c.until("in sync", inSync(a, b))
	kept := b.head()
	b.kill()
	a.write("lost\n")
	c.until("lost data in a snapshot", func() bool { return a.report().GetHeadGuid() != kept })
	a.kill()
	a.fence(a.dataset())
	b.start()
	c.activate(b, a, 2, zfs.GUID(kept))
	a.want.ManagedFrom, a.want.Established = foreignName, true
	a.start()
	c.until("put aside", func() bool { return len(a.report().GetDivergentCopies()) == 1 && inSync(b, a)() })
	ds, _, _ := a.fs.Peek(a.dataset())
	if a.mem != nil && ds.Mountpoint != path || local(ds, markFrom) != foreignName || local(ds, markWas) == "" {
		t.Errorf("mounted at %s, was at %s; marks %v", ds.Mountpoint, path, ds.User)
	}
}

// TestManagedSentAgainStaysManaged: the same where nothing is in common and everything is
// sent again: that keeps its path, too, and is given back as what was there.
func TestManagedSentAgainStaysManaged(t *testing.T) { plainly(t, managedSentAgain) }

func managedSentAgain(t *testing.T, on maker) {
	c := newClusterOn(t, on, 2)
	a, b := c.hosts[0], c.hosts[1]
	a.foreign(foreignName)
	ds, _, _ := a.fs.Peek(foreignName)
	path := ds.Mountpoint
	props, err := a.fs.Get(t.Context(), foreignName, managedProps()...)
	c.must(err)
	a.lease.set(1)
	a.assign(manages(a.active(1), foreignName))
	b.lease.set(1)
	b.assign(b.active(1))
	for _, h := range c.hosts {
		h.start()
		c.until("writable", func() bool { return h.report().GetWritable() })
		h.write("data of " + h.id)
		c.until("head", func() bool { return h.report().GetHeadGuid() != 0 })
	}
	a.lease.set(0)
	b.lease.set(2)
	b.assign(b.active(2))
	again := a.secondary(2, b)
	again.ManagedFrom, again.Established = foreignName, true
	a.assign(again)
	c.until("in sync from scratch", inSync(b, a))
	c.until("old data kept", func() bool { return len(a.report().GetDivergentCopies()) == 1 })
	ds, _, _ = a.fs.Peek(a.dataset())
	if a.mem != nil && ds.Mountpoint != path || local(ds, markFrom) != foreignName || local(ds, markWas) == "" {
		t.Errorf("mounted at %s, was at %s; marks %v", ds.Mountpoint, path, ds.User)
	}
	a.assign(manages(a.assignment(tarnv1.Role_ROLE_RELEASING, 2), foreignName))
	c.until("given back", func() bool { return a.report().GetGone() })
	now, err := a.fs.Get(t.Context(), foreignName, managedProps()...)
	c.must(err)
	for _, p := range managedProps() {
		if setOrNot(p, now[p]) != setOrNot(p, props[p]) {
			t.Errorf("%s was %v, is %v", p, props[p], now[p])
		}
	}
}
