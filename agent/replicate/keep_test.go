package replicate

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/zfs"
)

var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// taken are replication snapshots of the given times, in this order.
func taken(times ...time.Time) []zfs.Version {
	var list []zfs.Version
	for i, at := range times {
		v := version(i+1, fmt.Sprintf("tarn.s.1.%d", i+1), 0)
		v.Creation = at
		list = append(list, v)
	}
	return list
}

// TestGridOfTheManual is the worked example of docs/share-types.md.
func TestGridOfTheManual(t *testing.T) {
	at := func(clock string) time.Time {
		d, err := time.Parse("2006-01-02 15:04", clock)
		check(t, err)
		return d
	}
	p := policy{rules: []keepRule{{upTo: time.Hour}, {upTo: 24 * time.Hour, every: time.Hour}, {upTo: 30 * 24 * time.Hour, every: 24 * time.Hour}}}
	snaps := taken(
		at("2026-01-29 00:10"), // 1: 31 days old: goes
		at("2026-02-20 09:30"), // 2: first of its day: 30d:1d
		at("2026-02-20 17:00"), // 3: second of its day: goes
		at("2026-02-28 00:05"), // 4: first of its day: 30d:1d
		at("2026-02-28 11:30"), // 5: more than 24 h old, not the first of its day: goes
		at("2026-02-28 13:10"), // 6: first of its hour: 24h:1h
		at("2026-02-28 13:40"), // 7: goes
		at("2026-03-01 10:59"), // 8: first of its hour: 24h:1h
		at("2026-03-01 11:20"), // 9: younger than an hour: 1h:all
		at("2026-03-01 11:21"), // 10: the same
	)
	got := p.grid(snaps, at("2026-03-01 12:00"))
	want := map[zfs.GUID]int{2: 2, 4: 2, 6: 1, 8: 1, 9: 0, 10: 0}
	if !maps.Equal(got, want) {
		t.Errorf("keeps %v, want %v", got, want)
	}
	for i, text := range []string{"1h:all", "1d:1h", "30d:1d"} {
		if p.ruleText(i) != text {
			t.Errorf("rule %d is %q, want %q", i, p.ruleText(i), text)
		}
	}
}

// anyPolicy draws rules as tarn:keep allows them.
func anyPolicy(t *rapid.T) policy {
	var p policy
	upTo, every := time.Duration(0), time.Duration(0)
	for range rapid.IntRange(0, 4).Draw(t, "rules") {
		upTo += time.Duration(rapid.IntRange(1, 40).Draw(t, "age")) * time.Hour
		factor := time.Duration(rapid.IntRange(1, 6).Draw(t, "factor"))
		if every == 0 && rapid.Bool().Draw(t, "begin") {
			every = 20 * time.Minute
		}
		every *= factor
		p.rules = append(p.rules, keepRule{upTo: upTo, every: every})
	}
	return p
}

// anySnapshots draws snapshots of a hundred hours; a clock that jumped may have
// stamped some of them out of order.
func anySnapshots(t *rapid.T) []zfs.Version {
	var times []time.Time
	at := day
	for range rapid.IntRange(0, 60).Draw(t, "snapshots") {
		at = at.Add(time.Duration(rapid.IntRange(-10, 200).Draw(t, "minutes")) * time.Minute)
		times = append(times, at)
	}
	return taken(times...)
}

// TestGridKeepsOnePerStretch: of every stretch that lies within a rule's ages the
// first snapshot stays and no other; nothing stays beyond the last rule.
func TestGridKeepsOnePerStretch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, snaps := anyPolicy(t), anySnapshots(t)
		now := day.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "now")) * time.Hour)
		kept := p.grid(snaps, now)
		for i, s := range snaps {
			rule, stays := kept[s.GUID]
			age := now.Sub(s.Creation)
			want := slices.IndexFunc(p.rules, func(r keepRule) bool { return age <= r.upTo })
			if want < 0 {
				if stays {
					t.Fatalf("%v of age %v is kept beyond all rules", s, age)
				}
				continue
			}
			every := p.rules[want].every
			first := every == 0 || !slices.ContainsFunc(snaps[:i], func(o zfs.Version) bool {
				return o.Creation.Unix()/int64(every/time.Second) == s.Creation.Unix()/int64(every/time.Second)
			})
			if stays != first || stays && rule != want {
				t.Fatalf("%v of age %v: kept %v by rule %d, want %v by %d", s, age, stays, rule, first, want)
			}
		}
	})
}

