package replicate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

const foreignName = testPool + "/data"

// foreign makes a dataset as somebody without tarn has one: mounted, with a quota of
// three GiB, snapshots of a cron job's and a hold of another tool's.
func (h *testHost) foreign(name string) {
	h.c.t.Helper()
	ctx := context.Background()
	h.c.must(h.fs.Create(ctx, name, map[string]string{zfs.PropQuota: fmt.Sprint(3 * gib), "com.example:owner": "web"}, false))
	h.c.must(h.fs.Mount(ctx, name))
	for i := range 3 {
		h.c.must(h.fs.Write(name, fmt.Sprintf("day %d\n", i), false))
		h.c.must(h.fs.Snapshot(ctx, fmt.Sprintf("%s@daily-%d", name, i)))
	}
	h.c.must(h.fs.Hold(ctx, "zrepl_STEP_J_push", name+"@daily-1"))
}

// manages is an assignment whose data are in a dataset that is there.
func manages(a *tarnv1.Assignment, from string) *tarnv1.Assignment {
	a.ManagedFrom, a.SizeGib = from, 0
	return a
}

// state of a dataset in one comparable text: everything that giving it back restores.
func (h *testHost) portrait(name string) string {
	h.c.t.Helper()
	ctx := context.Background()
	ds, versions, ok := h.fs.Peek(name)
	if !ok {
		return "none"
	}
	props, err := h.fs.Get(ctx, name, managedProps()...)
	h.c.must(err)
	out := fmt.Sprintf("guid %v mounted %v at %q ro %v quota %v", ds.GUID, ds.Mounted, ds.Mountpoint, ds.ReadOnly, ds.Quota)
	for _, p := range managedProps() {
		out += fmt.Sprintf("\n%s %v", p, setOrNot(p, props[p]))
	}
	var marks []string
	for k, v := range ds.User {
		if v.Source == zfs.SourceLocal {
			marks = append(marks, k+"="+v.Value)
		}
	}
	slices.Sort(marks)
	out += "\n" + strings.Join(marks, " ")
	for _, v := range versions {
		if prunable(v.Name) && v.Kind == zfs.KindSnapshot && v.UserRefs == 0 {
			continue // the newest of tarn's stays, held by nobody
		}
		out += fmt.Sprintf("\n%s %v refs %d", v.FullName(), v.GUID, v.UserRefs)
	}
	return out
}

// setOrNot: the two that are never inherited are set to their default.
func setOrNot(name string, p zfs.Property) string {
	defaults := map[string]string{zfs.PropCanMount: on, zfs.PropQuota: none}
	if d, ok := defaults[name]; ok && (p.Source != zfs.SourceLocal || p.Value == "0" || p.Value == d) {
		return d
	}
	return fmt.Sprint(p)
}

func TestTakesOverAndGivesBack(t *testing.T) { plainly(t, takesOverAndGivesBack) }

