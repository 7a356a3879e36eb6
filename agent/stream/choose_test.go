package stream

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"tarn/zfs"
)

func snap(guid int, name string) zfs.Version {
	return zfs.Version{Kind: zfs.KindSnapshot, Dataset: "p/d", Name: name, GUID: zfs.GUID(guid), CreateTXG: uint64(guid)}
}

func TestChoose(t *testing.T) {
	source := []zfs.Version{snap(1, "tarn.a"), snap(2, "tarn.b"), snap(3, UserPrefix+"x"), snap(4, "tarn.c"), snap(5, UserPrefix+"y"), snap(6, "tarn.d"), snap(7, "tarn.e")}
	mark := zfs.Version{Kind: zfs.KindBookmark, Dataset: "p/d", Name: "m", GUID: 90, CreateTXG: 4}
	for _, c := range []struct {
		name     string
		versions []zfs.Version
		have     []zfs.GUID
		kind     string
		from, to zfs.GUID
		behind   int
		err      error
	}{
		{"empty receiver starts at the oldest user snapshot", source, nil, KindFull, 0, 3, 3, nil},
		{"intermediate snapshots are skipped", source, []zfs.GUID{1}, KindIncremental, 1, 3, 3, nil},
		{"next user snapshot", source, []zfs.GUID{3, 1}, KindIncremental, 3, 5, 2, nil},
		{"then the newest", source, []zfs.GUID{5}, KindIncremental, 5, 7, 1, nil},
		{"nothing left", source, []zfs.GUID{7, 5}, KindNone, 0, 7, 0, nil},
		{"bookmark as base", append(source[4:], mark), []zfs.GUID{90}, KindBookmark, 90, 5, 2, nil},
		{"receiver is ahead", source, []zfs.GUID{80, 4}, "", 0, 0, 0, zfs.ErrDiverged},
		{"nothing in common", source, []zfs.GUID{80}, "", 0, 0, 0, ErrNoCommon},
		{"source has nothing", nil, nil, "", 0, 0, 0, ErrNothing},
		{"source lost everything", nil, []zfs.GUID{1}, "", 0, 0, 0, ErrNoCommon},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := choose(c.versions, c.have)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if s := p.step; s.Kind != c.kind || s.From != c.from || s.To != c.to || s.Behind != c.behind {
				t.Errorf("step %+v", s)
			}
		})
	}
	var d *DivergedError
	if _, err := choose(source, []zfs.GUID{80, 4, 3}); !errors.As(err, &d) || d.Common != 4 {
		t.Errorf("divergence: %v", err)
	}
}

// TestChooseReachesTheHead: whatever the source has, a receiver that follows the
// steps gets every user snapshot in order and ends at the newest.
func TestChooseReachesTheHead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var source []zfs.Version
		for i := range rapid.IntRange(1, 20).Draw(t, "snapshots") {
			prefix := rapid.SampledFrom([]string{"tarn.", UserPrefix, "foreign-"}).Draw(t, "prefix")
			source = append(source, snap(i+1, fmt.Sprintf("%s%d", prefix, i)))
		}
		var have []zfs.GUID
		if n := rapid.IntRange(0, len(source)).Draw(t, "has"); n > 0 {
			have = []zfs.GUID{source[n-1].GUID}
		}
		start := zfs.GUID(0)
		if len(have) > 0 {
			start = have[0]
		}
		got := map[zfs.GUID]bool{}
		for range len(source) + 1 {
			p, err := choose(source, have)
			if err != nil {
				t.Fatal(err)
			}
			if p.step.UpToDate() {
				break
			}
			if len(have) > 0 && p.step.From != have[0] {
				t.Fatalf("step from %d, receiver is at %d", p.step.From, have[0])
			}
			have = append([]zfs.GUID{p.step.To}, have...)
			got[p.step.To] = true
		}
		if have[0] != source[len(source)-1].GUID {
			t.Fatalf("ends at %d of %d", have[0], len(source))
		}
		for _, v := range source {
			if user := len(v.Name) > len(UserPrefix) && v.Name[:len(UserPrefix)] == UserPrefix; user && v.GUID > start && !got[v.GUID] {
				t.Fatalf("user snapshot %s did not travel", v.Name)
			}
		}
	})
}

func TestChooseResumeDistrustsTokens(t *testing.T) {
	source := []zfs.Version{snap(1, "a"), snap(2, "b")}
	for _, c := range []struct {
		name string
		info zfs.TokenInfo
		ok   bool
	}{
		{"full", zfs.TokenInfo{ToGUID: 2, ToName: "b"}, true},
		{"incremental, name with dataset", zfs.TokenInfo{FromGUID: 1, ToGUID: 2, ToName: "p/d@b"}, true},
		{"of the same snapshot at an earlier source", zfs.TokenInfo{FromGUID: 1, ToGUID: 2, ToName: "q/d@b"}, false},
		{"target of another dataset", zfs.TokenInfo{ToGUID: 9, ToName: "b"}, false},
		{"name and GUID do not fit", zfs.TokenInfo{ToGUID: 2, ToName: "a"}, false},
		{"base is gone", zfs.TokenInfo{FromGUID: 9, ToGUID: 2, ToName: "b"}, false},
		{"empty", zfs.TokenInfo{}, false},
	} {
		p, err := chooseResume("p/d", source, c.info)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, zfs.ErrTokenInvalid) {
			t.Errorf("%s: %+v, %v", c.name, p.step, err)
		}
	}
}