// TestGridForgetsItsRuns: what stays at the end does not depend on when and how
// often retention ran before, as long as time and the stamps go forward.
func TestGridForgetsItsRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, snaps := anyPolicy(t), anySnapshots(t)
		slices.SortFunc(snaps, func(a, b zfs.Version) int { return a.Creation.Compare(b.Creation) })
		thin := func(list []zfs.Version, now time.Time) []zfs.Version {
			kept := p.grid(list, now)
			var left []zfs.Version
			for _, s := range list {
				if _, ok := kept[s.GUID]; ok || s.Creation.After(now) {
					left = append(left, s)
				}
			}
			return left
		}
		now, end, left := day, day.Add(200*time.Hour), snaps
		for now.Before(end) {
			// Only what exists by then is looked at: the rest is still to be taken.
			left = thin(left, now)
			now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "pause")) * time.Minute)
		}
		if a, b := thin(left, end), thin(snaps, end); !slices.Equal(a, b) {
			t.Fatalf("after many runs %v, after one %v", a, b)
		}
	})
}

// TestPolicyOnlyAdds: a policy never removes what would stay without it, but for
// the foreign snapshots that it claims.
func TestPolicyOnlyAdds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := anyKeeping(t)
		without := k.prune()
		k.policy = anyPolicy(t)
		k.now = day.Add(time.Duration(rapid.IntRange(-10, 300).Draw(t, "now")) * time.Hour)
		for i := range k.versions {
			k.versions[i].Creation = day.Add(time.Duration(k.versions[i].CreateTXG) * time.Hour)
		}
		with := k.prune()
		for _, v := range with.destroy {
			if !slices.Contains(names(without.destroy), v.Name) {
				t.Fatalf("the policy removes %s, which stays without it", v.Name)
			}
		}
		for _, j := range with.judged {
			gone := slices.Contains(names(with.destroy), j.of.Name)
			if gone != (len(j.reasons) == 0) {
				t.Fatalf("%s goes: %v, reasons %v", j.of.Name, gone, j.reasons)
			}
		}
	})
}

func names(list []zfs.Version) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.Name)
	}
	return out
}

// TestPruneTwiceIsPruneOnce: after a run there is nothing to do for the next.
func TestPruneTwiceIsPruneOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := anyKeeping(t)
		k.policy, k.now = anyPolicy(t), day.Add(50*time.Hour)
		for i := range k.versions {
			k.versions[i].Creation = day.Add(time.Duration(k.versions[i].CreateTXG) * time.Hour)
		}
		if again := k.after(k.prune()).prune(); !again.idle() {
			t.Fatalf("a second run would %+v", again)
		}
	})
}

// after is what a verdict leaves.
func (k keeping) after(v verdict) keeping {
	tags := map[string][]string{}
	for name, list := range k.tags {
		tags[name] = slices.DeleteFunc(slices.Clone(list), func(tag string) bool {
			return slices.Contains(v.release, release{tag, name})
		})
	}
	var left []zfs.Version
	for _, x := range k.versions {
		gone := slices.ContainsFunc(append(slices.Clone(v.destroy), v.cursors...), func(d zfs.Version) bool { return d.FullName() == x.FullName() })
		if gone {
			continue
		}
		x.UserRefs -= len(k.tags[x.Name]) - len(tags[x.Name])
		left = append(left, x)
	}
	for _, c := range v.convert {
		for _, replica := range c.replicas {
			left = append(left, zfs.Version{Kind: zfs.KindBookmark, Dataset: "p/d", Name: cursorName(c.of.GUID, replica), GUID: c.of.GUID, CreateTXG: c.of.CreateTXG})
		}
	}
	slices.SortStableFunc(left, func(a, b zfs.Version) int {
		if a.CreateTXG != b.CreateTXG {
			return int(a.CreateTXG) - int(b.CreateTXG)
		}
		return int(a.Kind) - int(b.Kind)
	})
	k.versions, k.tags = left, tags
	return k
}

func TestPolicyClaims(t *testing.T) {
	k := keeping{self: "me", recent: 1, policy: policy{claims: []string{"autosnap_"}, rules: []keepRule{{upTo: time.Hour}}}, now: day.Add(24 * time.Hour)}
	for i, name := range []string{"autosnap_1", "zrepl_1", "tarn-user-x", "tarn.s.1.1", "adopted", "autosnap_2", "tarn.x.a", "autosnap_3"} {
		v := version(i+1, name, 0)
		v.Creation = day.Add(time.Duration(i) * time.Minute)
		k.versions = append(k.versions, v)
	}
	k.users = map[zfs.GUID]bool{5: true, 6: true} // a user's, whatever its name
	if got := names(k.prune().destroy); !slices.Equal(got, []string{"autosnap_1", "tarn.s.1.1", "tarn.x.a"}) {
		t.Errorf("destroys %v", got)
	}
	if p := k.preview(); p.GetKeep() != "1h:all,claim:autosnap_" || p.GetTotal() != 8 || p.GetGoing() != 3 {
		t.Errorf("preview %v", p)
	}
}