func takesOverAndGivesBack(t *testing.T, on maker) {
	c := newClusterOn(t, on, 2)
	a, b := c.hosts[0], c.hosts[1]
	a.foreign(foreignName)
	before, content := a.portrait(foreignName), "day 0\nday 1\nday 2\n"
	path := func() string { ds, _, _ := a.fs.Peek(foreignName); return ds.Mountpoint }()
	a.assign(manages(a.active(1), foreignName))
	a.start()
	c.until("taken over", func() bool { return a.report().GetReady() })
	if r := a.report(); r.GetWritable() || r.GetAppliedSizeGib() != 3 || r.GetError() != nil {
		t.Errorf("before the lease: %v", r)
	}
	a.lease.set(1)
	c.until("writable", func() bool { return a.report().GetWritable() })
	if ds, _, _ := a.fs.Peek(a.dataset()); a.mem != nil && ds.Mountpoint != path {
		t.Errorf("clients find it at %s, were used to %s", ds.Mountpoint, path)
	}
	if got, _ := a.fs.Read(a.dataset()); got != content || a.portrait(foreignName) != "none" {
		t.Errorf("share has %q; under the former name there is %s", got, a.portrait(foreignName))
	}
	for i := range 3 {
		if v, ok := (&facts{versions: a.snapshots(a.dataset())}).named(fmt.Sprintf("daily-%d", i)); !ok || !strings.Contains(before, v.GUID.String()) {
			t.Errorf("snapshot daily-%d is not what it was: %v", i, v)
		}
	}
	a.assign(func() *tarnv1.Assignment {
		x := manages(a.active(1), foreignName)
		x.SizeGib, x.Established = 3, true
		return x
	}())
	b.assign(b.secondary(1, a))
	b.start()
	a.write("tarn's\n")
	c.until("a replica follows", inSync(a, b))
	a.clean()

	b.assign(b.assignment(tarnv1.Role_ROLE_DELETING, 1))
	c.until("replica removed", func() bool { return b.report().GetGone() })
	a.lease.set(0)
	a.assign(manages(a.assignment(tarnv1.Role_ROLE_RELEASING, 1), foreignName))
	c.until("given back", func() bool { return a.report().GetGone() })
	if r := a.report(); r.GetObservedRole() != tarnv1.Role_ROLE_RELEASING || r.GetError() != nil {
		t.Errorf("reported %v", r)
	}
	if after := a.portrait(foreignName); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
	if got, _ := a.fs.Read(foreignName); got != content+"tarn's\n" || a.portrait(a.dataset()) != "none" {
		t.Errorf("given back with %q", got)
	}
}

// TestGivesBackWhatTarnMade: a share that tarn created has no former name; it stays
// where it is, and is nobody's.
func TestGivesBackWhatTarnMade(t *testing.T) {
	c, a, b := pair(t)
	a.write("data\n")
	c.until("in sync", inSync(a, b))
	for _, h := range []*testHost{b, a} {
		h.lease.set(0)
		h.assign(h.assignment(tarnv1.Role_ROLE_RELEASING, 1))
		c.until("given back", func() bool { return h.report().GetGone() })
		ds, versions, ok := h.fs.Peek(h.dataset())
		if !ok || len(ds.User) != 0 || ds.ReadOnly || ds.Mounted || ds.Quota != 0 {
			t.Errorf("left %+v", ds)
		}
		for _, v := range versions {
			if v.UserRefs > 0 || v.Kind == zfs.KindBookmark {
				t.Errorf("left %v", v)
			}
		}
		if got, _ := h.fs.Read(h.dataset()); got != "data\n" {
			t.Errorf("left %q", got)
		}
	}
	if a.head() != b.head() {
		t.Error("nothing in common is left to go on from")
	}
}

// TestManagedSnapshots: a snapshot that was there becomes a user's and gets its name
// back, with its GUID; one that is not there is told.
func TestManagedSnapshots(t *testing.T) { plainly(t, managedSnapshots) }

func managedSnapshots(t *testing.T, on maker) {
	c := newClusterOn(t, on, 1)
	a := c.hosts[0]
	a.foreign(foreignName)
	a.lease.set(1)
	guid := func(name string) uint64 {
		v, _ := (&facts{versions: a.snapshots(a.dataset())}).named(name)
		return uint64(v.GUID)
	}
	as := manages(a.active(1), foreignName)
	as.Snapshots = []*tarnv1.WantedSnapshot{
		{SnapshotId: "one", ManagedFrom: "daily-1"}, {SnapshotId: "lost", ManagedFrom: "nothing"}, {SnapshotId: "new"},
	}
	a.assign(as)
	a.start()
	said := func(i int) *tarnv1.SnapshotReport {
		if list := a.report().GetSnapshots(); len(list) > i {
			return list[i]
		}
		return &tarnv1.SnapshotReport{}
	}
	c.until("taken over", func() bool { return said(0).GetPresent() && said(2).GetPresent() && said(1).GetError() != "" })
	if said(0).GetGuid() == 0 || said(0).GetGuid() != guid(userPrefix+"one") || guid("daily-1") != 0 || said(1).GetPresent() {
		t.Errorf("reported %v", a.report().GetSnapshots())
	}
	before := said(0).GetGuid()
	as = manages(a.active(1), foreignName)
	as.Established = true
	as.RemovedSnapshots = []*tarnv1.WantedSnapshot{
		{SnapshotId: "one", Guid: before, ManagedFrom: "daily-1", Release: true}, {SnapshotId: "new", Guid: guid(userPrefix + "new"), Release: true},
	}
	a.assign(as)
	c.until("given back", func() bool { return said(0).GetRemoved() && said(1).GetRemoved() })
	if guid("daily-1") != before || guid(userPrefix+"new") == 0 {
		t.Errorf("left %v", a.snapshots(a.dataset()))
	}
}

