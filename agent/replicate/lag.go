package replicate

import (
	"time"

	"tarn/agent/stream"
	"tarn/zfs"
)

// lagClock measures how far behind a secondary is, on this host's monotonic clock
// alone: the age of the latest instant at which this copy was known equal to the
// source's live data.
type lagClock struct {
	asOf  time.Time // zero: never known
	known map[zfs.GUID]time.Time
	order []zfs.GUID
}

// knownHeads bounds how many heads are remembered until they have arrived.
const knownHeads = 128

// reset forgets everything: another source, another history.
func (c *lagClock) reset() { *c = lagClock{} }

// saw learns that the source's live data were equal to head at asOf.
func (c *lagClock) saw(head zfs.GUID, asOf time.Time) {
	if head == 0 || asOf.IsZero() {
		return
	}
	if c.known == nil {
		c.known = map[zfs.GUID]time.Time{}
	}
	old, ok := c.known[head]
	if !ok {
		c.order = append(c.order, head)
	}
	if asOf.After(old) {
		c.known[head] = asOf
	}
	for len(c.order) > knownHeads {
		delete(c.known, c.order[0])
		c.order = c.order[1:]
	}
}

// holds learns that this copy is at head.
func (c *lagClock) holds(head zfs.GUID) {
	if t := c.known[head]; t.After(c.asOf) {
		c.asOf = t
	}
}

// lag is the age now; ok is false while it is not known.
func (c *lagClock) lag(now time.Time) (d time.Duration, ok bool) {
	if c.asOf.IsZero() {
		return 0, false
	}
	return max(0, now.Sub(c.asOf)), true
}

// stepAsOf turns a step's age into an instant of this clock. The answer took a
// round trip at most since begun.
func stepAsOf(s stream.Step, begun time.Time) time.Time {
	if s.Age < 0 {
		return time.Time{}
	}
	return begun.Add(-time.Duration(s.Age))
}
