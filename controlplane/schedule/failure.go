package schedule

import (
	"fmt"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

// Failure is the answer when no pool will do.
type Failure struct {
	// Refusals has one entry for every pool, in the order of their names: the
	// first filter that refused it.
	Refusals []*tarnv1.PoolRefusal
}

// Error sums the refusals up in one sentence.
func (f *Failure) Error() string {
	if len(f.Refusals) == 0 {
		return "no storage host has registered a pool: start an agent first"
	}
	if len(f.Refusals) == 1 {
		r := f.Refusals[0]
		return fmt.Sprintf("no pool can take it: %s: %s", r.GetPool(), r.GetReason())
	}
	var parts []string
	for _, name := range []string{
		FilterOnlyHost, FilterState, FilterZone, FilterDomain,
		FilterOnePerPool, FilterCapabilities, FilterCapacity, FilterSnapshot,
	} {
		if n := f.count(name); n > 0 {
			parts = append(parts, fmt.Sprintf("%d by %s", n, name))
		}
	}
	return fmt.Sprintf("no pool can take it: of %d pools refused %s", len(f.Refusals), strings.Join(parts, ", "))
}

func (f *Failure) count(filter string) int {
	n := 0
	for _, r := range f.Refusals {
		if r.GetFilter() == filter {
			n++
		}
	}
	return n
}

// LastFilter names the filter that the most promising pool failed at: what to
// change first.
func (f *Failure) LastFilter() string {
	last := ""
	for _, name := range []string{
		FilterOnlyHost, FilterState, FilterZone, FilterDomain,
		FilterOnePerPool, FilterCapabilities, FilterCapacity, FilterSnapshot,
	} {
		if f.count(name) > 0 {
			last = name
		}
	}
	return last
}

func (inv *Inventory) failure(s *search) *Failure {
	f := &Failure{}
	for _, e := range inv.all() {
		filter, reason := s.refuse(e)
		f.Refusals = append(f.Refusals, &tarnv1.PoolRefusal{Pool: e.fullName, Filter: filter, Reason: reason})
	}
	return f
}