// TestTakeoverObstacles: what cannot be taken over stays as it is, is told with what to
// do, and is taken over once that was done.
func TestTakeoverObstacles(t *testing.T) {
	ctx := context.Background()
	for _, o := range []struct {
		name  string
		from  string
		says  string
		make  func(h *testHost)
		clear func(h *testHost)
	}{
		{"missing", foreignName, "does not exist", func(*testHost) {}, func(h *testHost) { h.foreign(foreignName) }},
		{"children", foreignName, "below it", func(h *testHost) {
			h.foreign(foreignName)
			h.c.must(h.fs.Create(ctx, foreignName+"/child", nil, false))
		}, func(h *testHost) { h.c.must(h.fs.Destroy(ctx, foreignName+"/child")) }},
		{"marks of another", foreignName, "marks of replica", func(h *testHost) {
			h.foreign(foreignName)
			h.c.must(h.fs.Set(ctx, foreignName, map[string]string{markReplica: "x"}))
		}, func(h *testHost) { h.c.must(h.fs.Inherit(ctx, foreignName, markReplica)) }},
		{"a clone", testPool + "/clone", "is a clone", func(h *testHost) {
			h.foreign(foreignName)
			h.c.must(h.fs.Clone(ctx, foreignName+"@daily-1", testPool+"/clone", nil))
		}, func(h *testHost) { h.c.must(h.fs.Promote(ctx, testPool+"/clone")) }},
		{"tarn's own place", testRoot, "where tarn keeps its own", func(h *testHost) {
			h.c.must(h.fs.Create(ctx, testRoot, nil, false))
		}, nil},
		{"busy", foreignName, "busy", func(h *testHost) { h.foreign(foreignName); h.mem.SetBusy(foreignName, true) },
			func(h *testHost) { h.mem.SetBusy(foreignName, false) }},
	} {
		t.Run(o.name, func(t *testing.T) {
			c := newCluster(t, 1)
			h := c.hosts[0]
			o.make(h)
			before := h.portrait(o.from)
			h.lease.set(1)
			h.assign(manages(h.active(1), o.from))
			h.start()
			c.until("refused", func() bool { return strings.Contains(h.report().GetError().GetMessage(), o.says) })
			if after := h.portrait(o.from); o.name != "busy" && after != before || h.report().GetReady() {
				t.Errorf("changed\n%s\nto\n%s", before, after)
			}
			if fatal := !h.report().GetError().GetRetrying(); fatal == (o.name == "busy") {
				t.Errorf("told as %v", h.report().GetError())
			}
			if o.clear != nil {
				o.clear(h)
				c.until("taken over", func() bool { return h.report().GetWritable() && h.report().GetError() == nil })
			}
		})
	}
}

