package zfstest

import (
	"os"
	"strings"
	"testing"

	"tarn/zfs"
)

func snapshotTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"atomic":    testSnapshotAtomic,
		"order":     testSnapshotOrder,
		"written":   testWritten,
		"holds":     testHolds,
		"bookmarks": testBookmarks,
		"rename":    testRenameSnapshot,
		"rollback":  testRollback,
		"reopen":    testReopen,
	}
}

func testSnapshotAtomic(t *testing.T, s *suite) {
	s.need(t, s.caps.MultiSnapshot, "atomic snapshots of several datasets")
	ctx := t.Context()
	a, _ := s.create(t, "a")
	b, _ := s.create(t, "b")
	s.snap(t, b+"@2")
	fails(t, s.Host.Snapshot(ctx, a+"@2", b+"@2"), zfs.ErrExists)
	if _, there := s.lookUp(t, a+"@2"); there {
		t.Error("a refused call took a snapshot")
	}
	fails(t, s.Host.Snapshot(ctx, a+"@3", s.Source+"/none@3"), zfs.ErrNotExist)
	if _, there := s.lookUp(t, a+"@3"); there {
		t.Error("a refused call took a snapshot")
	}
	fails(t, s.Host.Snapshot(ctx, a+"@4", a+"@5"), zfs.ErrInvalid)
	ok(t, s.Host.Snapshot(ctx, a+"@6", b+"@6"))
	if x, y := s.version(t, a+"@6"), s.version(t, b+"@6"); x.GUID == y.GUID || x.GUID == 0 || y.GUID == 0 {
		t.Errorf("GUIDs %v and %v", x.GUID, y.GUID)
	}
}

func testSnapshotOrder(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, _ := s.create(t, "order")
	names := []string{"z", "a", "m", "0"}
	for _, n := range names {
		s.snap(t, ds+"@"+n)
	}
	list, err := s.Host.Versions(ctx, ds)
	ok(t, err)
	var got []string
	last := uint64(0)
	for _, v := range list {
		got = append(got, v.Name)
		if v.CreateTXG <= last || v.Dataset != ds || v.Kind != zfs.KindSnapshot || v.Creation.IsZero() {
			t.Errorf("version %+v after txg %d", v, last)
		}
		last = v.CreateTXG
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("order %v, want that of creation: %v", got, names)
	}
	below, err := s.Host.VersionsBelow(ctx, s.Source)
	ok(t, err)
	if len(below[ds]) != len(names) {
		t.Errorf("VersionsBelow: %+v", below)
	}
	s.looksUp(t, ds, got)
	ok(t, s.Host.DestroySnapshots(ctx, ds, "a", "0"))
	ok(t, s.Host.DestroySnapshots(ctx, ds, "none", "m", "a"))
	if _, there := s.lookUp(t, ds+"@m"); there {
		t.Error("a missing name kept another from being destroyed")
	}
	fails(t, s.Host.DestroySnapshots(ctx, ds, "m", "a"), zfs.ErrNotExist)
	s.version(t, ds+"@z")
}

func testWritten(t *testing.T, s *suite) {
	s.need(t, s.caps.Written, "written")
	ds, dir := s.create(t, "w")
	writeFile(t, dir+"/f", random(300<<10))
	if n := s.written(t, ds); n < 300<<10 {
		t.Errorf("written %d before the first snapshot", n)
	}
	s.snap(t, ds+"@1")
	zero := func(when string) {
		t.Helper()
		if n := s.written(t, ds); n != 0 {
			t.Errorf("written %d %s", n, when)
		}
	}
	zero("right after the snapshot")
	writeFile(t, dir+"/f", random(300<<10))
	if n := s.written(t, ds); n < 128<<10 {
		t.Errorf("written %d after 300 KiB", n)
	}
	s.snap(t, ds+"@2")
	zero("after the second")
	ok(t, os.Chmod(dir+"/f", 0o600))
	if s.written(t, ds) == 0 {
		t.Error("a changed mode is a change")
	}
	s.snap(t, ds+"@3")
	ok(t, os.Remove(dir+"/f"))
	if s.written(t, ds) == 0 {
		t.Error("a removed file is a change")
	}
	s.snap(t, ds+"@4")
	ok(t, s.Host.DestroySnapshots(t.Context(), ds, "2", "3"))
	zero("after older snapshots are gone")
}

func testHolds(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, _ := s.create(t, "h")
	s.snap(t, ds+"@1")
	s.snap(t, ds+"@2")
	ok(t, s.Host.Hold(ctx, "tarn.one", ds+"@1", ds+"@2"))
	ok(t, s.Host.Hold(ctx, "tarn.one", ds+"@1"))
	ok(t, s.Host.Hold(ctx, "tarn.two", ds+"@1"))
	if v := s.version(t, ds+"@1"); v.UserRefs != 2 {
		t.Errorf("%d user references, want 2", v.UserRefs)
	}
	if s.caps.HoldsListed {
		list, err := s.Host.Holds(ctx, ds+"@1")
		ok(t, err)
		if len(list) != 2 || list[0].Tag != "tarn.one" || list[1].Tag != "tarn.two" || list[0].Snapshot != ds+"@1" {
			t.Errorf("holds %+v", list)
		}
	}
	fails(t, s.Host.DestroySnapshots(ctx, ds, "1"), zfs.ErrHeld)
	fails(t, s.Host.Hold(ctx, "t", ds+"@none"), zfs.ErrNotExist)
	fails(t, s.Host.Hold(ctx, "", ds+"@1"), zfs.ErrInvalid)
	ok(t, s.Host.Release(ctx, "tarn.one", ds+"@1", ds+"@2"))
	ok(t, s.Host.Release(ctx, "tarn.one", ds+"@1"))
	fails(t, s.Host.DestroySnapshots(ctx, ds, "2", "1"), zfs.ErrHeld)
	s.version(t, ds+"@2")
	ok(t, s.Host.Release(ctx, "tarn.two", ds+"@1"))
	ok(t, s.Host.DestroySnapshots(ctx, ds, "1", "2"))
}

