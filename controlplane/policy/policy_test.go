package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func actions() []Action {
	all := roles()
	return []Action{
		{Name: "share:show", Allow: "role:reader or role:member or role:operator", Ceiling: all},
		{Name: "share_replica:promote", Allow: "role:member or role:operator", Ceiling: all},
		{Name: "share_replica:resync", Allow: "role:operator", Ceiling: all},
		{Name: "divergent_copy:purge", Allow: "role:operator", Ceiling: all, Reason: true, Second: true},
		{Name: "host:remove", Allow: "role:operator", Ceiling: []string{RoleOperator}},
	}
}

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text), actions())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBuiltInRules(t *testing.T) {
	p := parse(t, "")
	for action, want := range map[string]string{
		"share:show": "reader member operator", "share_replica:promote": "member operator", "share_replica:resync": "operator",
		"host:remove": "operator", "no:such": "", "": "",
	} {
		var got []string
		for _, role := range append(roles(), "", "agent", "control", "root") {
			if p.Allows(action, Subject{Role: role, User: "u", Project: "p"}) {
				got = append(got, role)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", action, got, want)
		}
	}
	if !p.NeedsReason("divergent_copy:purge") || p.NeedsReason("share:show") {
		t.Error("reasons")
	}
	if p.NeedsSecond("divergent_copy:purge") || !parse(t, "\"divergent_copy:purge\": {second: required}\n").NeedsSecond("divergent_copy:purge") {
		t.Error("second people")
	}
}

func TestFileChangesWhatItNames(t *testing.T) {
	p := parse(t, `
# who may fail over
failover_team: "user:carol or user:7f2c8a4e-0f0c-4f5e-9d3a-000000000001 or role:operator"
"share_replica:promote": "rule:failover_team and not project:frozen"
"share_replica:resync": {allow: "role:operator or (role:member and project:blue)", reason: required}
"share:show": "!"
`)
	for _, c := range []struct {
		action string
		who    Subject
		want   bool
	}{
		{"share_replica:promote", Subject{Role: RoleMember, Name: "carol", Project: "blue"}, true},
		{"share_replica:promote", Subject{Role: RoleMember, Name: "carol", Project: "frozen"}, false},
		{"share_replica:promote", Subject{Role: RoleReader, User: "7f2c8a4e-0f0c-4f5e-9d3a-000000000001"}, true},
		{"share_replica:promote", Subject{Role: RoleMember, User: "x", Project: "blue"}, false},
		{"share_replica:resync", Subject{Role: RoleMember, Project: "blue"}, true},
		{"share_replica:resync", Subject{Role: RoleMember, Project: "red"}, false},
		{"share_replica:resync", Subject{Role: RoleReader, Project: "blue"}, false},
		{"share:show", Subject{Role: RoleOperator}, false},
		{"host:remove", Subject{Role: RoleOperator}, true},
	} {
		if got := p.Allows(c.action, c.who); got != c.want {
			t.Errorf("%s for %+v: %v", c.action, c.who, got)
		}
	}
	if !p.NeedsReason("share_replica:resync") || p.Sum() == parse(t, "").Sum() {
		t.Error("reason or sum")
	}
}

func TestRefusedWithTheLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown action":    {"a: \"@\"\n\"share_replica:destroy\": \"@\"\n", `line 2: unknown action "share_replica:destroy"`},
		"unknown rule":      {"\n\"share:show\": \"rule:nobody\"\n", `line 2: share:show: rule "nobody" does not exist`},
		"unknown role":      {"\"share:show\": \"role:admin\"\n", `line 1: share:show: role "admin" does not exist: reader, member, operator`},
		"unknown check":     {"\"share:show\": \"group:x\"\n", `line 1: share:show: "group:x" is no check`},
		"bare word":         {"\"share:show\": \"everybody\"\n", `"everybody" is no check`},
		"empty":             {"\"share:show\": \"\"\n", "line 1: share:show: rule is empty"},
		"null":              {"\"share:show\":\n", "line 1: share:show: a rule in quotes"},
		"number":            {"\"share:show\": 1\n", "line 1: share:show: a rule in quotes"},
		"list":              {"x: [a]\n", "line 1: x: a rule in quotes"},
		"alias":             {"a: &x \"@\"\n\"share:show\": *x\n", "line 2: share:show: a rule in quotes"},
		"twice":             {"a: \"@\"\n\na: \"!\"\n", `line 3: "a" is in line 1 already`},
		"itself":            {"a: \"rule:b\"\nb: \"rule:a\"\n", "refers to itself"},
		"open":              {"a: \"(@\"\n", "line 1: a: a parenthesis is not closed"},
		"dangling":          {"a: \"@ or\"\n", "line 1: a: rule ends where a check should be"},
		"leftover":          {"a: \"@ @\"\n", `line 1: a: "@" does not belong there`},
		"unknown key":       {"\"share:show\":\n  allow: \"@\"\n  who: x\n", `line 3: unknown key "who"`},
		"reason":            {"\"share:show\": {reason: maybe}\n", `line 1: reason can be "required"`},
		"second":            {"\"divergent_copy:purge\": {second: maybe}\n", `line 1: second can be "required"`},
		"second for nobody": {"\"share:show\": {second: required}\n", "line 1: share:show: no second person"},
		"not a mapping":     {"- a\n", "line 1: a policy is a mapping"},
		"two documents":     {"a: \"@\"\n---\nb: \"@\"\n", "a policy is one document"},
		"not YAML":          {"a: \"@\"\nb: \"\n", "line "},
		"beyond":            {"x: \"@\"\n\n\"host:remove\": \"rule:x\"\n", `line 3: host:remove: can only be given to operator`},
		"beyond, by user":   {"\"host:remove\": \"user:carol\"\n", `add "and role:operator"`},
		"beyond, by denial": {"\"host:remove\": \"not role:operator\"\n", "line 1: host:remove"},
		"too long":          {"a: \"" + strings.Repeat("@ or ", 1000) + "@\"\n", "line 1: a: rule has"},
	} {
		_, err := Parse([]byte(c.text), actions())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	_, err := Parse([]byte("\"x:y\": \"@\"\n\"share:show\": \"role:x\"\n"), actions())
	if err == nil || strings.Count(err.Error(), "line ") != 2 {
		t.Errorf("not every problem is named: %v", err)
	}
}

