package api

import (
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"tarn/raftfsm"
)

// TestTablesAreComplete wants each procedure to have a grant and each request type a rule.
func TestTablesAreComplete(t *testing.T) {
	table, rules := methods(), newRules()
	known := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("tarn.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				procedure := "/" + string(s.FullName()) + "/" + string(m.Name())
				known[procedure] = true
				if row, ok := table[procedure]; !ok || row.machines == 0 && row.action == "" {
					t.Errorf("nobody may call %s", procedure)
				}
				if rules.byType[m.Input().FullName()] == nil {
					t.Errorf("no rule for %s", m.Input().FullName())
				}
				if m.IsStreamingClient() || m.IsStreamingServer() {
					t.Errorf("%s streams: the interceptors refuse it", procedure)
				}
			}
		}
		return true
	})
	for procedure := range table {
		if !known[procedure] {
			t.Errorf("the table has %s, which does not exist", procedure)
		}
	}
}

func TestCanonicalClient(t *testing.T) {
	for given, want := range map[string]string{
		"192.0.2.7":           "192.0.2.7",
		"192.0.2.7/32":        "192.0.2.7",
		"192.0.2.0/24":        "192.0.2.0/24",
		"0.0.0.0/0":           "0.0.0.0/0",
		"::/0":                "::/0",
		"2001:DB8::0:1":       "2001:db8::1",
		"2001:db8::/32":       "2001:db8::/32",
		"2001:db8::1/128":     "2001:db8::1",
		"::ffff:192.0.2.7":    "192.0.2.7",
		"":                    "",
		"0.0.0.0":             "",
		"::":                  "",
		"*":                   "",
		"host.example":        "",
		"@netgroup":           "",
		"192.0.2.7/24":        "",
		"192.0.2.0/33":        "",
		"192.0.2":             "",
		"192.0.02.1":          "",
		"fe80::1%eth0":        "",
		"224.0.0.1":           "",
		"::ffff:192.0.2.0/96": "",
		"192.0.2.7 ":          "",
		"192.0.2.7(rw)":       "",
		"-o":                  "",
	} {
		got, ok := canonicalClient(given)
		if ok != (want != "") || (ok && got != want) {
			t.Errorf("%q: %q, %v; want %q", given, got, ok, want)
		}
	}
}

func FuzzCanonicalClient(f *testing.F) {
	f.Add("192.0.2.0/24")
	f.Add("::ffff:1.2.3.4/120")
	f.Fuzz(func(t *testing.T, s string) {
		one, ok := canonicalClient(s)
		if !ok {
			return
		}
		if two, ok := canonicalClient(one); !ok || one != two {
			t.Errorf("%q: %q is not its own canonical form: %q, %v", s, one, two, ok)
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	f.Add(cursor{number: 5, text: "n", id: "x"}.token())
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCursor(s)
		if err != nil {
			return
		}
		if again, err := parseCursor(c.token()); err != nil || again != c {
			t.Errorf("%q: %+v became %+v, %v", s, c, again, err)
		}
	})
}

// TestInternalErrorsStayInside wants the text of an unforeseen error in no answer.
func TestInternalErrorsStayInside(t *testing.T) {
	for _, err := range []error{
		errors.New("canary"), &panicError{value: "canary"}, &raftfsm.Error{Code: 99, Message: "canary"},
	} {
		got := toConnect(err, "req-1")
		if got.Code() != connect.CodeInternal || errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
		for _, text := range []string{got.Error(), got.Message()} {
			if len(text) == 0 || strings.Contains(text, "canary") {
				t.Errorf("answer %q", text)
			}
		}
	}
}

// FuzzRequest feeds any bytes to the validation of any method: no panic, and what
// passes has no text that could be an option or break out of a line.
func FuzzRequest(f *testing.F) {
	var types []protoreflect.MessageType
	var procedures []string
	protoregistry.GlobalFiles.RangeFilesByPackage("tarn.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
				if err != nil {
					f.Fatal(err)
				}
				types = append(types, mt)
				procedures = append(procedures, "/"+string(s.FullName())+"/"+string(m.Name()))
			}
		}
		return true
	})
	rules := newRules()
	f.Add(uint16(0), []byte{})
	f.Add(uint16(5), []byte("\x0a\x02-o"))
	f.Fuzz(func(t *testing.T, which uint16, data []byte) {
		i := int(which) % len(types)
		msg := types[i].New().Interface()
		if err := proto.Unmarshal(data, msg); err != nil {
			return
		}
		_ = ways(msg)
		if err := rules.check(procedures[i], msg); err != nil {
			if toConnect(err, "").Code() != connect.CodeInvalidArgument {
				t.Errorf("%s: %v", procedures[i], err)
			}
			return
		}
		if id, ok := msg.(interface{ GetId() string }); ok && strings.ContainsAny(id.GetId(), "\x00\n\r") {
			t.Errorf("%s: id %q passes", procedures[i], id.GetId())
		}
	})
}