func testBookmarks(t *testing.T, s *suite) {
	s.need(t, s.caps.Bookmarks, "bookmarks")
	ctx := t.Context()
	ds, dir := s.create(t, "bm")
	writeFile(t, dir+"/keep", random(200<<10))
	s.snap(t, ds+"@1")
	s.transfer(t, ds, "", "1", s.Target+"/bm@1")
	ok(t, s.Host.Bookmark(ctx, ds+"@1", ds+"#m"))
	ok(t, s.Host.Bookmark(ctx, ds+"@1", ds+"#m"))
	v, snap := s.version(t, ds+"#m"), s.version(t, ds+"@1")
	if v.GUID != snap.GUID || v.CreateTXG != snap.CreateTXG || v.Kind != zfs.KindBookmark {
		t.Errorf("bookmark %+v of %+v", v, snap)
	}
	writeFile(t, dir+"/new", random(100<<10))
	s.snap(t, ds+"@2")
	fails(t, s.Host.Bookmark(ctx, ds+"@2", ds+"#m"), zfs.ErrExists)
	ok(t, s.Host.DestroySnapshots(ctx, ds, "1"))
	_, err := s.Host.Send(ctx, zfs.SendRequest{Dataset: ds, From: "@1", To: "2"})
	fails(t, err, zfs.ErrBaseMissing)
	s.transfer(t, ds, "#m", "2", s.Target+"/bm@2")
	ok(t, s.Host.Mount(ctx, s.Target+"/bm"))
	sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, s.Target+"/bm")))
	ok(t, s.Host.DestroyBookmark(ctx, ds+"#m"))
	fails(t, s.Host.DestroyBookmark(ctx, ds+"#m"), zfs.ErrNotExist)
}

func testRenameSnapshot(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, _ := s.create(t, "rs")
	s.snap(t, ds+"@1")
	s.snap(t, ds+"@2")
	guid := s.version(t, ds+"@1").GUID
	fails(t, s.Host.RenameSnapshot(ctx, ds, "1", "2"), zfs.ErrExists)
	fails(t, s.Host.RenameSnapshot(ctx, ds, "none", "3"), zfs.ErrNotExist)
	ok(t, s.Host.RenameSnapshot(ctx, ds, "1", "one"))
	if got := s.version(t, ds+"@one").GUID; got != guid {
		t.Errorf("GUID %v became %v", guid, got)
	}
}

func testRollback(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "rb")
	writeFile(t, dir+"/f", []byte("old"))
	ok(t, os.Mkdir(dir+"/d", 0o755))
	s.snap(t, ds+"@1")
	want := readTree(t, dir)
	writeFile(t, dir+"/f", []byte("new"))
	writeFile(t, dir+"/d/extra", []byte("x"))
	ok(t, os.Chmod(dir+"/d", 0o700))
	ok(t, s.Host.Rollback(ctx, ds+"@1"))
	sameTree(t, want, readTree(t, s.mountpoint(t, ds)))
	if n := s.written(t, ds); s.caps.Written && n != 0 {
		t.Errorf("written %d after rollback", n)
	}
	s.snap(t, ds+"@2")
	fails(t, s.Host.Rollback(ctx, ds+"@1"), zfs.ErrNotLatest)
	fails(t, s.Host.Rollback(ctx, ds+"@none"), zfs.ErrNotExist)
	s.version(t, ds+"@2")
}

func testReopen(t *testing.T, s *suite) {
	if s.Reopen == nil {
		t.Skip("the engine keeps nothing in its process")
	}
	ds, dir := s.create(t, "re")
	writeFile(t, dir+"/f", []byte("x"))
	s.snap(t, ds+"@1")
	ok(t, s.Host.Hold(t.Context(), "tag", ds+"@1"))
	before := s.version(t, ds+"@1")
	s.Host = s.Reopen(t)
	if after := s.version(t, ds+"@1"); after != before {
		t.Errorf("%+v became %+v", before, after)
	}
	if d := s.get(t, ds); !d.Mounted || s.caps.Written && d.Written != 0 {
		t.Errorf("after reopen: %+v", d)
	}
}

// looksUp checks that snapshots are found by name, and that one that is missing, with
// its dataset or without, hides none of the others.
func (s *suite) looksUp(t *testing.T, ds string, names []string) {
	t.Helper()
	listed, err := s.Host.Versions(t.Context(), ds)
	ok(t, err)
	want := map[string]zfs.Version{}
	for _, v := range listed {
		want[v.FullName()] = v
	}
	ask := []string{ds + "@none", ds + "none@" + names[0]}
	for _, name := range names {
		ask = append(ask, ds+"@"+name, ds+"@"+name+"none")
	}
	found, err := s.Host.Named(t.Context(), ask...)
	ok(t, err)
	if len(found) != len(ask) {
		t.Fatalf("%d answers for %d names", len(found), len(ask))
	}
	for i, full := range ask {
		if found[i] != want[full] {
			t.Errorf("%s is %+v, listed as %+v", full, found[i], want[full])
		}
	}
	_, err = s.Host.Named(t.Context(), ds)
	fails(t, err, zfs.ErrInvalid)
	none, err := s.Host.Named(t.Context())
	ok(t, err)
	if len(none) != 0 {
		t.Errorf("no names gave %+v", none)
	}
}
