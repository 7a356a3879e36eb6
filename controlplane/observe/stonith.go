package observe

import (
	"maps"
	"time"
)

// StonithResult is how it went to switch off the former owner's host for a promotion.
type StonithResult struct {
	// Proof says by what, when the host is verified to be off; else Trouble says what
	// went wrong. Both empty: it is being tried.
	Proof, Trouble string
	// At is when that was known.
	At time.Time
}

// SetStonith records how switching off went for promotions. The leader's memory only:
// a new leader switches off again, which is no harm.
func (s *State) SetStonith(result StonithResult, opIDs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range opIDs {
		s.stonith[id] = result
	}
	s.wake()
}

// ForgetStonith drops what failed before until, so that it is tried again.
func (s *State) ForgetStonith(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.stonith, func(_ string, r StonithResult) bool { return r.Trouble != "" && r.At.Before(until) })
}
