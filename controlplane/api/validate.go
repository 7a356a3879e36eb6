package api

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

const (
	maxName     = 255
	maxPairs    = 128
	maxPairKey  = 255
	maxPairText = 1023
	maxSizeGiB  = 1 << 20
	maxPage     = 1000
)

// longFields are the strings that may be longer than a name, in bytes.
func longFields() map[protoreflect.Name]int {
	return map[protoreflect.Name]int{
		"page_token":        2048,
		"token":             512,
		"path":              2000,
		"mountpoint":        4096,
		"dataset":           4096,
		"message":           4096,
		"error":             4096,
		"provider_location": 4096,
		"reading":           4096, // commands with a dataset, a mountpoint and a directory each
	}
}

// proseFields may contain line breaks and tabs.
func proseFields() map[protoreflect.Name]bool {
	return map[protoreflect.Name]bool{"description": true, "message": true, "error": true, "reason": true}
}

// invalidError lists every field of a request that breaks a rule.
type invalidError struct{ violations []*tarnv1.FieldViolation }

// Error implements error.
func (e *invalidError) Error() string {
	parts := make([]string, len(e.violations))
	for i, v := range e.violations {
		parts[i] = v.GetField() + ": " + v.GetRule()
	}
	return strings.Join(parts, "; ")
}

func invalid(field, format string, args ...any) error {
	return &invalidError{[]*tarnv1.FieldViolation{{Field: field, Rule: fmt.Sprintf(format, args...)}}}
}

// rules says of every request type what it must fulfil. What holds for every
// message (lengths, control characters, known enum values) needs no entry, but a
// type without an entry is refused: somebody forgot it.
type rules struct {
	byType map[protoreflect.FullName]rule
	long   map[protoreflect.Name]int
	prose  map[protoreflect.Name]bool
}

type rule func(*checker, proto.Message)

func newRules() rules {
	r := rules{byType: map[protoreflect.FullName]rule{}, long: longFields(), prose: proseFields()}
	addShareRules(r)
	addRecordRules(r)
	addAgentRules(r)
	addOperatorRules(r)
	addInquiryRules(r)
	return r
}

// on adds the rule for requests of type M.
func on[M proto.Message](r rules, f func(*checker, M)) {
	var m M
	r.byType[m.ProtoReflect().Descriptor().FullName()] = func(c *checker, msg proto.Message) {
		if typed, ok := msg.(M); ok {
			f(c, typed)
		}
	}
}

// check returns an *invalidError naming each violation, or nil.
func (r rules) check(procedure string, msg proto.Message) error {
	f, known := r.byType[msg.ProtoReflect().Descriptor().FullName()]
	if !known {
		return errors.New("no validation rule for " + string(msg.ProtoReflect().Descriptor().FullName()))
	}
	c := &checker{rules: r, procedure: procedure}
	c.message("", msg.ProtoReflect())
	f(c, msg)
	if len(c.violations) == 0 {
		return nil
	}
	return &invalidError{c.violations}
}

// checker collects the violations of one request.
type checker struct {
	rules
	procedure  string
	violations []*tarnv1.FieldViolation
}

// fail records a violation. The first one of a field is enough.
func (c *checker) fail(field, format string, args ...any) {
	for _, v := range c.violations {
		if v.GetField() == field {
			return
		}
	}
	c.violations = append(c.violations, &tarnv1.FieldViolation{Field: field, Rule: fmt.Sprintf(format, args...)})
}

// message checks what holds for every field of every message, at any depth.
func (c *checker) message(prefix string, m protoreflect.Message) {
	if prefix == "" && len(m.GetUnknown()) > 0 && c.knowsAll() {
		c.fail("", "has fields that this version does not know")
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := prefix + string(field.Name())
		switch {
		case field.IsMap():
			c.pairs(name, field, v.Map())
		case field.IsList():
			for i := range v.List().Len() {
				c.value(fmt.Sprintf("%s[%d]", name, i), field, v.List().Get(i))
			}
		default:
			c.value(name, field, v)
		}
		// A hundred violations help nobody and cost memory.
		return len(c.violations) < maxPairs
	})
}

// knowsAll tells whether a field from a newer version is an error: for people, who
// would believe it was heeded. Machines are upgraded one by one and must get on.
func (c *checker) knowsAll() bool {
	return !strings.HasPrefix(c.procedure, "/"+tarnv1connect.AgentServiceName+"/") &&
		!strings.HasPrefix(c.procedure, "/"+tarnv1connect.OperatorServiceName+"/")
}

func (c *checker) value(name string, field protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch field.Kind() {
	case protoreflect.StringKind:
		c.text(name, v.String(), c.limitOf(field), c.prose[field.Name()])
	case protoreflect.EnumKind:
		if field.Enum().Values().ByNumber(v.Enum()) == nil {
			c.fail(name, "is not one of %s", enumNames(field.Enum()))
		}
	case protoreflect.MessageKind:
		c.nested(name, v.Message())
	}
}

func (c *checker) limitOf(field protoreflect.FieldDescriptor) int {
	if n, ok := c.long[field.Name()]; ok {
		return n
	}
	return maxName
}

// nested checks a message within a request; of the well-known ones, that they
// denote a moment or a span at all.
func (c *checker) nested(name string, m protoreflect.Message) {
	if valid, ok := m.Interface().(interface{ CheckValid() error }); ok {
		if valid.CheckValid() != nil {
			c.fail(name, "is not a valid %s", m.Descriptor().Name())
		}
		return
	}
	c.message(name+".", m)
}

func (c *checker) text(name, s string, limit int, prose bool) {
	if len(s) > limit {
		c.fail(name, "has %d bytes, at most %d are allowed", len(s), limit)
		return
	}
	if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && (!prose || (r != '\n' && r != '\t')) }) {
		c.fail(name, "contains control characters")
	}
}

func (c *checker) pairs(name string, field protoreflect.FieldDescriptor, m protoreflect.Map) {
	if m.Len() > maxPairs {
		c.fail(name, "has %d pairs, at most %d are allowed", m.Len(), maxPairs)
		return
	}
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		if key := k.String(); key == "" || len(key) > maxPairKey {
			c.fail(name, "has a key of %d bytes, 1 to %d are allowed", len(key), maxPairKey)
		} else {
			c.text(name, key, maxPairKey, false)
		}
		if field.MapValue().Kind() == protoreflect.StringKind {
			c.text(name, v.String(), maxPairText, false)
		}
		return true
	})
}

func enumNames(e protoreflect.EnumDescriptor) string {
	var names []string
	for i := range e.Values().Len() {
		if v := e.Values().Get(i); v.Number() != 0 {
			names = append(names, string(v.Name()))
		}
	}
	return strings.Join(names, ", ")
}
