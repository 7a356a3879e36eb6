package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Roles that a rule can name.
const (
	RoleReader   = "reader"
	RoleMember   = "member"
	RoleOperator = "operator"
)

func roles() []string { return []string{RoleReader, RoleMember, RoleOperator} }

// maxRule bounds a rule's text, in bytes, and with it the depth of its tree.
const maxRule = 4096

// Subject is who asks.
type Subject struct {
	Role    string
	User    string // id
	Name    string // of a user with a token; empty for certificates
	Project string
}

// verdict says if a rule holds for a subject of which only the role may be known.
type verdict struct{ canHold, canFail bool }

func sure(holds bool) verdict { return verdict{holds, !holds} }

// expr is a parsed rule.
type expr interface {
	// eval with s nil for anybody of that role.
	eval(role string, s *Subject) verdict
}

type (
	constant bool
	negation struct{ of expr }
	anyOf    []expr
	allOf    []expr
	hasRole  string
	isUser   string
	inside   string // project
	named    struct {
		name string
		rule expr // set once all rules are read
	}
)

func (c constant) eval(string, *Subject) verdict { return sure(bool(c)) }

func (n negation) eval(role string, s *Subject) verdict {
	v := n.of.eval(role, s)
	return verdict{v.canFail, v.canHold}
}

func (a anyOf) eval(role string, s *Subject) verdict {
	out := sure(false)
	for _, e := range a {
		v := e.eval(role, s)
		out.canHold, out.canFail = out.canHold || v.canHold, out.canFail && v.canFail
	}
	return out
}

func (a allOf) eval(role string, s *Subject) verdict {
	out := sure(true)
	for _, e := range a {
		v := e.eval(role, s)
		out.canHold, out.canFail = out.canHold && v.canHold, out.canFail || v.canFail
	}
	return out
}

func (r hasRole) eval(role string, _ *Subject) verdict { return sure(string(r) == role) }

func (u isUser) eval(_ string, s *Subject) verdict {
	if s == nil {
		return verdict{true, true}
	}
	return sure(string(u) == s.User || s.Name != "" && string(u) == s.Name)
}

func (p inside) eval(_ string, s *Subject) verdict {
	if s == nil {
		return verdict{true, true}
	}
	return sure(string(p) == s.Project)
}

func (n *named) eval(role string, s *Subject) verdict { return n.rule.eval(role, s) }

// parser reads: or := and {"or" and}; and := not {"and" not}; not := "not" not | "(" or ")" | check.
type parser struct {
	words []string
	refs  []*named
}

// parseRule reads one rule. The references in it have to be resolved.
func parseRule(text string) (expr, []*named, error) {
	if len(text) > maxRule {
		return nil, nil, fmt.Errorf("rule has %d bytes, %d are allowed", len(text), maxRule)
	}
	p := &parser{words: split(text)}
	if len(p.words) == 0 {
		return nil, nil, errors.New(`rule is empty: write "!" for nobody or "@" for everybody`)
	}
	e, err := p.or()
	if err == nil && len(p.words) > 0 {
		err = fmt.Errorf("%q does not belong there", p.words[0])
	}
	return e, p.refs, err
}

func split(text string) []string {
	return strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text))
}

func (p *parser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) take(word string) bool {
	if len(p.words) > 0 && p.words[0] == word {
		p.words = p.words[1:]
		return true
	}
	return false
}

func (p *parser) or() (expr, error) {
	var all anyOf
	for {
		e, err := p.and()
		if err != nil {
			return nil, err
		}
		all = append(all, e)
		if !p.take("or") {
			return all, nil
		}
	}
}

func (p *parser) and() (expr, error) {
	var all allOf
	for {
		e, err := p.not()
		if err != nil {
			return nil, err
		}
		all = append(all, e)
		if !p.take("and") {
			return all, nil
		}
	}
}

func (p *parser) not() (expr, error) {
	switch {
	case p.take("not"):
		e, err := p.not()
		return negation{e}, err
	case p.take("("):
		e, err := p.or()
		if err == nil && !p.take(")") {
			err = errors.New("a parenthesis is not closed")
		}
		return e, err
	}
	return p.check(p.next())
}

func (p *parser) check(word string) (expr, error) {
	switch word {
	case "@":
		return constant(true), nil
	case "!":
		return constant(false), nil
	case "":
		return nil, errors.New("rule ends where a check should be")
	}
	kind, value, ok := strings.Cut(word, ":")
	if !ok || value == "" {
		return nil, fmt.Errorf("%q is no check: role:, user:, project:, rule:, @ and ! are", word)
	}
	switch kind {
	case "role":
		if !slices.Contains(roles(), value) {
			return nil, fmt.Errorf("role %q does not exist: %s do", value, strings.Join(roles(), ", "))
		}
		return hasRole(value), nil
	case "user":
		return isUser(value), nil
	case "project":
		return inside(value), nil
	case "rule":
		ref := &named{name: value}
		p.refs = append(p.refs, ref)
		return ref, nil
	}
	return nil, fmt.Errorf("%q is no check: role:, user:, project:, rule:, @ and ! are", word)
}
