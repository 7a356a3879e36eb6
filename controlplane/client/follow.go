package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

const (
	firstPause = 50 * time.Millisecond
	longPause  = 2 * time.Second
)

// follower is the interceptor that finds the leader and repeats what may be repeated.
type follower struct {
	cfg   Config
	nodes *nodes
	// keeps says that the cluster remembers the keys of requests; once true it stays so.
	keeps *atomic.Bool
}

// WrapUnary implements connect.Interceptor.
func (f *follower) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		mintIDs(req.Any())
		if hasKey(req) {
			req.Header().Set(KeyHeader, newID())
		}
		if f.cfg.Project != "" {
			req.Header().Set(ProjectHeader, f.cfg.Project)
		}
		if f.cfg.Token != "" {
			req.Header().Set("Authorization", "Bearer "+f.cfg.Token)
		}
		if f.cfg.Reason != "" {
			req.Header().Set(ReasonHeader, f.cfg.Reason)
		}
		wait := pollWait(req.Any())
		if _, bounded := ctx.Deadline(); !bounded {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, f.cfg.Patience+wait)
			defer cancel()
		}
		c := &call{follower: f, next: next, req: req, limit: f.cfg.Attempt + wait, anyNode: answeredByAny(req)}
		return c.run(ctx)
	}
}

// WrapStreamingClient implements connect.Interceptor; tarn.v1 has no streams.
func (f *follower) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (f *follower) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// call is one call with all its attempts.
type call struct {
	*follower
	next    connect.UnaryFunc
	req     connect.AnyRequest
	limit   time.Duration
	anyNode bool
}

func (c *call) run(ctx context.Context) (connect.AnyResponse, error) {
	pause := firstPause
	var last error
	doubtful := false      // an earlier attempt may have taken effect
	kept := c.keeps.Load() // and then this one is told the same
	for {
		res, err := c.attempt(ctx)
		if doubtful && !kept && connect.CodeOf(err) == connect.CodeNotFound && deletes(c.req) {
			return connect.NewResponse(&tarnv1.Empty{}), nil // by whichever attempt
		}
		if err != nil && ctx.Err() != nil && last != nil {
			// "Deadline exceeded" would hide what stood in the way all the time.
			return nil, last
		}
		if err == nil || !repeatable(err) || ctx.Err() != nil {
			return res, err
		}
		if mayHaveRun(err) && conditional(c.req) && !c.keeps.Load() {
			return nil, fmt.Errorf("nobody knows whether it was done, read it again: %w", err)
		}
		last, doubtful = err, doubtful || mayHaveRun(err)
		c.cfg.Logger.DebugContext(ctx, "call is repeated", "procedure", c.req.Spec().Procedure, "err", err)
		if !sleep(ctx, pause/2+rand.N(pause/2+1)) {
			return nil, err
		}
		pause = min(2*pause, longPause)
	}
}

// attempt calls the likely node, and the leader if that node names another.
func (c *call) attempt(ctx context.Context) (connect.AnyResponse, error) {
	address := c.nodes.current(c.anyNode)
	res, err := c.once(ctx, address)
	hint := leaderHint(err)
	if hint != "" && hint != address {
		c.nodes.follow(hint)
		address = hint
		res, err = c.once(ctx, address)
	}
	if err != nil && repeatable(err) && ctx.Err() == nil {
		c.nodes.leave(address, c.anyNode)
	}
	return res, err
}

func (c *call) once(ctx context.Context, address string) (connect.AnyResponse, error) {
	limited, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	res, err := c.next(withTarget(limited, address), c.req)
	c.learn(res, err)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		// Only this attempt ran out of time: nobody knows whether it took effect.
		return nil, connect.NewError(connect.CodeUnavailable, errors.New(address+" did not answer in time"))
	}
	return res, err
}