func TestTakeoverChecksTheSize(t *testing.T) {
	s := stateFor(tarnv1.Role_ROLE_ACTIVE, 1, marks{}, func(s *state) {
		s.l = layout{pool: testPool, base: testBase, replica: "r"}
		s.a.ManagedFrom, s.a.SizeGib = foreignName, 2
		s.f = facts{former: &former{ds: zfs.Dataset{Name: foreignName, Used: 2*gib + 1}}}
	})
	if got := step(s); got.kind != doRefuse || !strings.Contains(got.err.Error(), "uses 3 GiB") {
		t.Errorf("a share smaller than its data: %v", got)
	}
	s.a.SizeGib = 3
	if got := step(s); got.kind != doRecord {
		t.Errorf("a share as large as its data: %v", got)
	}
	if got := foundSize(&zfs.Dataset{Used: 1}); got != 1 {
		t.Errorf("an almost empty dataset counts %d GiB", got)
	}
	if got := foundSize(&zfs.Dataset{Used: 3 * gib, Quota: 4*gib - 1}); got != 4 {
		t.Errorf("a dataset with a quota counts %d GiB", got)
	}
}

// TestUnfit is what engines without volumes and keys cannot show.
func TestUnfit(t *testing.T) {
	for _, c := range []struct {
		what string
		says string
		edit func(*state, *former)
	}{
		{"fit", "", func(*state, *former) {}},
		{"volume", "no file system", func(_ *state, f *former) { f.volume = true }},
		{"volume below", "a volume for one", func(_ *state, f *former) { f.below = "a volume" }},
		{"half received", "zfs receive -A", func(_ *state, f *former) { f.ds.ResumeToken = "t" }},
		{"the base's parent", "take over one that does not", func(_ *state, f *former) { f.ds.Name = "p/up" }},
		{"encrypted", "tarn:encryption", func(_ *state, f *former) { f.keyRoot = "p/data" }},
		{"not encrypted", "not encrypted", func(s *state, _ *former) { s.a.Encrypted = true }},
		{"another's key", "zfs change-key", func(s *state, f *former) { s.a.Encrypted, f.keyRoot = true, "p" }},
		{"locked", "zfs load-key", func(s *state, f *former) { s.a.Encrypted, f.keyRoot, f.locked = true, "p/data", true }},
		{"a locked copy", "", func(s *state, f *former) {
			s.a.Encrypted, f.keyRoot, f.locked, s.a.Role = true, "p/data", true, tarnv1.Role_ROLE_SECONDARY
		}},
	} {
		s := takeoverState(tarnv1.Role_ROLE_ACTIVE, nil)
		s.l.base = "up/tarn"
		c.edit(s, s.f.former)
		if got := s.unfit().Error(); got != c.says && (c.says == "" || !strings.Contains(got, c.says)) {
			t.Errorf("%s: %q, want %q", c.what, got, c.says)
		}
	}
}

// replicate copies snapshots as a replication tool does: the first whole, the others
// as increments.
func (h *testHost) replicate(from string, to *testHost, as string, snapshots ...string) {
	h.c.t.Helper()
	ctx := context.Background()
	for i, name := range snapshots {
		req := zfs.SendRequest{Dataset: from, To: name}
		if i > 0 {
			req.From = "@" + snapshots[i-1]
		}
		s, err := h.fs.Send(ctx, req)
		h.c.must(err)
		h.c.must(to.fs.Receive(ctx, zfs.ReceiveRequest{Target: as + "@" + name}, s))
		h.c.must(s.Close())
	}
}

const backupName = testPool + "/backup"

// copied is a dataset and a copy that was replicated before tarn, up to daily-1; both
// are then tarn's.
func copied(t *testing.T, on maker, prepare func(a, b *testHost)) (c *cluster, a, b *testHost) {
	t.Helper()
	c = newClusterOn(t, on, 2)
	a, b = c.hosts[0], c.hosts[1]
	a.foreign(foreignName)
	a.replicate(foreignName, b, backupName, "daily-0", "daily-1")
	c.must(b.fs.Hold(t.Context(), "zrepl_last_received_J_pull", backupName+"@daily-1"))
	prepare(a, b)
	a.lease.set(1)
	a.assign(manages(a.active(1), foreignName))
	b.assign(manages(b.secondary(1, a), backupName))
	a.start()
	b.start()
	return c, a, b
}

