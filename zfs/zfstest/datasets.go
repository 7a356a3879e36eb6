package zfstest

import (
	"strings"
	"testing"

	"tarn/zfs"
)

func datasetTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"create":     testCreate,
		"names":      testNames,
		"properties": testProperties,
		"quota":      testQuota,
		"refquota":   testRefQuota,
		"rename":     testRename,
		"destroy":    testDestroy,
		"pools":      testPools,
	}
}

func testCreate(t *testing.T, s *suite) {
	ctx := t.Context()
	name := s.Source + "/p/q/r"
	fails(t, s.Host.Create(ctx, name, nil, false), zfs.ErrNotExist)
	ok(t, s.Host.Create(ctx, name, map[string]string{"tarn:share": "one"}, true))
	fails(t, s.Host.Create(ctx, name, nil, true), zfs.ErrExists)
	d := s.get(t, name)
	if d.Mounted || d.GUID == 0 || d.User["tarn:share"] != (zfs.Property{Value: "one", Source: zfs.SourceLocal}) {
		t.Errorf("new dataset: %+v", d)
	}
	parents, err := s.Host.Get(ctx, s.Source+"/p", zfs.PropCanMount)
	ok(t, err)
	if parents[zfs.PropCanMount].Value != "off" {
		t.Errorf("missing parents are made with canmount=off, got %v", parents)
	}
	list, err := s.Host.Datasets(ctx, s.Source+"/p")
	ok(t, err)
	var names []string
	for _, d := range list {
		names = append(names, strings.TrimPrefix(d.Name, s.Source))
	}
	if got := strings.Join(names, " "); got != "/p /p/q /p/q/r" {
		t.Errorf("datasets below p: %s", got)
	}
	_, err = s.Host.Dataset(ctx, s.Source+"/none")
	fails(t, err, zfs.ErrNotExist)
	_, err = s.Host.Datasets(ctx, s.Source+"/none")
	fails(t, err, zfs.ErrNotExist)
}

func testNames(t *testing.T, s *suite) {
	for _, bad := range []string{"", "/a", "a//b", "a/", "..", "a/../b", "-x", "a b", "a@b", "a#b", "ä", "a\x00", strings.Repeat("x", 256)} {
		if bad == "" {
			fails(t, s.Host.Create(t.Context(), "", nil, true), zfs.ErrInvalid)
			continue
		}
		fails(t, s.Host.Create(t.Context(), s.Source+"/"+bad, nil, true), zfs.ErrInvalid)
	}
	full, _ := s.create(t, "n")
	for _, bad := range []string{full, full + "@", full + "@a/b", full + "@a@b", full + "@-a", full + "@" + strings.Repeat("x", 256)} {
		fails(t, s.Host.Snapshot(t.Context(), bad), zfs.ErrInvalid)
	}
	fails(t, s.Host.Create(t.Context(), "no-such-pool-here/x", nil, false), zfs.ErrNotExist)
}

func testProperties(t *testing.T, s *suite) {
	ctx := t.Context()
	parent, child := s.Source+"/pa", s.Source+"/pa/ch"
	ok(t, s.Host.Create(ctx, child, nil, true))
	ok(t, s.Host.Set(ctx, parent, map[string]string{"tarn:a": "1", "tarn:b": "with space\tand tab", zfs.PropReadOnly: "on"}))
	want := func(ds, prop, value string, src zfs.Source) {
		t.Helper()
		got, err := s.Host.Get(ctx, ds, prop)
		ok(t, err)
		if got[prop] != (zfs.Property{Value: value, Source: src}) {
			t.Errorf("%s of %s: got %v, want %s (%s)", prop, ds, got[prop], value, src)
		}
	}
	want(parent, "tarn:a", "1", zfs.SourceLocal)
	want(child, "tarn:a", "1", zfs.SourceInherited)
	want(child, zfs.PropReadOnly, "on", zfs.SourceInherited)
	ok(t, s.Host.Set(ctx, child, map[string]string{"tarn:a": "2"}))
	want(child, "tarn:a", "2", zfs.SourceLocal)
	ok(t, s.Host.Inherit(ctx, child, "tarn:a"))
	want(child, "tarn:a", "1", zfs.SourceInherited)
	ok(t, s.Host.Inherit(ctx, parent, "tarn:a"))
	want(child, "tarn:a", "-", zfs.SourceNone)
	if !s.get(t, child).ReadOnly {
		t.Error("readonly is inherited")
	}
	fails(t, s.Host.Set(ctx, child, map[string]string{"nocolon": "x"}), zfs.ErrInvalid)
	fails(t, s.Host.Set(ctx, child, map[string]string{"tarn:UP": "x"}), zfs.ErrInvalid)
	fails(t, s.Host.Set(ctx, child, map[string]string{"tarn:big": strings.Repeat("x", 8<<10+1)}), zfs.ErrInvalid)
	fails(t, s.Host.Set(ctx, child, map[string]string{zfs.PropReadOnly: "maybe"}), zfs.ErrInvalid)
	fails(t, s.Host.Set(ctx, s.Source+"/none", map[string]string{"tarn:a": "x"}), zfs.ErrNotExist)
}

