package raftfsm

import (
	"fmt"

	tarnv1 "tarn/proto/tarn/v1"
)

// Code classes a refusal, so that callers can answer without reading its text.
type Code uint8

// The classes, named as the RPC codes that they become.
const (
	// NotFound: the named resource does not exist.
	NotFound Code = iota + 1
	// AlreadyExists: the id or name is taken by something else.
	AlreadyExists
	// Aborted: the caller planned on a revision or epoch that is gone; read again and retry.
	Aborted
	// FailedPrecondition: the state does not allow it now.
	FailedPrecondition
	// ResourceExhausted: a quota stands in the way; Error.Quota says which.
	ResourceExhausted
	// InvalidArgument: no state would allow it.
	InvalidArgument
	// Halted: this node stopped applying the log; FSM.Halted says why.
	Halted
)

var codeNames = [...]string{
	"unknown", "not found", "already exists", "aborted", "failed precondition",
	"resource exhausted", "invalid argument", "halted",
}

// String names the code for people.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return codeNames[0]
}

// Error is a refusal: a normal, deterministic outcome of a command. It reaches
// callers through errors.As. Message is one sentence that names the rule and,
// where there is one, the next step.
type Error struct {
	Code Code
	// Field of the request that broke the rule; empty when no single one did.
	Field   string
	Message string
	// Set with ResourceExhausted.
	Quota *tarnv1.QuotaExceeded
}

// Error implements error.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

func refuse(code Code, field, format string, args ...any) *Error {
	return &Error{Code: code, Field: field, Message: fmt.Sprintf(format, args...)}
}

func missing(field, kind, id string) *Error {
	return refuse(NotFound, field, "%s %q does not exist", kind, id)
}

func stale(kind, id string, have, want uint64) *Error {
	return refuse(Aborted, "expected_revision",
		"%s %q is at revision %d, not %d; read it again and retry", kind, id, have, want)
}
