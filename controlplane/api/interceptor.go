package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
)

// unaryOnly is the streaming half of every interceptor here. tarn.v1 has no
// streams; should one be added, it is refused until somebody thinks about it.
type unaryOnly struct{}

// WrapStreamingClient implements connect.Interceptor.
func (unaryOnly) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (unaryOnly) WrapStreamingHandler(connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(context.Context, connect.StreamingHandlerConn) error {
		return connect.NewError(connect.CodeUnimplemented, errors.New("streams are not served"))
	}
}

// recovering turns a panic of what follows it into an internal error. It stands
// behind logging and measuring, which would otherwise not see the call end.
type recovering struct{ unaryOnly }

// WrapUnary implements connect.Interceptor.
func (recovering) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &panicError{value: v, stack: debug.Stack()}
			}
		}()
		return next(ctx, req)
	}
}

type panicError struct {
	value any
	stack []byte
}

// Error implements error; the text is for the log only.
func (e *panicError) Error() string { return fmt.Sprintf("handler panicked: %v\n%s", e.value, e.stack) }

// logging gives each request an id, translates its error, and writes one line.
type logging struct {
	unaryOnly
	logger  *slog.Logger
	auditor Auditor
}

// WrapUnary implements connect.Interceptor.
func (l logging) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		who := callerFrom(ctx)
		who.requestID = requestID(req.Header().Get(requestIDHeader))
		begun := time.Now()
		var res connect.AnyResponse
		var err error
		if who.reason, err = reasonOf(req.Header()); err == nil {
			res, err = next(withCaller(ctx, who), req)
		}
		l.line(ctx, req.Spec().Procedure, who, time.Since(begun), err)
		if err != nil {
			refusal := toConnect(err, who.requestID)
			l.deny(ctx, who, req.Spec().Procedure, refusal)
			return nil, refusal
		}
		res.Header().Set(requestIDHeader, who.requestID)
		return res, nil
	}
}

// line logs failures of the server as errors, everything else for debugging only:
// agents call several times a second.
func (l logging) line(ctx context.Context, procedure string, who caller, took time.Duration, err error) {
	level := slog.LevelDebug
	code := "ok"
	if err != nil {
		rpc := toConnect(err, who.requestID)
		code = rpc.Code().String()
		if rpc.Code() == connect.CodeInternal {
			level = slog.LevelError
		}
	}
	if !l.logger.Enabled(ctx, level) {
		return
	}
	l.logger.Log(ctx, level, "request", "procedure", procedure, "request_id", who.requestID,
		"actor", who.actor(), "code", code, "took", took, "err", err)
}

// requestID keeps the caller's id if it is a UUID, so that a log line cannot be forged with it.
func requestID(given string) string {
	if id, err := uuid.Parse(given); err == nil {
		return id.String()
	}
	return uuid.NewString()
}

// measuring reports each call to the metrics hook.
type measuring struct {
	unaryOnly
	observe func(procedure, code string, took time.Duration)
}

// WrapUnary implements connect.Interceptor.
func (m measuring) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		begun := time.Now()
		res, err := next(ctx, req)
		code := "ok"
		if err != nil {
			code = toConnect(err, "").Code().String()
		}
		m.observe(req.Spec().Procedure, code, time.Since(begun))
		return res, err
	}
}

// validating refuses malformed requests before a handler sees them.
type validating struct {
	unaryOnly
	rules rules
}

// WrapUnary implements connect.Interceptor.
func (v validating) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		msg, ok := req.Any().(proto.Message)
		if !ok {
			return nil, errors.New("request is not a protobuf message")
		}
		if err := v.rules.check(req.Spec().Procedure, msg); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}
