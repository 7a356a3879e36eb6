package api_test

import (
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// hostile are texts that have opened doors elsewhere.
func hostile() []string {
	return []string{
		"-o", "--force", "@", "a@b#c", "..", "../../etc/passwd", "/etc/passwd", "/dev/sda", "tank/../other", "a b", "a\nb", "a\x00b", ";reboot", "$(reboot)", "`id`",
		"%2e%2e%2f", "\u202egnp", "ａｄｍｉｎ", "a\u0301", "\ufeffx", strings.Repeat("x", 300), "'; DROP TABLE shares; --", "*", "0.0.0.0/0", "::/0", "host(rw,no_root_squash)",
	}
}

// TestHostileTexts puts each text into each text field of each method, as an operator,
// whom no role stops: the answer is a refusal or a record, never a fault of the server.
func TestHostileTexts(t *testing.T) {
	s := newServer(t)
	s.host("one", "az1")
	web := httpClient(t, s.tls(operatorSubject()))
	asked := 0
	for _, m := range methods(t) {
		service := string(m.Parent().Name())
		if service == "AgentService" || service == "JoinService" || m.Name() == "Hello" || m.Name() == "ExchangeGossip" {
			continue // Machines' methods; their fields are checked elsewhere.
		}
		fields := m.Input().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if f.Kind() != protoreflect.StringKind || f.Cardinality() == protoreflect.Repeated {
				continue
			}
			for _, text := range hostile() {
				req := dynamicpb.NewMessage(m.Input())
				req.Set(f, protoreflect.ValueOfString(text))
				asked++
				got := post(t, web, s.addr, procedure(m), req)
				switch got.code {
				case connect.CodeInternal.String(), connect.CodeUnknown.String(), connect.CodeUnimplemented.String():
					t.Errorf("%s.%s = %q: %s %s", m.FullName(), f.Name(), text, got.code, got.message)
				}
			}
		}
	}
	if asked < 1000 {
		t.Errorf("only %d requests", asked)
	}
}

// TestPathTricks (Nomad CVE-2022-24683): no spelling of a path reaches what the plain
// one does not.
func TestPathTricks(t *testing.T) {
	s := newServer(t)
	member := httpClient(t, s.tls(memberSubject("blue")))
	member.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, path := range []string{
		"/tarn.v1.HostService/ListHosts", "//tarn.v1.HostService/ListHosts", "/./tarn.v1.HostService/ListHosts", "/tarn.v1.ShareService/../tarn.v1.HostService/ListHosts",
		"/tarn.v1.HostService//ListHosts", "/tarn.v1.HostService/ListHosts/", "/tarn.v1.HostService%2fListHosts", "/tarn.v1.HostService/ListHosts%00", "/TARN.V1.HOSTSERVICE/LISTHOSTS",
		"/tarn.v1.HostService/ListHosts?x=/tarn.v1.ShareService/ListShares", "/../../etc/passwd", "/debug/pprof/", "/metrics", "/%2e%2e/ca.key",
	} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodPut, "PRI"} {
			req, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.addr, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.URL.Opaque = "//" + s.addr + path
			req.Header.Set("Content-Type", "application/json")
			res, err := member.Do(req)
			if err != nil {
				continue
			}
			res.Body.Close()
			if res.StatusCode < 300 {
				t.Errorf("%s %s: %s", method, path, res.Status)
			}
		}
	}
}

// TestEveryIDIsProbed: every method of people that takes an id of a record is among
// those that are tried with another project's ids.
func TestEveryIDIsProbed(t *testing.T) {
	probed := map[string]bool{}
	for name := range idCalls(t.Context(), newServer(t).member("red")) {
		probed[name.method] = true
	}
	for name := range operatorCalls(t.Context(), newServer(t).member("red")) {
		method, _, _ := strings.Cut(name.method, " ")
		probed[method] = true
	}
	// What names no record of a project, lists that are probed by their filters, and what
	// no policy gives to people (adoption, which names hosts and datasets).
	for _, m := range []string{
		"GetShareType", "ListShares", "ListReplicas", "ListSnapshots", "ListSnapshotInstances", "ListMessages", "GetQuota", "UpdateQuota", "ResetQuota", "UnmanageShare", "UnmanageReplica", "UnmanageSnapshot",
		"ManageShare", "ManageSharePreview", "ManageReplicaPreview", "ManageSnapshot", "ListReplicaExportLocations", "GetDivergentCopy", "PurgeDivergentCopy",
		"ListUnknownReplicas", "AdoptUnknownReplica", "DismissUnknownReplica",
	} {
		probed[m] = true
	}
	for _, m := range methods(t) {
		switch m.Parent().Name() {
		case "ShareService", "ReplicaService", "SnapshotService", "AccessRuleService", "MessageService", "QuotaService":
		default:
			continue
		}
		fields := m.Input().Fields()
		for i := range fields.Len() {
			name := string(fields.Get(i).Name())
			if (name == "id" || strings.HasSuffix(name, "_id")) && name != "op_id" && name != "user_id" && name != "project_id" && !probed[string(m.Name())] {
				t.Errorf("%s takes %s and is not probed with another project's", m.Name(), name)
			}
		}
	}
}
