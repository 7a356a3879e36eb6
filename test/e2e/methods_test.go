package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// curl calls the API as curl does: JSON over HTTP with a client certificate.
type curl struct {
	t    *testing.T
	base string
	http *http.Client
}

// curl calls the first control node with the certificate in a directory below pki.
func (c *cluster) curl(who string) curl {
	t := c.t
	t.Helper()
	material, err := identity.LoadMaterial(filepath.Join(c.Dir(), "pki", who))
	if err != nil {
		t.Fatal(err)
	}
	config := material.ClientConfig(identity.RoleControl)
	config.NextProtos = nil
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return curl{t, "https://" + c.Nodes()[0].Address(), &http.Client{Transport: transport}}
}

// anonymous has no certificate of its own.
func (u curl) anonymous() curl {
	transport := u.http.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates, transport.TLSClientConfig.GetClientCertificate = nil, nil
	u.t.Cleanup(transport.CloseIdleConnections)
	return curl{u.t, u.base, &http.Client{Transport: transport}}
}

// problem is an error of the API in JSON.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Details []struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"details"`
}

func (u curl) post(path, body string) (status int, p problem) {
	u.t.Helper()
	req, err := http.NewRequestWithContext(u.t.Context(), http.MethodPost, u.base+path, bytes.NewReader([]byte(body)))
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	answer, err := u.http.Do(req)
	if err != nil {
		u.t.Fatalf("%s: %v", path, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		if err := json.Unmarshal(text, &p); err != nil {
			u.t.Fatalf("%s answered %d with %q", path, answer.StatusCode, text)
		}
	}
	return answer.StatusCode, p
}

// violation is the rule that an error says a field broke, "" for none.
func (p problem) violation(field string) string {
	for _, d := range p.Details {
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(d.Value, "="))
		var v tarnv1.FieldViolation
		if err == nil && strings.HasSuffix(d.Type, "tarn.v1.FieldViolation") && proto.Unmarshal(raw, &v) == nil && v.GetField() == field {
			return v.GetRule()
		}
	}
	return ""
}

func methods() []protoreflect.MethodDescriptor {
	var all []protoreflect.MethodDescriptor
	for _, file := range []protoreflect.FileDescriptor{
		tarnv1.File_tarn_v1_shares_proto, tarnv1.File_tarn_v1_operator_proto, tarnv1.File_tarn_v1_agent_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				all = append(all, service.Methods().Get(j))
			}
		}
	}
	return all
}

func path(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

// everyMethodRefuses gives each method of the API texts that are too long, values
// that do not exist, rubbish, and no certificate.
func (c *cluster) everyMethodRefuses(before string) {
	t := c.t
	callers := map[string]curl{"operator": c.curl("operator"), "agent": c.curl("agent1"), "control": c.curl("control1")}
	stranger := callers["operator"].anonymous()
	tried := 0
	for _, m := range methods() {
		caller := callers["operator"]
		switch {
		case m.Parent().Name() == "AgentService":
			caller = callers["agent"]
		case m.Name() == "Hello", m.Name() == "ExchangeGossip":
			caller = callers["control"]
		}
		tried += caller.refusesFields(m)
		caller.refusesRubbish(m)
		if m.Parent().Name() != "JoinService" {
			if status, p := stranger.post(path(m), "{}"); status != http.StatusUnauthorized || p.Code != "unauthenticated" {
				t.Errorf("%s without a certificate: %d %s", path(m), status, p.Code)
			}
		}
	}
	t.Logf("%d methods, %d fields", len(methods()), tried)
	if tried < 100 {
		t.Errorf("only %d fields were tried", tried)
	}
	c.unchanged(before)
}

// refusesFields breaks one field of the request at a time; the answer names it.
func (u curl) refusesFields(m protoreflect.MethodDescriptor) (tried int) {
	u.t.Helper()
	fields := m.Input().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		value, ok := badValue(f)
		if !ok {
			continue
		}
		tried++
		body, err := json.Marshal(map[string]any{string(f.Name()): value})
		if err != nil {
			u.t.Fatal(err)
		}
		status, p := u.post(path(m), string(body))
		if status != http.StatusBadRequest || p.Code != "invalid_argument" || p.violation(violated(f)) == "" {
			u.t.Errorf("%s with a bad %s: %d %s %.300q", path(m), f.Name(), status, p.Code, p.Message)
		}
	}
	return tried
}

// violated is how an answer names the broken field: of a list, its first element.
func violated(f protoreflect.FieldDescriptor) string {
	if f.IsList() {
		return string(f.Name()) + "[0]"
	}
	return string(f.Name())
}

func badValue(f protoreflect.FieldDescriptor) (value any, ok bool) {
	switch {
	case f.IsMap():
		if f.MapKey().Kind() == protoreflect.StringKind && f.MapValue().Kind() == protoreflect.StringKind {
			return map[string]string{strings.Repeat("k", 10_000): "v"}, true
		}
		return nil, false
	case f.Kind() == protoreflect.StringKind:
		value = strings.Repeat("a", 10_000)
	case f.Kind() == protoreflect.EnumKind:
		value = 4711
	default:
		return nil, false
	}
	if f.IsList() {
		return []any{value}, true
	}
	return value, true
}

// refusesRubbish sends what is no request at all.
func (u curl) refusesRubbish(m protoreflect.MethodDescriptor) {
	u.t.Helper()
	for _, body := range []string{"{", "[]", "\xff\xfe", `{"no_such_field": 1}`} {
		if body[0] == '{' && len(body) > 1 && slices.Contains(lenient(), string(m.Parent().Name())) {
			continue
		}
		status, p := u.post(path(m), body)
		if status != http.StatusBadRequest || p.Code != "invalid_argument" {
			u.t.Errorf("%s took %q: %d %s %s", path(m), body, status, p.Code, p.Message)
		}
	}
}

// lenient services are called by machines, which are upgraded one by one: they
// pass over fields that they do not know.
func lenient() []string { return []string{"AgentService", "OperatorService", "JoinService"} }
