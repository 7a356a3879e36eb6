package observe

import (
	"maps"
	"sync"
	"time"
)

// Leases remembers when a lease could last have been granted to each host. Grants
// are never in the log, so a new leader assumes that every host was granted one
// the moment before (reliability 3.3). Safe for concurrent use.
type Leases struct {
	mu    sync.Mutex
	since time.Time
	last  map[string]time.Time
	// passing are the hosts whose identity another machine is about to take over.
	passing map[string]*pass
}

// NewLeases returns a table that has granted nothing; call Lead when leadership begins.
func NewLeases() *Leases {
	return &Leases{last: make(map[string]time.Time), passing: make(map[string]*pass)}
}

// Lead forgets all grants: this node became leader at now.
func (l *Leases) Lead(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = now
	l.last = make(map[string]time.Time)
	l.passing = make(map[string]*pass)
}

// Grant records that a lease may be granted to the host at now. Call it BEFORE
// reading the view that decides what is granted: whoever sees this owner in
// phase FENCING and then looks into the table finds either the grant, or a
// handler that will read a view with FENCING in it and grant nothing. The same holds for
// a session: whoever is to be granted something has to be current in that view.
//
// It returns false, and nothing may be granted, while the host passes to another machine.
func (l *Leases) Grant(hostID string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.passing[hostID] != nil {
		return false
	}
	if now.After(l.last[hostID]) {
		l.last[hostID] = now
	}
	return true
}

// LastPossibleGrant returns the latest moment at which a lease may have been
// granted to the host, by this leader or one before.
func (l *Leases) LastPossibleGrant(hostID string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return later(l.last[hostID], l.since)
}

// Expired reports that wait (D_c) has passed at now since the last possible grant.
// Before Lead was called nothing is expired.
func (l *Leases) Expired(hostID string, wait time.Duration, now time.Time) bool {
	last := l.LastPossibleGrant(hostID)
	return !last.IsZero() && now.Sub(last) >= wait
}

func (l *Leases) snapshot() func(hostID string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return nil
	}
	last, since := maps.Clone(l.last), l.since
	return func(hostID string) time.Time { return later(last[hostID], since) }
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
