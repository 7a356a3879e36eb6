package zfstest

import (
	"testing"

	"tarn/zfs"
)

func cloneTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"clone":      testClone,
		"promote":    testPromote,
		"divergence": testDivergence,
	}
}

func testClone(t *testing.T, s *suite) {
	s.need(t, s.caps.Clones, "clones")
	ctx := t.Context()
	ds, dir := s.create(t, "src")
	writeFile(t, dir+"/f", []byte("one"))
	s.snap(t, ds+"@1")
	clone := s.Source + "/clone"
	fails(t, s.Host.Clone(ctx, ds+"@none", clone, nil), zfs.ErrNotExist)
	ok(t, s.Host.Clone(ctx, ds+"@1", clone, map[string]string{zfs.PropCanMount: "on"}))
	fails(t, s.Host.Clone(ctx, ds+"@1", clone, nil), zfs.ErrExists)
	mp := s.mountpoint(t, clone)
	sameTree(t, readTree(t, dir), readTree(t, mp))
	if d := s.get(t, clone); d.Origin != ds+"@1" || s.caps.Written && d.Written != 0 {
		t.Errorf("clone %+v", d)
	}
	writeFile(t, mp+"/f", []byte("two"))
	if got := readFile(t, dir+"/f"); string(got) != "one" {
		t.Errorf("the clone wrote into its origin: %q", got)
	}
	fails(t, s.Host.DestroySnapshots(ctx, ds, "1"), zfs.ErrHasClones)
	ok(t, s.Host.Unmount(ctx, clone, false))
	ok(t, s.Host.Destroy(ctx, clone))
	ok(t, s.Host.DestroySnapshots(ctx, ds, "1"))
}

func testPromote(t *testing.T, s *suite) {
	s.need(t, s.caps.Clones, "clones")
	ctx := t.Context()
	ds, dir := s.create(t, "o")
	for _, n := range []string{"1", "2", "3"} {
		writeFile(t, dir+"/f", []byte(n))
		s.snap(t, ds+"@"+n)
	}
	fails(t, s.Host.Promote(ctx, ds), zfs.ErrInvalid)
	clone := s.Source + "/c"
	ok(t, s.Host.Clone(ctx, ds+"@2", clone, nil))
	s.snap(t, clone+"@1")
	fails(t, s.Host.Promote(ctx, clone), zfs.ErrExists)
	ok(t, s.Host.DestroySnapshots(ctx, clone, "1"))
	ok(t, s.Host.Hold(ctx, "tag", ds+"@2"))
	guid := s.version(t, ds+"@2").GUID
	ok(t, s.Host.Promote(ctx, clone))
	if v := s.version(t, clone+"@2"); v.GUID != guid || v.UserRefs != 1 {
		t.Errorf("promoted %+v, GUID was %v", v, guid)
	}
	s.version(t, clone+"@1")
	s.version(t, ds+"@3")
	if _, there := s.lookUp(t, ds+"@1"); there {
		t.Error("earlier snapshots move with the origin")
	}
	if d := s.get(t, ds); d.Origin != clone+"@2" {
		t.Errorf("the former owner is a clone now: %+v", d)
	}
	ok(t, s.Host.Release(ctx, "tag", clone+"@2"))
}

// testDivergence is rename-clone-promote: what diverged stays readable, and the
// dataset goes on from the common snapshot by increment.
func testDivergence(t *testing.T, s *suite) {
	s.need(t, s.caps.Clones, "clones")
	ctx := t.Context()
	ds, dir := s.create(t, "live")
	writeFile(t, dir+"/f", []byte("common"))
	s.snap(t, ds+"@1")
	replica := s.Target + "/rep"
	s.transfer(t, ds, "", "1", replica+"@1")
	ok(t, s.Host.Mount(ctx, replica))
	writeFile(t, s.mountpoint(t, replica)+"/f", []byte("diverged"))
	s.snap(t, replica+"@mine")
	writeFile(t, dir+"/f", []byte("lineage"))
	s.snap(t, ds+"@2")
	increment := zfs.SendRequest{Dataset: ds, From: "@1", To: "2"}
	fails(t, s.tryTransfer(ctx, increment, zfs.ReceiveRequest{Target: replica + "@2"}), zfs.ErrDiverged)
	ok(t, s.Host.Unmount(ctx, replica, false))
	aside := s.Target + "/aside"
	ok(t, s.Host.Rename(ctx, replica, aside))
	ok(t, s.Host.Clone(ctx, aside+"@1", replica, nil))
	ok(t, s.Host.Promote(ctx, replica))
	s.transfer(t, ds, "@1", "2", replica+"@2")
	ok(t, s.Host.Mount(ctx, replica))
	ok(t, s.Host.Mount(ctx, aside))
	if got := readFile(t, s.mountpoint(t, replica)+"/f"); string(got) != "lineage" {
		t.Errorf("replica: %q", got)
	}
	if got := readFile(t, s.mountpoint(t, aside)+"/f"); string(got) != "diverged" {
		t.Errorf("divergent copy: %q", got)
	}
	s.version(t, aside+"@mine")
}
