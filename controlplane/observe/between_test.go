package observe

import (
	"testing"
	"time"
)

// Between two leaderships nobody knows what others granted: nothing is expired, and no
// host passes to another machine.
func TestNothingIsConcludedBetweenLeaderships(t *testing.T) {
	l := NewLeases()
	l.Lead(at(0))
	l.Grant("a", at(time.Second))
	if !l.Expired("a", 15*time.Second, at(time.Hour)) {
		t.Error("a lease of an hour ago lasts")
	}
	l.Lead(time.Time{})
	if l.Expired("a", 15*time.Second, at(time.Hour)) || l.snapshot() != nil {
		t.Error("expired by what an earlier leadership granted")
	}
	if _, ok := l.Pass("a", "s2", 15*time.Second, at(time.Hour)); ok {
		t.Error("the host passes to another machine")
	}
	l.Grant("a", at(time.Hour)) // by the next one, which has just begun
	if _, ok := l.Pass("a", "s2", 15*time.Second, at(time.Hour+time.Second)); ok {
		t.Error("the host passes to another machine a second after a grant")
	}
}
