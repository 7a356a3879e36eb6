package replicate

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// TestForeignDatasetThatIsMovedAway: the error asks an administrator to move a dataset away
// that is not tarn's. The replica goes on when he has.
func TestForeignDatasetThatIsMovedAway(t *testing.T) {
	c := newCluster(t, 2)
	a, b := c.hosts[0], c.hosts[1]
	a.lease.set(1)
	a.assign(a.active(1))
	a.start()
	c.until("writable", func() bool { return a.report().GetWritable() })
	c.must(b.fs.Create(t.Context(), b.dataset(), nil, true))
	b.assign(b.secondary(1, a))
	b.start()
	c.until("refused", func() bool {
		return b.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_PERMISSION_DENIED
	})
	b.rename(b.dataset(), b.pool+"/kept")
	a.write("one\n")
	c.until("in sync", inSync(a, b))
}

// TestExportsFollowTheMountpoint: when somebody gives a mounted dataset another mountpoint,
// clients get to it there, and no more to the directory that is where it was.
func TestExportsFollowTheMountpoint(t *testing.T) {
	c, a, b := pair(t)
	a.write("one\n")
	c.until("in sync, and shown", func() bool { _, shown := b.exported(); return shown && inSync(a, b)() })
	for i, h := range c.hosts {
		before, _, _ := h.fs.Peek(h.dataset())
		c.must(h.fs.Set(t.Context(), h.dataset(), map[string]string{zfs.PropMountpoint: "/elsewhere"}))
		h.worker.Look() // as when the pool was listed: TestSurveyTellsWhatIsDifferent
		c.until("exported where it is", func() bool {
			ro, exported := h.exports.state("/elsewhere")
			_, old := h.exports.state(before.Mountpoint)
			return exported && !old && ro == (i == 1)
		})
	}
}

// TestSurveyTellsWhatIsDifferent: what somebody else did to the dataset is looked at,
// unless the listing was begun before this worker changed it itself.
func TestSurveyTellsWhatIsDifferent(t *testing.T) {
	begun := time.Now()
	head := []zfs.Version{{Kind: zfs.KindSnapshot, GUID: 1}, {Kind: zfs.KindSnapshot, GUID: 2}}
	ds := zfs.Dataset{GUID: 7, Mountpoint: "/p/r", ReadOnly: true}
	w := &Worker{s: state{f: facts{ds: &ds, versions: head, marks: marksOf(ds)}, changedAt: begun.Add(-time.Second)}}
	for name, change := range map[string]func(d *zfs.Dataset, v *[]zfs.Version){
		"another dataset": func(d *zfs.Dataset, _ *[]zfs.Version) { d.GUID = 8 },
		"writable":        func(d *zfs.Dataset, _ *[]zfs.Version) { d.ReadOnly = false },
		"mountpoint":      func(d *zfs.Dataset, _ *[]zfs.Version) { d.Mountpoint = "/x" },
		"limit":           func(d *zfs.Dataset, _ *[]zfs.Version) { d.Quota = 1 },
		"rolled back":     func(_ *zfs.Dataset, v *[]zfs.Version) { *v = head[:1] },
		"marks": func(d *zfs.Dataset, _ *[]zfs.Version) {
			d.User = map[string]zfs.Property{markRole: {Value: roleFenced, Source: zfs.SourceLocal}}
		},
	} {
		d, v := ds, head
		change(&d, &v)
		if !w.differs(d, v, begun) {
			t.Errorf("%s: not noticed", name)
		}
		if w.differs(d, v, begun.Add(-time.Hour)) {
			t.Errorf("%s: an older listing counts", name)
		}
	}
	if w.differs(ds, head, begun) {
		t.Error("nothing is different")
	}
}

// TestSnapshotTakenByACommandThatFailed: it is told as soon as it is seen, though nobody
// writes to the share any more.
func TestSnapshotTakenByACommandThatFailed(t *testing.T) {
	c, a, b := pair(t)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	var failed atomic.Bool
	a.mem.SetHooks(nil, func(_ int, op, object string) error {
		if op == "snapshot" && !failed.Swap(true) {
			return &zfs.Error{Op: op, Object: object, Class: zfs.ErrHung}
		}
		return nil
	})
	as := a.active(1)
	as.Snapshots = []*tarnv1.WantedSnapshot{{SnapshotId: "s1"}}
	a.assign(as)
	c.until("the snapshot is told", func() bool {
		a.worker.poke() // as once a minute
		list := a.report().GetSnapshots()
		return len(list) == 1 && list[0].GetPresent() && a.report().GetError() == nil
	})
	if !failed.Load() {
		t.Error("nothing failed")
	}
}

// TestRemovedReplicaThatIsWantedAgain: as by a control plane restored from a backup.
func TestRemovedReplicaThatIsWantedAgain(t *testing.T) {
	c, a, b := pair(t)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	b.assign(b.assignment(tarnv1.Role_ROLE_DELETING, 1))
	c.until("gone", func() bool { return b.report().GetGone() })
	b.assign(b.secondary(1, a))
	c.until("in sync again", func() bool { return !b.report().GetGone() && inSync(a, b)() })
}

// TestRemovedSnapshotOnItsWay: a copy does not say that a user's snapshot is removed while
// a stream may still bring it: nobody would remove it afterwards.
func TestRemovedSnapshotOnItsWay(t *testing.T) {
	c, a, b := pair(t)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	held, arrived := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	b.mem.SetHooks(func(_ int, op, _ string) error {
		if op == "receive" && !once.Swap(true) {
			close(arrived)
			<-held
		}
		return nil
	}, nil)
	as := a.active(1)
	as.Snapshots = []*tarnv1.WantedSnapshot{{SnapshotId: "s1"}}
	a.assign(as)
	<-arrived
	bs := b.secondary(1, a)
	bs.RemovedSnapshots = []*tarnv1.WantedSnapshot{{SnapshotId: "s1"}}
	b.assign(bs)
	said := func() bool { l := b.report().GetSnapshots(); return len(l) == 1 && l[0].GetRemoved() }
	c.until("the copy has heard of it", func() bool { return len(b.report().GetSnapshots()) == 1 })
	if said() {
		t.Error("told as removed while it is on its way")
	}
	close(held)
	c.until("removed", said)
	for _, v := range b.snapshots(b.dataset()) {
		if v.Name == userPrefix+"s1" {
			t.Error("it is there")
		}
	}
}

// TestFlagsAreTriedByTurns: where the mark of a copy says nothing, the first guess is tried
// again after the second one failed, too: what was in the way may be mended.
func TestFlagsAreTriedByTurns(t *testing.T) {
	w := &Worker{s: state{a: &tarnv1.Assignment{Role: tarnv1.Role_ROLE_SECONDARY}, f: facts{ds: &zfs.Dataset{}}}}
	r := pullResult{err: errors.Join(zfs.ErrStreamFlags)}
	r.step.Flags = "compressed"
	if !w.cure(r) || w.s.otherFlags == "" {
		t.Fatalf("no other flags: %q", w.s.otherFlags)
	}
	r.step.Flags = w.s.otherFlags
	if w.cure(r) || w.s.otherFlags != "" {
		t.Errorf("%q for ever", w.s.otherFlags)
	}
}
