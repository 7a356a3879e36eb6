package replicate

import (
	"strconv"
	"strings"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// policy says which snapshots stay for their age alone. The zero value keeps none.
type policy struct {
	rules []keepRule
	// claims are prefixes of foreign names that the policy is responsible for.
	claims []string
}

// keepRule keeps the first snapshot of every stretch of time.
type keepRule struct {
	upTo  time.Duration
	every time.Duration // 0: all
}

func policyOf(m *tarnv1.KeepPolicy) policy {
	p := policy{claims: m.GetClaims()}
	for _, r := range m.GetRules() {
		p.rules = append(p.rules, keepRule{upTo: r.GetUpTo().AsDuration(), every: r.GetEvery().AsDuration()})
	}
	return p
}

// horizon is the age from which on the policy keeps nothing; 0 without rules.
func (p policy) horizon() time.Duration {
	if len(p.rules) == 0 {
		return 0
	}
	return p.rules[len(p.rules)-1].upTo
}

// removable tells what retention may remove at all: replication snapshots, and
// foreign ones that the policy claims. Never what a user of the share asked for.
func (p policy) removable(name string) bool {
	if prunable(name) {
		return true
	}
	if strings.HasPrefix(name, "tarn") {
		return false
	}
	for _, c := range p.claims {
		if c != "" && strings.HasPrefix(name, c) {
			return true
		}
	}
	return false
}

// aged tells what stays for its age: everything removable but what a user has
// removed, and which is still here as a base only.
func (p policy) aged(name string) bool {
	return p.removable(name) && !strings.HasPrefix(name, retiredPrefix)
}

// ruleText is a rule as people write it.
func (p policy) ruleText(i int) string {
	if i < 0 || i >= len(p.rules) {
		return "age unknown"
	}
	r := p.rules[i]
	if r.every <= 0 {
		return spanText(r.upTo) + ":all"
	}
	return spanText(r.upTo) + ":" + spanText(r.every)
}

// text is the whole policy as people write it; "" for none.
func (p policy) text() string {
	var parts []string
	for i := range p.rules {
		parts = append(parts, p.ruleText(i))
	}
	for _, c := range p.claims {
		parts = append(parts, "claim:"+c)
	}
	return strings.Join(parts, ",")
}

// spanText writes whole days as such, and anything else without zero parts.
func spanText(d time.Duration) string {
	if d > 0 && d%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// unknownAge is the place of a rule for snapshots that do not say when they were taken.
const unknownAge = -1

// grid says which rule keeps which snapshot, by GUID. Snapshots are in the order of
// createtxg, of which the first of each stretch stays. A stretch is a piece of the
// calendar, not of the past as seen from now, and a later rule's distance is a
// multiple of an earlier one's: so what is kept does not depend on how often or
// when this ran before.
func (p policy) grid(snaps []zfs.Version, now time.Time) map[zfs.GUID]int {
	kept := map[zfs.GUID]int{}
	if len(p.rules) == 0 {
		return kept
	}
	type stretch struct {
		rule int
		at   int64
	}
	taken := map[stretch]bool{}
	for _, s := range snaps {
		if !p.aged(s.Name) {
			continue
		}
		if s.Creation.IsZero() {
			kept[s.GUID] = unknownAge
			continue
		}
		mine := p.ruleFor(now.Sub(s.Creation))
		for i, r := range p.rules {
			key := stretch{rule: i}
			if r.every > 0 {
				key.at = floor(s.Creation.UnixNano(), int64(r.every))
			}
			first := r.every <= 0 || !taken[key]
			taken[key] = true
			if i == mine && first {
				kept[s.GUID] = i
			}
		}
	}
	return kept
}

// ruleFor is the first rule whose ages hold age; -1 beyond all.
func (p policy) ruleFor(age time.Duration) int {
	for i, r := range p.rules {
		if age <= r.upTo {
			return i
		}
	}
	return -1
}

// floor divides towards the past, on both sides of 1970.
func floor(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// belief is how far two opinions about the time may be apart without doubt.
const belief = 24 * time.Hour

// doubtFor is how long a clock has to go on saying that a day and more has passed
// unnoticed before that is believed.
const doubtFor = time.Hour

// calendar is the time by which snapshots age. A clock that is wrong must not make
// them old: a leap of more than a day, of the clock or of a snapshot's own stamp, is
// not believed at once. Backwards is harmless: then more stays.
type calendar struct {
	known bool
	at    time.Time     // what was last believed
	when  time.Duration // when that was, on the monotonic clock
	// doubting since then: the clock is far ahead of all that is known.
	doubting bool
	since    time.Duration
}

// now is the time to count ages from. newest is when the newest snapshot was taken
// by its own word, zero if there is none; wall is the clock's, mono the time since any fixed moment.
func (c *calendar) now(newest, wall time.Time, mono time.Duration) time.Time {
	reference := newest
	if expected := c.at.Add(mono - c.when); c.known && expected.After(reference) {
		reference = expected
	}
	if newest.Sub(wall) > belief {
		// One of them is wrong. By the earlier one, less is old.
		return wall
	}
	if !reference.IsZero() && wall.Sub(reference) > belief {
		if !c.doubting {
			c.doubting, c.since = true, mono
		}
		if mono-c.since < doubtFor {
			return reference
		}
	}
	c.known, c.at, c.when, c.doubting = true, wall, mono, false
	if newest.After(wall) {
		return newest
	}
	return wall
}