// TestGiantLaughs: rules that double at each step are refused, in no time.
func TestGiantLaughs(t *testing.T) {
	var b strings.Builder
	b.WriteString("r0: \"@\"\n")
	for i := range 60 {
		fmt.Fprintf(&b, "r%d: \"rule:r%d and rule:r%d\"\n", i+1, i, i)
	}
	begun := time.Now()
	_, err := Parse([]byte(b.String()), actions())
	if err == nil || !strings.Contains(err.Error(), "too many") || time.Since(begun) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
}

func TestCommentsOnlyAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte("# nothing yet\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, actions()); err != nil {
		t.Error(err)
	}
	if _, err := Load(path+".none", actions()); err == nil {
		t.Error("a file that is not there was read")
	}
	if _, err := Default([]Action{{Name: "a:b", Allow: "@", Ceiling: []string{RoleOperator}}}); err == nil || !strings.Contains(err.Error(), "built-in") {
		t.Errorf("a built-in rule beyond its ceiling: %v", err)
	}
}

// TestCeilingHoldsWhateverTheFileSays: of any rule that is taken, nobody below the
// ceiling gets in.
func TestCeilingHoldsWhateverTheFileSays(t *testing.T) {
	word := rapid.SampledFrom([]string{"@", "!", "role:member", "role:operator", "user:u", "project:p", "not", "and", "or", "(", ")", "rule:r"})
	rapid.Check(t, func(t *rapid.T) {
		rule := strings.Join(rapid.SliceOfN(word, 1, 12).Draw(t, "words"), " ")
		p, err := Parse([]byte("r: \"role:member or user:u\"\n\"host:remove\": \""+rule+"\"\n"), actions())
		if err != nil {
			return
		}
		for _, who := range []Subject{{Role: RoleMember, User: "u", Project: "p"}, {Role: RoleReader}, {}} {
			if p.Allows("host:remove", who) {
				t.Fatalf("%q lets %+v in", rule, who)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("\"share:show\": \"role:reader and (not user:x or @)\"\n")
	f.Add("a: {allow: \"@\"}\n---\n")
	f.Add("a: &a [*a]\n")
	f.Add("\"host:remove\": {allow: \"!\", reason: required}\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse([]byte(text), actions())
		if err != nil {
			if !strings.Contains(err.Error(), "line ") && !strings.Contains(err.Error(), "above") {
				t.Errorf("%q: no line in %v", text, err)
			}
			return
		}
		if p.Allows("host:remove", Subject{Role: RoleMember, User: "u", Project: "p"}) || p.Allows("no:such", Subject{Role: RoleOperator}) {
			t.Errorf("%q gives too much", text)
		}
	})
}
