package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"unicode"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/audit"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// Auditor is this node's own audit file. *audit.File is one.
type Auditor interface {
	// Intend returns once the intent is on disk; if it cannot, the call is refused.
	Intend(audit.Entry) error
	// Denied notes a refusal. Its error is for the log: what was refused stays refused.
	Denied(audit.Entry) error
}

// noAuditor keeps nothing.
type noAuditor struct{}

// Intend implements Auditor.
func (noAuditor) Intend(audit.Entry) error { return nil }

// Denied implements Auditor.
func (noAuditor) Denied(audit.Entry) error { return nil }

// destructive tells which procedures take something away for good, or give rights
// away. They need an intent on disk before anything is proposed.
func destructive(procedure string) bool {
	switch procedure {
	case tarnv1connect.MessageServiceDeleteMessageProcedure:
		return false // it expires by itself
	case tarnv1connect.OperatorServiceCreateJoinTokenProcedure, tarnv1connect.AccessRuleServiceDenyAccessProcedure,
		tarnv1connect.OperatorServiceRotateGossipKeyProcedure:
		return true
	}
	_, method, _ := strings.Cut(strings.TrimPrefix(procedure, "/"), "/")
	for _, verb := range []string{"Delete", "Purge", "Reset", "Promote", "Remove", "Unmanage", "Shrink", "Revoke", "CreateUser", "Dismiss"} {
		if strings.HasPrefix(method, verb) {
			return true
		}
	}
	return false
}

// auditing writes the intent of a destructive call before its handler runs.
type auditing struct {
	unaryOnly
	auditor Auditor
	logger  *slog.Logger
}

// WrapUnary implements connect.Interceptor.
func (a auditing) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		procedure := req.Spec().Procedure
		if !destructive(procedure) {
			return next(ctx, req)
		}
		e := entryOf(callerFrom(ctx), procedure)
		if m, ok := req.Any().(proto.Message); ok {
			e.Details = audit.Details(m)
		}
		if err := a.auditor.Intend(e); err != nil {
			a.logger.ErrorContext(ctx, "the audit file cannot be written, a destructive call was refused", "procedure", procedure, "err", err)
			return nil, refused("", "the audit file of this node cannot be written, and without it no destructive call is taken: its log says why")
		}
		return next(ctx, req)
	}
}

func entryOf(who caller, procedure string) audit.Entry {
	actor := who.actor()
	if who.grant == nobody {
		actor = "nobody"
	}
	return audit.Entry{
		Actor: actor, Remote: who.remote, Project: who.project, Action: strings.TrimPrefix(procedure, "/"),
		RequestID: who.requestID, Reason: who.reason,
	}
}

// deny notes a refusal for lack of rights.
func (l logging) deny(ctx context.Context, who caller, procedure string, refusal *connect.Error) {
	if c := refusal.Code(); c != connect.CodePermissionDenied && c != connect.CodeUnauthenticated {
		return
	}
	e := entryOf(who, procedure)
	e.Details = refusal.Message()
	if err := l.auditor.Denied(e); err != nil {
		l.logger.ErrorContext(ctx, "a refusal could not be written to the audit file", "err", err)
	}
}

// reasonOf reads the reason that a caller gives for the audit log.
func reasonOf(header http.Header) (string, error) {
	reason := header.Get(reasonHeader)
	if len(reason) > maxName {
		return "", invalid(reasonHeader, "has %d bytes, %d are allowed", len(reason), maxName)
	}
	for _, r := range reason {
		if !unicode.IsPrint(r) {
			return "", invalid(reasonHeader, "is printable text")
		}
	}
	return reason, nil
}

// ListAuditRecords implements tarnv1connect.OperatorServiceHandler.
func (s *operators) ListAuditRecords(ctx context.Context, req *tarnv1.ListAuditRecordsRequest) (*tarnv1.ListAuditRecordsResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = maxPage
	}
	out := &tarnv1.ListAuditRecordsResponse{HeadSeq: v.AuditHead().GetSeq(), HeadHash: v.AuditHead().GetHash()}
	for r := range v.AuditRecords(req.GetAfterSeq()) {
		if !matches(req.GetActor(), r.GetActor()) || !matches(req.GetAction(), r.GetAction()) ||
			!matches(req.GetObjectId(), r.GetObjectId()) && !matches(req.GetObjectId(), r.GetShareId()) {
			continue
		}
		if len(out.Records) == limit {
			out.NextAfterSeq = out.Records[limit-1].GetSeq()
			break
		}
		out.Records = append(out.Records, r)
	}
	return out, nil
}
