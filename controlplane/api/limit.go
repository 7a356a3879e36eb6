package api

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"

	"tarn/controlplane/client"
)

// RateLimit bounds the requests of each person or program that uses the API, so that
// one of them cannot take the service from the others. Agents and control nodes are
// exempt: a lease must never wait for somebody's listing.
type RateLimit struct {
	// PerSecond requests of one identity over time. 0: 2,000. Negative: no limit.
	PerSecond float64
	// Burst is how many may come at once. 0: twice PerSecond.
	Burst int
}

const (
	defaultPerSecond = 2000
	// maxLimited identities have a limit of their own; what is beyond shares one.
	maxLimited = 4096
)

func (l RateLimit) withDefaults() RateLimit {
	if l.PerSecond == 0 {
		l.PerSecond = defaultPerSecond
	}
	if l.Burst <= 0 {
		l.Burst = max(1, int(2*l.PerSecond))
	}
	return l
}

// limits holds one bucket per identity. Safe for concurrent use.
type limits struct {
	RateLimit

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
	rest    *rate.Limiter
}

func newLimits(cfg RateLimit) *limits {
	l := &limits{RateLimit: cfg.withDefaults(), buckets: map[string]*rate.Limiter{}}
	l.rest = l.bucket()
	return l
}

func (l *limits) bucket() *rate.Limiter { return rate.NewLimiter(rate.Limit(l.PerSecond), l.Burst) }

// take counts one request. If it is one too many it says when the next may come.
func (l *limits) take(id string, now time.Time) (wait time.Duration, ok bool) {
	b := l.of(id, now)
	if b.AllowN(now, 1) {
		return 0, true
	}
	missing := 1 - b.TokensAt(now)
	return time.Duration(math.Ceil(missing/l.PerSecond*1e3)) * time.Millisecond, false
}

// of returns the identity's bucket. A full table first loses the buckets that are
// full: forgetting them changes nothing.
func (l *limits) of(id string, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.buckets[id]; b != nil {
		return b
	}
	if len(l.buckets) >= maxLimited {
		l.forgetIdle(now)
	}
	if len(l.buckets) >= maxLimited {
		return l.rest
	}
	b := l.bucket()
	l.buckets[id] = b
	return b
}

func (l *limits) forgetIdle(now time.Time) {
	for id, b := range l.buckets {
		if b.TokensAt(now) >= float64(l.Burst) {
			delete(l.buckets, id)
		}
	}
}

// limiting refuses requests above the caller's limit before anything looks at them.
type limiting struct {
	unaryOnly
	limits *limits
}

// WrapUnary implements connect.Interceptor.
func (l limiting) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	if l.limits.PerSecond < 0 {
		return next
	}
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		who := callerFrom(ctx)
		if who.grant&readers == 0 {
			return next(ctx, req)
		}
		if wait, ok := l.limits.take(who.identity.ID, time.Now()); !ok {
			return nil, l.refuse(wait)
		}
		return next(ctx, req)
	}
}

func (l limiting) refuse(wait time.Duration) error {
	err := connect.NewError(connect.CodeResourceExhausted,
		fmt.Errorf("more than %g requests per second by one identity: retry in %s", l.limits.PerSecond, wait))
	err.Meta().Set(client.RetryAfterHeader, strconv.FormatFloat(max(1, math.Ceil(wait.Seconds())), 'f', 0, 64))
	return err
}
