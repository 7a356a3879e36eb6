package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	"tarn/controlplane/schedule"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// toConnect is the only place where an error becomes a code. Errors that it does
// not know are internal: their text is logged under the request id, never returned.
func toConnect(err error, requestID string) *connect.Error {
	if rpc, ok := errors.AsType[*connect.Error](err); ok {
		return rpc
	}
	if bad, ok := errors.AsType[*invalidError](err); ok {
		return withViolations(bad.violations, bad)
	}
	if no, ok := errors.AsType[*deniedError](err); ok {
		return connect.NewError(connect.CodePermissionDenied, no)
	}
	if refused, ok := errors.AsType[*raftfsm.Error](err); ok {
		return fromState(refused)
	}
	if none, ok := errors.AsType[*schedule.Failure](err); ok {
		return withDetail(connect.CodeFailedPrecondition, none, &tarnv1.PlacementFailure{Refusals: none.Refusals})
	}
	if specs, ok := errors.AsType[*schedule.SpecError](err); ok {
		return withViolations(specs.Violations, specs)
	}
	return fromCluster(err, requestID)
}

// fromState translates what the state machine answered.
func fromState(err *raftfsm.Error) *connect.Error {
	switch err.Code {
	case raftfsm.NotFound:
		return connect.NewError(connect.CodeNotFound, err)
	case raftfsm.AlreadyExists:
		return connect.NewError(connect.CodeAlreadyExists, err)
	case raftfsm.Aborted:
		return connect.NewError(connect.CodeAborted, err)
	case raftfsm.FailedPrecondition:
		return withField(connect.CodeFailedPrecondition, err)
	case raftfsm.InvalidArgument:
		return withField(connect.CodeInvalidArgument, err)
	case raftfsm.ResourceExhausted:
		if err.Quota == nil {
			return connect.NewError(connect.CodeResourceExhausted, err)
		}
		return withDetail(connect.CodeResourceExhausted, err, err.Quota)
	case raftfsm.Halted:
		return connect.NewError(connect.CodeUnavailable, errors.New("this node has stopped applying the log, ask another"))
	}
	return connect.NewError(connect.CodeInternal, fmt.Errorf("state refused the request: code %v", err.Code))
}

// fromCluster translates what the log and the clock answered.
func fromCluster(err error, requestID string) *connect.Error {
	if other, ok := errors.AsType[*consensus.NotLeaderError](err); ok {
		return notLeader(other)
	}
	switch {
	case errors.Is(err, consensus.ErrUnknownOutcome):
		return connect.NewError(connect.CodeUnavailable, errors.New("outcome unknown, retry with the same id"))
	case errors.Is(err, consensus.ErrNotRunning), errors.Is(err, consensus.ErrBusy):
		return connect.NewError(connect.CodeUnavailable, errors.New("node cannot take the request now, retry"))
	case errors.Is(err, consensus.ErrConflict):
		return connect.NewError(connect.CodeFailedPrecondition, err)
	case errors.Is(err, identity.ErrToken):
		return connect.NewError(connect.CodePermissionDenied, errors.New("join token refused: it is wrong, expired or used"))
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("request ran out of time"))
	case errors.Is(err, context.Canceled):
		// A caller that has gone hears nothing: who hears this was cut off by the node's end.
		return connect.NewError(connect.CodeUnavailable, errors.New("the node is stopping and the outcome unknown, retry with the same id"))
	}
	return connect.NewError(connect.CodeInternal, fmt.Errorf("internal error; the log has it under request id %s", requestID))
}

// notLeader names the leader in a detail for tarn's own client and in a header
// for everything else.
func notLeader(err *consensus.NotLeaderError) *connect.Error {
	code := connect.CodeFailedPrecondition
	if err.LeaderAddr == "" {
		// Nobody leads: the same request may well succeed in a moment.
		code = connect.CodeUnavailable
	}
	rpc := withDetail(code, err, &tarnv1.NotLeader{LeaderId: err.LeaderID, LeaderAddress: err.LeaderAddr, Term: err.Term})
	if err.LeaderAddr != "" {
		rpc.Meta().Set(leaderHeader, err.LeaderAddr)
	}
	return rpc
}

func withField(code connect.Code, err *raftfsm.Error) *connect.Error {
	if err.Field == "" {
		return connect.NewError(code, err)
	}
	return withDetail(code, err, &tarnv1.FieldViolation{Field: err.Field, Rule: err.Message})
}

func withViolations(violations []*tarnv1.FieldViolation, cause error) *connect.Error {
	details := make([]proto.Message, len(violations))
	for i, v := range violations {
		details[i] = v
	}
	return withDetail(connect.CodeInvalidArgument, cause, details...)
}

func withDetail(code connect.Code, cause error, details ...proto.Message) *connect.Error {
	rpc := connect.NewError(code, cause)
	for _, d := range details {
		// A detail that cannot be encoded is one less; the sentence stays.
		if detail, err := connect.NewErrorDetail(d); err == nil {
			rpc.AddDetail(detail)
		}
	}
	return rpc
}

// The refusals of handlers, in the state machine's own terms.

func notFound(kind, id string) error {
	return &raftfsm.Error{Code: raftfsm.NotFound, Message: fmt.Sprintf("%s %q does not exist", kind, id)}
}

func refused(field, format string, args ...any) error {
	return &raftfsm.Error{Code: raftfsm.FailedPrecondition, Field: field, Message: fmt.Sprintf(format, args...)}
}

func taken(kind, id string) error {
	return &raftfsm.Error{Code: raftfsm.AlreadyExists, Message: fmt.Sprintf("%s %q exists with other content", kind, id)}
}
