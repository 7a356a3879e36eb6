package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a policy file, in bytes.
const maxFile = 1 << 20

// Action is something that people can be allowed to do.
type Action struct {
	// Name is resource:verb, as in share_replica:promote.
	Name string
	// Allow is the rule that holds when no file says otherwise.
	Allow string
	// Ceiling are the roles that the action can be given to at all.
	Ceiling []string
	// Reason: a reason for the audit log is required, whatever a file says.
	Reason bool
	// Second: a file may require that a second person agrees.
	Second bool
}

// Policy is a complete set of rules. It is immutable and safe for concurrent use.
type Policy struct {
	actions map[string]settled
	sum     string
}

type settled struct {
	Action
	rule   expr
	reason bool
	second bool
}

// Default returns the policy without a file. An error is a mistake in actions.
func Default(actions []Action) (*Policy, error) { return Parse(nil, actions) }

// Load reads a file. Every problem is in the error, with its line.
func Load(path string, actions []Action) (*Policy, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	p, err := Parse(text, actions)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Parse is Load for the text itself.
func Parse(text []byte, actions []Action) (*Policy, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("policy is above %d bytes", maxFile)
	}
	sum := sha256.Sum256(text)
	p := &Policy{actions: map[string]settled{}, sum: hex.EncodeToString(sum[:])}
	b := &builder{rules: map[string]*entry{}, actions: map[string]*entry{}, known: map[string]Action{}}
	for _, a := range actions {
		b.known[a.Name] = a
		b.actions[a.Name] = &entry{text: a.Allow}
	}
	b.read(text)
	b.parse()
	b.resolve()
	for _, a := range actions {
		e := b.actions[a.Name]
		p.actions[a.Name] = settled{a, e.rule, a.Reason || e.reason, e.second}
		b.checkCeiling(a, e)
	}
	slices.SortStableFunc(b.problems, func(x, y problem) int { return x.line - y.line })
	var all []error
	for _, pr := range b.problems {
		all = append(all, pr)
	}
	if len(all) > 0 {
		return nil, errors.Join(all...)
	}
	return p, nil
}

// Sum is the SHA-256 of the file, in hex, to tell whether nodes follow the same one.
func (p *Policy) Sum() string { return p.sum }

// Allows says whether s may take the action; an action that does not exist nobody may.
func (p *Policy) Allows(action string, s Subject) bool {
	a, ok := p.actions[action]
	if !ok || !slices.Contains(a.Ceiling, s.Role) {
		return false
	}
	v := a.rule.eval(s.Role, &s)
	return v.canHold && !v.canFail
}

// NeedsReason says whether the action has to be justified for the audit log.
func (p *Policy) NeedsReason(action string) bool { return p.actions[action].reason }

// NeedsSecond says whether a second person has to agree to the action.
func (p *Policy) NeedsSecond(action string) bool { return p.actions[action].second }

// problem is a mistake and its line; line 0 is a mistake in the program's own rules.
type problem struct {
	line int
	text string
}

// Error implements error.
func (p problem) Error() string {
	if p.line == 0 {
		return "built-in rules: " + p.text
	}
	return fmt.Sprintf("line %d: %s", p.line, p.text)
}

// entry is one rule on its way from text to tree.
type entry struct {
	line   int
	text   string
	reason bool
	second bool
	rule   expr
	refs   []*named
	// 0 not seen, 1 being resolved, 2 done.
	mark int
	// weight is what one evaluation costs, references and all.
	weight int
}

// maxWeight keeps rules that refer to each other from multiplying without end.
const maxWeight = 100_000

type builder struct {
	rules    map[string]*entry
	actions  map[string]*entry
	known    map[string]Action
	problems []problem
}

func (b *builder) fail(line int, format string, args ...any) {
	b.problems = append(b.problems, problem{line, fmt.Sprintf(format, args...)})
}

// read takes the file apart: a mapping of names to rules. A name with a colon is an
// action, one without a rule to be used as rule:NAME.
func (b *builder) read(text []byte) {
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc, more yaml.Node
	if err := d.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			b.fail(lineOfYAML(err), "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return
	}
	if d.Decode(&more) == nil {
		b.fail(max(1, more.Line), "a policy is one document")
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		if len(doc.Content) == 1 && doc.Content[0].Tag == "!!null" {
			return // Nothing but comments.
		}
		b.fail(max(1, doc.Line), "a policy is a mapping of actions and rules")
		return
	}
	seen := map[string]int{}
	for key, value := range pairs(doc.Content[0]) {
		if key.Kind != yaml.ScalarNode || key.Value == "" {
			b.fail(key.Line, "a name of an action or rule is expected")
			continue
		}
		if first := seen[key.Value]; first != 0 {
			b.fail(key.Line, "%q is in line %d already", key.Value, first)
			continue
		}
		seen[key.Value] = key.Line
		b.entry(key, value)
	}
}

