package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// callTimeout bounds one call to the control plane with all its attempts.
	callTimeout = 10 * time.Second
	firstPause  = 100 * time.Millisecond
	longestWait = 5 * time.Second
)

// call makes one bounded call to the control plane, counts it and notes when the
// control plane last answered.
func call[Req, Resp any](ctx context.Context, a *Agent, procedure string, timeout time.Duration,
	method func(context.Context, Req) (Resp, error), req Req,
) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := method(ctx, req)
	result := "ok"
	if err != nil {
		result = "failed"
	} else {
		a.contact.Store(time.Now().UnixNano())
	}
	a.counters.ControlRequests.WithLabelValues(procedure, result).Inc()
	return resp, err
}

// backoff waits after the given number of earlier failures: 100 ms doubled up to
// 5 s, half of it by chance, so that hosts do not come back in step.
func backoff(ctx context.Context, failures int) error {
	pause := min(firstPause<<min(failures, 6), longestWait)
	return wait(ctx, pause/2+rand.N(pause/2+1))
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