func testQuota(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "quota")
	ok(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropQuota: "10485760"}))
	if d := s.get(t, ds); d.Quota != 10<<20 || d.Available > 10<<20 {
		t.Errorf("quota %d, available %d", d.Quota, d.Available)
	}
	writeFile(t, dir+"/big", random(2<<20))
	s.snap(t, ds+"@1")
	fails(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropQuota: "1048576"}), zfs.ErrNoSpace, zfs.ErrQuota)
	fails(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropQuota: "-5"}), zfs.ErrInvalid)
	ok(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropQuota: "none"}))
	if q := s.get(t, ds).Quota; q != 0 {
		t.Errorf("quota %d after none", q)
	}
	fails(t, s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, To: "1"},
		zfs.ReceiveRequest{Target: s.Target + "/small@1", Properties: map[string]string{zfs.PropQuota: "1048576"}}), zfs.ErrQuota, zfs.ErrNoSpace)
	if _, err := s.Host.Dataset(ctx, s.Target+"/small"); err == nil {
		if _, there := s.lookUp(t, s.Target+"/small@1"); there && s.caps.ReceiveProperties {
			t.Error("a receive over quota left a snapshot")
		}
	}
}

func testRename(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "old")
	writeFile(t, dir+"/f", []byte("x"))
	s.snap(t, ds+"@1")
	before := s.version(t, ds+"@1")
	ok(t, s.Host.Create(ctx, s.Source+"/other", nil, false))
	fails(t, s.Host.Rename(ctx, ds, s.Source+"/other"), zfs.ErrExists)
	fails(t, s.Host.Rename(ctx, ds, s.Source+"/nobody/new"), zfs.ErrNotExist)
	ok(t, s.Host.Rename(ctx, ds, s.Source+"/other/new"))
	moved := s.Source + "/other/new"
	if v := s.version(t, moved+"@1"); v.GUID != before.GUID || v.CreateTXG != before.CreateTXG {
		t.Errorf("rename changed the snapshot: %+v, before %+v", v, before)
	}
	if got := readFile(t, s.mountpoint(t, moved)+"/f"); string(got) != "x" {
		t.Errorf("content after rename: %q", got)
	}
	ok(t, s.Host.Unmount(ctx, moved, false))
	ok(t, s.Host.Rename(ctx, s.Source+"/other", s.Source+"/tree"))
	s.version(t, s.Source+"/tree/new@1")
	_, err := s.Host.Dataset(ctx, ds)
	fails(t, err, zfs.ErrNotExist)
}

func testDestroy(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, _ := s.create(t, "d")
	ok(t, s.Host.Unmount(ctx, ds, false))
	ok(t, s.Host.Create(ctx, ds+"/child", nil, false))
	fails(t, s.Host.Destroy(ctx, ds), zfs.ErrHasSnapshots)
	ok(t, s.Host.Destroy(ctx, ds+"/child"))
	s.snap(t, ds+"@1")
	fails(t, s.Host.Destroy(ctx, ds), zfs.ErrHasSnapshots)
	ok(t, s.Host.DestroySnapshots(ctx, ds, "1"))
	ok(t, s.Host.Destroy(ctx, ds))
	fails(t, s.Host.Destroy(ctx, ds), zfs.ErrNotExist)
}

func testPools(t *testing.T, s *suite) {
	list, err := s.Host.Pools(t.Context())
	ok(t, err)
	for _, p := range list {
		if strings.HasPrefix(s.Source+"/", p.Name+"/") {
			if p.GUID == 0 || p.Size <= 0 || p.Free <= 0 || p.Free > p.Size || p.Health != "ONLINE" {
				t.Errorf("pool %+v", p)
			}
			return
		}
	}
	t.Errorf("no pool for %s in %+v", s.Source, list)
}

// testRefQuota: what only snapshots keep does not count.
func testRefQuota(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "refquota")
	ok(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropRefQuota: "10485760"}))
	if d := s.get(t, ds); d.RefQuota != 10<<20 || d.Quota != 0 || d.Available > 10<<20 {
		t.Errorf("refquota %d, quota %d, available %d", d.RefQuota, d.Quota, d.Available)
	}
	for _, name := range []string{"1", "2", "3"} {
		writeFile(t, dir+"/f", random(6<<20))
		s.snap(t, ds+"@"+name)
	}
	if d := s.get(t, ds); d.Used < 16<<20 || d.Referenced > 8<<20 {
		t.Errorf("three times 6 MiB in snapshots: used %d, referenced %d", d.Used, d.Referenced)
	}
	fails(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropRefQuota: "1048576"}), zfs.ErrNoSpace, zfs.ErrQuota)
	ok(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropQuota: "none", zfs.PropRefQuota: "none"}))
	if q := s.get(t, ds).RefQuota; q != 0 {
		t.Errorf("refquota %d after none", q)
	}
	ok(t, s.Host.Set(ctx, ds, map[string]string{zfs.PropQuota: "0", zfs.PropRefQuota: "0"})) // as a listing shows them
	if d := s.get(t, ds); d.RefQuota != 0 || d.Quota != 0 {
		t.Errorf("refquota %d, quota %d after 0", d.RefQuota, d.Quota)
	}
}