func pairs(m *yaml.Node) func(func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(m.Content); i += 2 {
			if !yield(m.Content[i], m.Content[i+1]) {
				return
			}
		}
	}
}

func (b *builder) entry(key, value *yaml.Node) {
	e := &entry{line: key.Line}
	action := strings.Contains(key.Value, ":")
	if action {
		if _, ok := b.known[key.Value]; !ok {
			b.fail(key.Line, "unknown action %q; tarn config policy lists them", key.Value)
			return
		}
		e.text = b.known[key.Value].Allow
	}
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag == "!!str":
		e.text = value.Value
	case value.Kind == yaml.MappingNode && action:
		b.detailed(e, b.known[key.Value], value)
	case action:
		b.fail(value.Line, `%s: a rule in quotes is expected, or a mapping with "allow" and "reason"`, key.Value)
		return
	default:
		b.fail(value.Line, "%s: a rule in quotes is expected", key.Value)
		return
	}
	if action {
		b.actions[key.Value] = e
		return
	}
	b.rules[key.Value] = e
}

// detailed reads {allow: "RULE", reason: required, second: required}.
func (b *builder) detailed(e *entry, a Action, m *yaml.Node) {
	for key, value := range pairs(m) {
		switch {
		case key.Value == "allow" && value.Kind == yaml.ScalarNode && value.Tag == "!!str":
			e.text, e.line = value.Value, value.Line
		case key.Value == "reason" && value.Value == "required":
			e.reason = true
		case key.Value == "reason":
			b.fail(value.Line, `reason can be "required"`)
		case key.Value == "second" && value.Value == "required" && a.Second:
			e.second = true
		case key.Value == "second" && !a.Second:
			b.fail(key.Line, "%s: no second person can be asked for it", a.Name)
		case key.Value == "second":
			b.fail(value.Line, `second can be "required"`)
		case key.Value == "allow":
			b.fail(value.Line, "allow: a rule in quotes is expected")
		default:
			b.fail(key.Line, "unknown key %q; allow, reason and second exist", key.Value)
		}
	}
}

func (b *builder) each(visit func(name string, e *entry)) {
	for _, table := range []map[string]*entry{b.rules, b.actions} {
		var names []string
		for name := range table {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			visit(name, table[name])
		}
	}
}

func (b *builder) parse() {
	b.each(func(name string, e *entry) {
		var err error
		if e.rule, e.refs, err = parseRule(e.text); err != nil {
			b.fail(e.line, "%s: %v", name, err)
			e.rule, e.refs = constant(false), nil
		}
	})
}

func (b *builder) resolve() { b.each(b.follow) }

// follow resolves the references of a rule, and those of what it refers to. A rule that
// comes back to itself is nobody's.
func (b *builder) follow(name string, e *entry) {
	if e.mark != 0 {
		return
	}
	e.mark, e.weight = 1, 1+len(e.text)
	for _, ref := range e.refs {
		target, ok := b.rules[ref.name]
		switch {
		case !ok:
			b.fail(e.line, "%s: rule %q does not exist", name, ref.name)
			ref.rule = constant(false)
		case target.mark == 1:
			b.fail(e.line, "%s: rule %q refers to itself", name, ref.name)
			ref.rule = constant(false)
		default:
			b.follow(ref.name, target)
			ref.rule = target.rule
			e.weight += target.weight
		}
		if e.weight > maxWeight {
			b.fail(e.line, "%s: the rules that it refers to are too many", name)
			e.rule, e.weight = constant(false), 1
			break
		}
	}
	e.mark = 2
}

// checkCeiling refuses a rule that would give an action to people who cannot have it:
// ignoring that part in silence would let its author believe otherwise.
func (b *builder) checkCeiling(a Action, e *entry) {
	if e.rule == nil {
		return
	}
	for _, role := range roles() {
		if !slices.Contains(a.Ceiling, role) && e.rule.eval(role, nil).canHold {
			b.fail(e.line, `%s: can only be given to %s, and the rule may hold for role %s: add "and role:%s"`,
				a.Name, strings.Join(a.Ceiling, ", "), role, a.Ceiling[len(a.Ceiling)-1])
			return
		}
	}
}

// lineOfYAML finds the line in the parser's message; it gives it in no other way.
func lineOfYAML(err error) int {
	line := 1
	_, rest, ok := strings.Cut(err.Error(), "line ")
	if ok {
		if _, scanned := fmt.Sscanf(rest, "%d", &line); scanned != nil {
			return 1
		}
	}
	return line
}