// followedFrom checks that a copy went on from what it had.
func followedFrom(t *testing.T, c *cluster, a, b *testHost, kind string) {
	t.Helper()
	c.until("copy follows", inSync(a, b))
	if b.heard("full") != 0 || b.heard(kind) == 0 {
		t.Errorf("steps %v, want %s and nothing whole", b.steps, kind)
	}
	a.write("tarn's\n")
	c.until("copy goes on", inSync(a, b))
	if got, _ := b.fs.Read(b.dataset()); got != "day 0\nday 1\nday 2\ntarn's\n" {
		t.Errorf("copy has %q", got)
	}
	if _, ok := (&facts{versions: b.snapshots(b.dataset())}).named("daily-0"); !ok {
		t.Error("the copy lost a snapshot that it had")
	}
}

func TestTakesACopyOver(t *testing.T) { plainly(t, takesACopyOver) }

func takesACopyOver(t *testing.T, on maker) {
	c, a, b := copied(t, on, func(*testHost, *testHost) {})
	followedFrom(t, c, a, b, "incremental")
	v, _ := (&facts{versions: b.snapshots(b.dataset())}).named("daily-1")
	holds, err := b.fs.Holds(t.Context(), v.FullName())
	if err != nil || !slices.ContainsFunc(holds, func(h zfs.Hold) bool { return h.Tag == "zrepl_last_received_J_pull" }) {
		t.Errorf("another tool's hold is gone: %v %v", holds, err)
	}
	b.assign(manages(b.assignment(tarnv1.Role_ROLE_RELEASING, 1), backupName))
	c.until("copy given back", func() bool { return b.report().GetGone() })
	ds, versions, ok := b.fs.Peek(backupName)
	if !ok || len(ds.User) != 0 || versions[len(versions)-1].UserRefs != 0 {
		t.Errorf("given back as %+v %v", ds, versions)
	}
}

// TestTakesACopyOverFromABookmark: the source has the base as another tool's bookmark only.
func TestTakesACopyOverFromABookmark(t *testing.T) {
	for _, mark := range []string{"zrepl_CURSOR_G_1f_J_push", "daily-1_syncoid"} {
		plainly(t, func(t *testing.T, on maker) {
			c, a, b := copied(t, on, func(a, _ *testHost) {
				ctx := context.Background()
				a.c.must(a.fs.Bookmark(ctx, foreignName+"@daily-1", foreignName+"#"+mark))
				a.c.must(a.fs.Release(ctx, "zrepl_STEP_J_push", foreignName+"@daily-1"))
				a.c.must(a.fs.DestroySnapshots(ctx, foreignName, "daily-0", "daily-1"))
			})
			followedFrom(t, c, a, b, "bookmark")
			if _, err := a.fs.Versions(t.Context(), a.dataset()); err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(a.snapshots(a.dataset()), func(v zfs.Version) bool { return v.Name == mark }) {
				t.Error("another tool's bookmark has gone")
			}
		})
	}
}

// TestTakesADivergedCopyOver: what a copy has beyond the common snapshot is kept aside.
func TestTakesADivergedCopyOver(t *testing.T) { plainly(t, takesADivergedCopyOver) }

func takesADivergedCopyOver(t *testing.T, on maker) {
	c, a, b := copied(t, on, func(_, b *testHost) {
		ctx := context.Background()
		b.c.must(b.fs.Set(ctx, backupName, map[string]string{zfs.PropReadOnly: off}))
		b.c.must(b.fs.Mount(ctx, backupName))
		b.c.must(b.fs.Write(backupName, "its own\n", false))
		b.c.must(b.fs.Snapshot(ctx, backupName+"@own"))
		b.c.must(b.fs.Write(backupName, "dirty\n", false))
		b.c.must(b.fs.Unmount(ctx, backupName, false))
	})
	followedFrom(t, c, a, b, "incremental")
	c.until("copy recorded", func() bool { return len(b.report().GetDivergentCopies()) == 1 })
	if got, _ := b.fs.Read(b.report().GetDivergentCopies()[0].GetDataset()); got != "day 0\nday 1\nits own\ndirty\n" {
		t.Errorf("kept aside: %q", got)
	}
}