// TestRetiredSnapshotsDoNotAge: what a user removed goes as soon as nothing stands on it.
func TestRetiredSnapshotsDoNotAge(t *testing.T) {
	k := keeping{self: "me", recent: 1, policy: policy{rules: []keepRule{{upTo: 1000 * time.Hour}}}, now: day}
	k.versions = []zfs.Version{version(1, "tarn.x.a", 0), version(2, "tarn.s.1.1", 0), version(3, "tarn.s.1.2", 0)}
	for i := range k.versions {
		k.versions[i].Creation = day
	}
	if got := names(k.prune().destroy); !slices.Equal(got, []string{"tarn.x.a"}) {
		t.Errorf("destroys %v", got)
	}
}

// TestForeignBurstLeavesBases: however many snapshots others take, as many of tarn's own
// stay for replicas to go on from, but for one: the newest of all is a base, too.
func TestForeignBurstLeavesBases(t *testing.T) {
	k := keeping{self: "me", recent: 3}
	for i := range 5 {
		k.versions = append(k.versions, version(i+1, fmt.Sprint("tarn.s.1.", i), 0))
	}
	for i := range 40 {
		k.versions = append(k.versions, version(i+10, fmt.Sprint("hourly-", i), 0))
	}
	if got := names(k.prune().destroy); !slices.Equal(got, []string{"tarn.s.1.0", "tarn.s.1.1", "tarn.s.1.2"}) {
		t.Errorf("destroys %v", got)
	}
}

func TestClonesAndRefusalsAreReasons(t *testing.T) {
	k := keeping{
		self: "me", recent: 1, versions: []zfs.Version{version(1, "tarn.a", 0), version(2, "tarn.b", 0), version(3, "tarn.c", 1), version(4, "tarn.d", 0)},
		clones: map[string][]string{"tarn.a": {"p/.divergent/x"}}, stuck: map[zfs.GUID]string{2: "busy"},
		tags: map[string][]string{"tarn.c": {"operator"}},
	}
	v := k.prune()
	var got []string
	for _, j := range v.judged {
		got = append(got, fmt.Sprint(j.of.Name, " ", j.reasons[0].kind, " ", j.reasons[0].detail, " ", j.overdue))
	}
	want := []string{
		"tarn.a RETENTION_REASON_CLONED p/.divergent/x true", "tarn.b RETENTION_REASON_STUCK busy true",
		"tarn.c RETENTION_REASON_HELD operator true", "tarn.d RETENTION_REASON_NEWEST  false",
	}
	if !v.idle() || !slices.Equal(got, want) {
		t.Errorf("judged %q", got)
	}
	if r := retained(k, v, day); r.Overdue != 3 {
		t.Errorf("overdue %+v", r)
	}
}

// TestCalendarDoubtsLeaps: neither a clock nor a snapshot's stamp makes snapshots
// old by a leap; what goes on being so for an hour is believed.
func TestCalendarDoubtsLeaps(t *testing.T) {
	var cal calendar
	for _, c := range []struct {
		name         string
		newest, wall time.Duration // from day
		mono, want   time.Duration
	}{
		{"start", 0, time.Minute, 0, time.Minute},
		{"time goes on", 0, 2 * time.Hour, 2 * time.Hour, 2 * time.Hour},
		{"a leap of a year", 0, 9000 * time.Hour, 3 * time.Hour, 3 * time.Hour},
		{"that stays", 0, 9000 * time.Hour, 230 * time.Minute, 230 * time.Minute},
		{"and is mended", 0, 4 * time.Hour, 4 * time.Hour, 4 * time.Hour},
		{"another leap", 0, 500 * time.Hour, 5 * time.Hour, 5 * time.Hour},
		{"believed after an hour", 0, 501 * time.Hour, 6 * time.Hour, 501 * time.Hour},
		{"backwards at once", 0, 7 * time.Hour, 7 * time.Hour, 7 * time.Hour},
		{"a snapshot of the future", 9000 * time.Hour, 8 * time.Hour, 8 * time.Hour, 8 * time.Hour},
		{"one a little ahead", 10 * time.Hour, 9 * time.Hour, 9 * time.Hour, 10 * time.Hour},
	} {
		if got := cal.now(day.Add(c.newest), day.Add(c.wall), c.mono); !got.Equal(day.Add(c.want)) {
			t.Errorf("%s: %v, want %v", c.name, got.Sub(day), c.want)
		}
	}
}

// TestCalendarOfAnIdleShare: an agent that starts finds snapshots of long ago. They
// age after an hour, and not before.
func TestCalendarOfAnIdleShare(t *testing.T) {
	var cal calendar
	old := day.Add(-90 * 24 * time.Hour)
	if got := cal.now(old, day, 0); !got.Equal(old) {
		t.Errorf("at the start %v", got)
	}
	if got := cal.now(old, day.Add(time.Hour), time.Hour); !got.Equal(day.Add(time.Hour)) {
		t.Errorf("after an hour %v", got)
	}
	if got := new(calendar).now(time.Time{}, day, 0); !got.Equal(day) {
		t.Errorf("without a snapshot %v", got)
	}
}
