package replicate

import (
	"testing"

	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// TestThirdReplicaFollowsThePromotedOne: after a promotion the other secondary
// goes on by increment from the new active.
func TestThirdReplicaFollowsThePromotedOne(t *testing.T) { everywhere(t, thirdReplica) }

func thirdReplica(t *testing.T, on maker) {
	c := newClusterOn(t, on, 3)
	a, b, d := c.hosts[0], c.hosts[1], c.hosts[2]
	a.lease.set(1)
	a.assign(a.active(1))
	for _, h := range []*testHost{b, d} {
		h.assign(h.secondary(1, a))
		h.start()
	}
	a.start()
	c.until("writable", func() bool { return a.report().GetWritable() })
	a.write("one\n")
	c.until("both in sync", func() bool { return inSync(a, b)() && inSync(a, d)() })
	base := c.demote(a, b, 1)
	c.activate(b, a, 2, base)
	d.assign(d.secondary(2, b))
	b.write("two\n")
	c.until("everybody follows", func() bool { return inSync(b, a)() && inSync(b, d)() })
	for _, h := range c.hosts {
		if n := len(h.report().GetDivergentCopies()); n != 0 {
			t.Errorf("%d divergent copies", n)
		}
		h.clean()
	}
}

// TestShareFromSnapshot makes a share from another one's snapshot, on the same pool
// and by a pull, then removes the other one.
func TestShareFromSnapshot(t *testing.T) {
	for _, same := range []bool{true, false} {
		c, a, b := pair(t)
		a.write("origin\n")
		as := a.active(1)
		as.Snapshots = []*tarnv1.WantedSnapshot{{SnapshotId: "s1"}}
		a.assign(as)
		c.until("snapshot taken", func() bool { s := a.report().GetSnapshots(); return len(s) == 1 && s[0].GetPresent() })
		guid := a.report().GetSnapshots()[0].GetGuid()
		host := a
		if !same {
			host = b
			b.assign(b.assignment(tarnv1.Role_ROLE_DELETING, 1))
			c.until("replica gone", func() bool { return b.report().GetGone() })
		}
		clone := host.second("clone")
		clone.lease.set(1)
		want := clone.assignment(tarnv1.Role_ROLE_ACTIVE, 1)
		want.ShareId = "other-share"
		want.CloneSource = &tarnv1.CloneSource{
			ShareId: c.share, Guid: guid, SamePool: same,
			Source: &tarnv1.Source{ReplicaId: a.replica, HostId: a.id, Address: a.addr},
		}
		as = proto.CloneOf(as)
		as.Peers = append(as.Peers, &tarnv1.Peer{ReplicaId: "clone", HostId: host.id})
		a.assign(as)
		clone.worker.Assign(want)
		c.until("clone is writable", func() bool { return clone.report().GetWritable() })
		if got, _ := host.fs.Read(clone.dataset()); got != "origin\n" {
			t.Errorf("same pool %v: clone has %q", same, got)
		}
		for _, v := range host.snapshots(clone.dataset()) {
			if !prunable(v.Name) {
				t.Errorf("the other share's %s shows in the clone", v.Name)
			}
		}
		a.assign(a.assignment(tarnv1.Role_ROLE_DELETING, 1))
		c.until("origin gone", func() bool { return a.report().GetGone() })
		if got, _ := host.fs.Read(clone.dataset()); got != "origin\n" {
			t.Errorf("same pool %v: clone has %q once its origin is gone", same, got)
		}
	}
}

// TestCloneWithoutASourceWaits: a share that is to start from a snapshot does not start
// empty while nobody has it.
func TestCloneWithoutASourceWaits(t *testing.T) {
	c, a, _ := pair(t)
	clone := a.second("clone")
	clone.lease.set(1)
	want := clone.assignment(tarnv1.Role_ROLE_ACTIVE, 1)
	want.ShareId, want.CloneSource = "other-share", &tarnv1.CloneSource{}
	clone.worker.Assign(want)
	c.until("it is told why", func() bool { return clone.report().GetError().GetMessage() == errNoOrigin.Error() })
	if r := clone.report(); r.GetReady() || r.GetWritable() || r.GetError().GetRetrying() {
		t.Errorf("reported %v", r)
	}
}

func TestResizeThatDoesNotFit(t *testing.T) {
	c, a, _ := pair(t)
	c.until("size applied", func() bool { return a.report().GetAppliedSizeGib() == 1 })
	refuse := true
	a.mem.SetHooks(func(_ int, op, _ string) error {
		if op == "set" && refuse {
			return &zfs.Error{Op: "set", Object: a.dataset(), Class: zfs.ErrNoSpace}
		}
		return nil
	}, nil)
	as := a.active(1)
	as.SizeGib = 5
	a.assign(as)
	c.until("refusal told", func() bool { return a.report().GetSizeBelowUsed() })
	if a.report().GetAppliedSizeGib() != 1 || !a.report().GetWritable() {
		t.Errorf("after a refused size: %v", a.report())
	}
	a.mem.SetHooks(nil, nil)
	a.assign(a.active(1))
	c.until("old size in force", func() bool { return !a.report().GetSizeBelowUsed() && a.report().GetAppliedSizeGib() == 1 })
}

// TestResyncComparesTheHead: what root wrote into a secondary is found, kept aside
// and replaced.
func TestResyncComparesTheHead(t *testing.T) {
	c, a, b := pair(t)
	a.write("good\n")
	c.until("in sync", inSync(a, b))
	c.must(b.fs.Write(b.dataset(), "bad\n", true))
	bs := b.secondary(1, a)
	bs.ResyncGeneration = 7
	b.assign(bs)
	c.until("compared", func() bool { return b.report().GetResyncGeneration() == 7 && inSync(a, b)() })
	c.until("kept aside", func() bool { return len(b.report().GetDivergentCopies()) == 1 })
	if got, _ := b.fs.Read(b.report().GetDivergentCopies()[0].GetDataset()); got != "good\nbad\n" {
		t.Errorf("kept %q", got)
	}
	a.clean()
	b.clean()
}

// TestWriteIntoSecondaryDoesNotStopIt: an increment finds the head modified.
func TestWriteIntoSecondaryDoesNotStopIt(t *testing.T) {
	c, a, b := pair(t)
	a.write("good\n")
	c.until("in sync", inSync(a, b))
	c.must(b.fs.Write(b.dataset(), "bad\n", true))
	a.write("better\n")
	c.until("in sync again", inSync(a, b))
	c.until("kept aside", func() bool { return len(b.report().GetDivergentCopies()) == 1 })
}