func TestNothingInCommonIsNotTakenOver(t *testing.T) {
	c, a, b := copied(t, inMemory, func(_, b *testHost) {
		ctx := context.Background()
		b.c.must(b.fs.Release(ctx, "zrepl_last_received_J_pull", backupName+"@daily-1"))
		b.c.must(b.fs.DestroySnapshots(ctx, backupName, "daily-0", "daily-1"))
		b.c.must(b.fs.Snapshot(ctx, backupName+"@own"))
	})
	before := b.portrait(backupName)
	c.until("refused", func() bool { return strings.Contains(b.report().GetError().GetMessage(), "in common") })
	if after := b.portrait(backupName); after != before {
		t.Errorf("changed\n%s\nto\n%s", before, after)
	}
	b.assign(manages(b.assignment(tarnv1.Role_ROLE_RELEASING, 1), backupName))
	c.until("given up", func() bool { return b.report().GetGone() })
	if after := b.portrait(backupName); after != before || a.report().GetError() != nil {
		t.Errorf("changed\n%s\nto\n%s", before, after)
	}
}

func FuzzParseWas(f *testing.F) {
	f.Add(was{props: map[string]string{zfs.PropQuota: "5", propShareNFS: "rw=@10.0.0.0/8,no_root_squash"}, mounted: true, path: "/a b/c&d"}.String())
	f.Add("")
	f.Add("path=..%2f&mounted=yes")
	f.Add("prop.exec=off")
	f.Fuzz(func(t *testing.T, text string) {
		w, err := parseWas(text)
		if err != nil {
			return
		}
		again, err := parseWas(w.String())
		if err != nil || again.String() != w.String() {
			t.Errorf("%q reads as %+v, which reads as %+v, %v", text, w, again, err)
		}
	})
}

// TestForesees: what would come of taking something over is told as it would happen,
// and nothing changes.
func TestForesees(t *testing.T) { plainly(t, foresees) }

func foresees(t *testing.T, on maker) {
	c := newClusterOn(t, on, 1)
	h, ctx := c.hosts[0], t.Context()
	h.foreign(foreignName)
	before := h.portrait(foreignName)
	f, err := Foresee(ctx, h.fs, testRoot, &tarnv1.ManageQuestion{Dataset: foreignName})
	if err != nil || f.GetObstacle() != "" || f.GetSizeGib() != 3 || !f.GetMounted() || f.GetSnapshots() != 3 ||
		f.GetNewestSnapshot() != "daily-2" || len(f.GetGuids()) != 3 || f.GetRenamedBelow() != testRoot {
		t.Errorf("foresaw %v, %v", f, err)
	}
	b, err := stream.Foresee(ctx, h.fs, foreignName, []zfs.GUID{zfs.GUID(f.GetGuids()[1])})
	if err != nil || b.GetKind() != "incremental" || b.GetBase() != foreignName+"@daily-1" || b.GetSteps() != 1 {
		t.Errorf("foresaw %v, %v", b, err)
	}
	for have, kind := range map[zfs.GUID]string{zfs.GUID(f.GetGuids()[0]): "up_to_date", 4711: "unrelated"} {
		if b, err := stream.Foresee(ctx, h.fs, foreignName, []zfs.GUID{have}); err != nil || b.GetKind() != kind {
			t.Errorf("foresaw %v, %v, want %s", b, err, kind)
		}
	}
	for name, says := range map[string]string{testPool + "/nothing": "does not exist", testPool: "not on pool"} {
		if f, err := Foresee(ctx, h.fs, testRoot, &tarnv1.ManageQuestion{Dataset: name}); err != nil || !strings.Contains(f.GetObstacle(), says) {
			t.Errorf("%s: foresaw %v, %v", name, f, err)
		}
	}
	if after := h.portrait(foreignName); after != before {
		t.Errorf("looking changed\n%s\nto\n%s", before, after)
	}
}
