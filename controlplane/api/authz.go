package api

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"tarn/controlplane/identity"
	"tarn/controlplane/policy"
	tarnv1 "tarn/proto/tarn/v1"
)

// grant is the set of callers that may use a method.
type grant uint8

const (
	reader   grant = 1 << iota // client that reads its project
	member                     // client that changes its project too
	operator                   // administrator of the cluster
	agent                      // storage host
	control                    // control-plane node
	nobody                     // caller without a certificate
)

const (
	readers       = reader | member | operator
	authenticated = readers | agent | control
)

// methods is the whole table procedure -> who. What is not in it nobody may call.
func methods() map[string]method {
	table := map[string]method{}
	for _, r := range catalogue() {
		table[r.procedure] = method{procedure: r.procedure, machines: r.machines, action: r.Name}
	}
	return table
}

// grantOf returns the one bit that a caller has.
func grantOf(id identity.Identity) grant {
	switch id.Role {
	case identity.RoleControl:
		return control
	case identity.RoleAgent:
		return agent
	case identity.RoleOperator:
		return operator
	case identity.RoleClient:
		if id.ProjectRole == identity.ProjectMember {
			return member
		}
		return reader
	}
	return nobody
}

// Policies gives the rules that hold now.
type Policies interface {
	Policy() *policy.Policy
}

// authorize is the interceptor that asks the table of machines, or the policy for people.
type authorize struct {
	unaryOnly
	table    map[string]method
	policies Policies
}

// WrapUnary implements connect.Interceptor.
func (a authorize) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		who, err := callerFrom(ctx).inProject(req.Header())
		if err != nil {
			return nil, err
		}
		if err := a.allow(who, req); err != nil {
			return nil, err
		}
		return next(withCaller(ctx, who), req)
	}
}

func (a authorize) allow(who caller, req connect.AnyRequest) error {
	procedure := req.Spec().Procedure
	m, known := a.table[procedure]
	people := who.grant&readers != 0
	switch {
	case !known, !people && m.machines&who.grant == 0, people && m.action == "" && m.machines&who.grant == 0:
		return denied("role %s may not call %s", who.role(), procedure)
	case !people, m.action == "":
		return nil
	}
	p := a.policies.Policy()
	if !p.Allows(m.action, who.subject()) {
		return denied("role %s may not call %s: the policy gives %s to others", who.role(), procedure, m.action)
	}
	if err := justified(p, m.action, who, req.Any()); err != nil {
		return err
	}
	for _, way := range ways(req.Any()) {
		if !p.Allows(way.action, who.subject()) {
			return denied("field %s is for operators, or whom the policy gives %s to", way.field, way.action)
		}
		if err := justified(p, way.action, who, req.Any()); err != nil {
			return err
		}
	}
	return nil
}

// justified refuses an action that needs a reason and has none, neither in the request
// nor in the header.
func justified(p *policy.Policy, action string, who caller, msg any) error {
	if !p.NeedsReason(action) || who.reason != "" {
		return nil
	}
	if m, ok := msg.(interface{ GetReason() string }); ok && m.GetReason() != "" {
		return nil
	}
	if m, ok := msg.(interface{ GetConsent() *tarnv1.Consent }); ok {
		if m.GetConsent().GetReason() != "" {
			return nil
		}
		return invalid("consent.reason", "is required: %s has to be justified for the audit log", action)
	}
	return invalid(reasonHeader, "is required: %s has to be justified for the audit log", action)
}

// subject is the caller as policies see it.
func (c caller) subject() policy.Subject {
	s := policy.Subject{User: c.identity.ID, Name: c.name, Project: c.project}
	switch c.grant {
	case reader:
		s.Role = policy.RoleReader
	case member:
		s.Role = policy.RoleMember
	case operator:
		s.Role = policy.RoleOperator
	}
	return s
}

func used[M any](msg any, test func(M) bool) bool {
	m, ok := msg.(M)
	return ok && test(m)
}

// publishes tells whether a share would become readable by all projects, which
// Manila's default policy leaves to administrators.
func publishes(msg any) bool {
	switch m := msg.(type) {
	case *tarnv1.CreateShareRequest:
		return m.GetIsPublic()
	case *tarnv1.UpdateShareRequest:
		return m.GetIsPublic()
	}
	return false
}

// deniedError says which rule forbids a request to this caller.
type deniedError struct{ rule string }

// Error implements error.
func (e *deniedError) Error() string { return e.rule }

func denied(format string, args ...any) error {
	return &deniedError{fmt.Sprintf(format, args...)}
}
