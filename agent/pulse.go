package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"tarn/agent/lease"
)

// Loops whose turning proves that the agent lives.
const (
	loopWatch    = lease.BeatWatch
	loopRenewals = lease.BeatRenewals
	loopFollow   = "assignments"
	loopReports  = "reports"
	loopStreams  = "streams" // open, or not yet
)

// pulseSlack is what a busy machine may add to a round.
const pulseSlack = 30 * time.Second

// pulses tell when each of the agent's loops last went round. What a loop waits for
// without a bound, which no restart would help (a pool that hangs), is no part of a round.
// Safe for concurrent use.
type pulses struct {
	// limits are how long a round may take when everything that it asks is as slow as it
	// may be; 0: for ever.
	limits map[string]time.Duration
	now    func() time.Time

	mu      sync.Mutex
	began   map[string]time.Time // of the rounds under way
	entered map[string]bool
	alone   string // the only loop there is; empty: all are
}

func newPulses(cfg Config) *pulses {
	l := cfg.Lease
	return &pulses{
		now: time.Now, began: map[string]time.Time{}, entered: map[string]bool{},
		limits: map[string]time.Duration{
			loopWatch:    l.Renew + pulseSlack,
			loopRenewals: 3*l.Renew + l.Margin + pulseSlack,
			loopFollow:   max(pollWait+pollGrace, callTimeout+longestWait) + pulseSlack,
			loopReports:  cfg.ReportInterval + callTimeout + pulseSlack,
		},
	}
}

// turn notes that a round of a loop begins.
func (p *pulses) turn(loop string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began[loop], p.entered[loop] = p.now(), true
}

// only says that no loop but this is to turn any more.
func (p *pulses) only(loop string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alone = loop
	clear(p.began)
}

// rest notes that a loop waits for what has no bound, until its next turn.
func (p *pulses) rest(loop string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.began, loop)
}

var errNotAlive = errors.New("no sign of life")

// check names the loops that take too long, or that have not begun. Reports begin when
// the control plane knows this host, which may be late.
func (p *pulses) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, loop := range []string{loopWatch, loopRenewals, loopFollow, loopStreams} {
		if !p.entered[loop] && p.alone == "" {
			errs = append(errs, fmt.Errorf("%w: %s: not begun", errNotAlive, loop))
		}
	}
	now := p.now()
	for _, loop := range slices.Sorted(maps.Keys(p.began)) {
		if limit, took := p.limits[loop], now.Sub(p.began[loop]); limit > 0 && took > limit {
			errs = append(errs, fmt.Errorf("%w: %s: a round takes %s", errNotAlive, loop, took.Round(time.Second)))
		}
	}
	return errors.Join(errs...)
}

// Alive returns nil if the loops that keep the lease, follow the assignments and report
// go round, and streams are served; it needs no control plane for that. It does not block.
// An error says which loop does not, and before Run has begun that none does.
func (a *Agent) Alive(context.Context) error { return a.pulses.check() }
