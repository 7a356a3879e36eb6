package zfs_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarn/zfs"
)

func TestValidateDataset(t *testing.T) {
	for name, valid := range map[string]bool{
		"tank": true, "tank/a": true, "tank/A.b_c:d-e/0": true, "t/" + strings.Repeat("x", 253): true,
		"": false, "/": false, "/tank": false, "tank/": false, "tank//a": false, "tank/..": false, "tank/.": false,
		"-tank": false, "tank/-a": false, "tank a": false, "tank@a": false, "tank#a": false, "tank%a": false,
		"tänk": false, "tank\n": false, "tank\x00": false, strings.Repeat("x", 256): false,
	} {
		err := zfs.ValidateDataset(name)
		if (err == nil) != valid || err != nil && !errors.Is(err, zfs.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestValidNamesAreHarmless: whatever passes is safe in a path and an argument.
func TestValidNamesAreHarmless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[-a-zA-Z0-9_.:/@# ]{0,20}`)).Draw(t, "name")
		if zfs.ValidateDataset(name) == nil {
			for _, c := range strings.Split(name, "/") {
				if c == "" || c == "." || c == ".." || c[0] == '-' || strings.ContainsAny(c, " @#%\x00\\'\"$`\n") {
					t.Fatalf("accepted %q", name)
				}
			}
		}
		ds, snap, err := zfs.ValidateSnapshot(name)
		if err == nil && (ds+"@"+snap != name || zfs.ValidateDataset(ds) != nil || strings.ContainsAny(snap, "/@#")) {
			t.Fatalf("accepted %q as %q and %q", name, ds, snap)
		}
	})
}

// history draws a source and a target that share some of the source's past.
func history(t *rapid.T) (source, target []zfs.Version) {
	n := rapid.IntRange(0, 8).Draw(t, "snapshots")
	for i := range n {
		v := zfs.Version{Kind: zfs.KindSnapshot, GUID: zfs.GUID(i + 1), CreateTXG: uint64(10 * (i + 1))}
		if rapid.Bool().Draw(t, "kept") {
			source = append(source, v)
		}
		if rapid.Bool().Draw(t, "marked") {
			b := v
			b.Kind = zfs.KindBookmark
			source = append(source, b)
		}
		if rapid.Bool().Draw(t, "received") { // another pool: another createtxg
			target = append(target, zfs.Version{Kind: zfs.KindSnapshot, GUID: v.GUID, CreateTXG: 7 + uint64(i)})
		}
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "own") {
		target = append(target, zfs.Version{Kind: zfs.KindSnapshot, GUID: zfs.GUID(100 + i), CreateTXG: uint64(rapid.IntRange(20, 30).Draw(t, "txg")*10 + i)})
	}
	return rapid.Permutation(source).Draw(t, "source"), rapid.Permutation(target).Draw(t, "target")
}

// TestIncrementalBase checks the answer against its definition.
func TestIncrementalBase(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, target := history(t)
		base, rel := zfs.IncrementalBase(source, target)
		newest, common := zfs.Version{}, zfs.Version{}
		for _, v := range target {
			if v.CreateTXG >= newest.CreateTXG {
				newest = v
			}
			if knows(source, v.GUID) && v.CreateTXG >= common.CreateTXG {
				common = v
			}
		}
		want := zfs.RelationUnrelated
		switch {
		case len(target) == 0:
			want = zfs.RelationEmpty
		case common.GUID == 0:
		case common.GUID != newest.GUID:
			want = zfs.RelationDiverged
		case newerSnapshot(source, common.GUID):
			want = zfs.RelationIncremental
		default:
			want = zfs.RelationUpToDate
		}
		if rel != want || base.GUID != common.GUID {
			t.Fatalf("base %v (%v), want %v (%v)", base.GUID, rel, common.GUID, want)
		}
		if base.GUID != 0 && base.Kind == zfs.KindBookmark && hasSnapshot(source, base.GUID) {
			t.Fatal("a bookmark was preferred to its snapshot")
		}
	})
}

func knows(list []zfs.Version, g zfs.GUID) bool {
	for _, v := range list {
		if v.GUID == g {
			return true
		}
	}
	return false
}

func hasSnapshot(list []zfs.Version, g zfs.GUID) bool {
	for _, v := range list {
		if v.GUID == g && v.Kind == zfs.KindSnapshot {
			return true
		}
	}
	return false
}

// newerSnapshot: GUIDs of the source count up with its createtxg.
func newerSnapshot(source []zfs.Version, than zfs.GUID) bool {
	for _, v := range source {
		if v.Kind == zfs.KindSnapshot && v.GUID > than {
			return true
		}
	}
	return false
}

func TestRelationNames(t *testing.T) {
	for r, want := range map[zfs.Relation]string{
		zfs.RelationEmpty: "empty", zfs.RelationUpToDate: "up to date", zfs.RelationDiverged: "diverged", 99: "unknown",
	} {
		if r.String() != want {
			t.Errorf("%d: %s", int(r), r)
		}
	}
}

func TestUserProperties(t *testing.T) {
	for name, valid := range map[string]bool{"tarn:a": true, "a.b:c-d_e": true, "a": false, "tarn:A": false, "tarn: a": false, strings.Repeat("x", 256) + ":": false} {
		if err := zfs.ValidateUserProperty(name, "v"); (err == nil) != valid {
			t.Errorf("%q: %v", name, err)
		}
	}
}