// learn takes note of what an answer says of the cluster.
func (c *call) learn(res connect.AnyResponse, err error) {
	said := ""
	if rpc, ok := errors.AsType[*connect.Error](err); ok {
		said = rpc.Meta().Get(KeepsKeysHeader)
	} else if err == nil {
		said = res.Header().Get(KeepsKeysHeader)
	}
	if said != "" {
		c.keeps.Store(true)
	}
}

// hasKey tells whether the call is one of people, who change things. Hosts say what they
// know, and a join token is spent by its key.
func hasKey(req connect.AnyRequest) bool {
	procedure := req.Spec().Procedure
	return !strings.HasPrefix(procedure, "/"+tarnv1connect.AgentServiceName+"/") && !strings.HasPrefix(procedure, "/"+tarnv1connect.JoinServiceName+"/")
}

// mayHaveRun says of a repeatable error whether the call may have taken effect all the same.
func mayHaveRun(err error) bool {
	if _, follower := Detail[*tarnv1.NotLeader](err); follower || connect.CodeOf(err) == connect.CodeResourceExhausted {
		return false
	}
	dial, ok := errors.AsType[*net.OpError](err)
	return !ok || dial.Op != "dial"
}

// conditional tells whether a change names the revision that it expects: done once, it
// would be refused the second time, and that refusal would be wrong.
func conditional(req connect.AnyRequest) bool {
	if strings.HasPrefix(req.Spec().Procedure, "/"+tarnv1connect.AgentServiceName+"/") {
		return false // hosts say what they know, and change nothing by it
	}
	named, ok := req.Any().(interface{ GetRevision() uint64 })
	return ok && named.GetRevision() != 0
}

// deletes tells whether the method removes what its request names, and answers nothing.
// Ids are never used again: what is gone the second time was removed.
func deletes(req connect.AnyRequest) bool {
	method, ok := req.Spec().Schema.(protoreflect.MethodDescriptor)
	if !ok || method.Output().FullName() != (&tarnv1.Empty{}).ProtoReflect().Descriptor().FullName() {
		return false
	}
	return strings.HasPrefix(string(method.Name()), "Delete") || method.Name() == "DenyAccess" || method.Name() == "RemoveHost"
}

// repeatable says whether another attempt can have another outcome. The methods of
// tarn.v1 are idempotent by the key that each request has, so that an unknown outcome may
// be repeated. Of a cluster that has never said that it remembers keys (one that is being
// upgraded, or not heard of yet) less is asked: creations and promotions do nothing twice
// by their ids, deletions find nothing the second time, what depends on a revision is not
// repeated, and an update without one may be done twice, with another's in between.
func repeatable(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable:
		return true
	case connect.CodeUnknown, connect.CodeCanceled, connect.CodeInternal:
		// Not said by the server but by a connection that broke half-way.
		return !connect.IsWireError(err)
	case connect.CodeResourceExhausted:
		// Too many requests by us: with a hint. A quota comes without.
		rpc, ok := errors.AsType[*connect.Error](err)
		return ok && rpc.Meta().Get(RetryAfterHeader) != ""
	}
	_, follower := Detail[*tarnv1.NotLeader](err)
	return follower
}

func leaderHint(err error) string {
	detail, ok := Detail[*tarnv1.NotLeader](err)
	if !ok {
		return ""
	}
	return detail.GetLeaderAddress()
}

// answeredByAny tells whether followers answer the call as well as the leader.
func answeredByAny(req connect.AnyRequest) bool {
	if req.Spec().Procedure == tarnv1connect.AgentServiceAssignmentsProcedure {
		return true
	}
	stale, ok := req.Any().(interface{ GetConsistency() tarnv1.Consistency })
	return ok && stale.GetConsistency() == tarnv1.Consistency_CONSISTENCY_STALE
}

// pollWait is how long the server may hold the answer back.
func pollWait(msg any) time.Duration {
	// Besides long polls, these are questions that are passed on to hosts.
	if held, ok := msg.(interface{ GetMaxWait() *durationpb.Duration }); ok {
		return held.GetMaxWait().AsDuration()
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
