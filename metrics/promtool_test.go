package metrics

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"
)

// promtool runs Debian's promtool, or skips saying so. TARN_REQUIRE_ALL=1 makes
// its absence a failure.
func promtool(t *testing.T, dir, stdin string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("TARN_REQUIRE_ALL") == "1" {
			t.Fatal("promtool is required and not installed (Debian package prometheus)")
		}
		t.Skip("SKIPPED: promtool is not installed (Debian package prometheus)")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func exposition(t *testing.T, reg prometheus.Gatherer) string {
	t.Helper()
	rec := httptest.NewRecorder()
	Handler(reg).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("scrape answered %d: %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func TestPromtoolAcceptsEveryMetric(t *testing.T) {
	for name, reg := range map[string]prometheus.Gatherer{"controlplane": filled(t), "agent": filledAgent(t)} {
		t.Run(name, func(t *testing.T) { promtool(t, ".", exposition(t, reg), "check", "metrics") })
	}
}

func TestPromtoolAcceptsTheRules(t *testing.T) {
	promtool(t, "rules", "", "check", "rules", "tarn.rules.yml")
}

func TestRulesFireWhenTheyShould(t *testing.T) {
	tests, err := filepath.Glob("rules/*_test.yml")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no rule tests: %v", err)
	}
	for _, file := range tests {
		t.Run(filepath.Base(file), func(t *testing.T) { promtool(t, "rules", "", "test", "rules", filepath.Base(file)) })
	}
}

// known are the names of both processes, of the rules' own records, and of
// Prometheus itself.
func known(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{"up": true}
	for _, reg := range []prometheus.Gatherer{filled(t), filledAgent(t)} {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			names[f.GetName()] = true
		}
	}
	for _, r := range rules(t) {
		if r.Record != "" {
			names[r.Record] = true
		}
	}
	return names
}

type rule struct{ Record, Alert, Expr string }

func rules(t *testing.T) []rule {
	t.Helper()
	data, err := os.ReadFile("rules/tarn.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

var metricName = regexp.MustCompile(`\b(?:replica:tarn|tarn|go|process)_[a-z0-9_:]+|\bup\b`)

// check reports names in expr that no registry holds.
func check(t *testing.T, where, expr string, names map[string]bool) {
	t.Helper()
	found := metricName.FindAllString(expr, -1)
	if len(found) == 0 {
		t.Errorf("%s: no metric in %q", where, expr)
	}
	for _, name := range found {
		base := name
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			base = strings.TrimSuffix(base, suffix)
		}
		if !names[name] && !names[base] {
			t.Errorf("%s uses %s, which no registry holds", where, name)
		}
	}
}

func TestRulesUseOnlyOurNames(t *testing.T) {
	names := known(t)
	for _, r := range rules(t) {
		check(t, r.Alert+r.Record, r.Expr, names)
	}
}

func TestEveryAlertIsTested(t *testing.T) {
	data, err := os.ReadFile("rules/tarn_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules(t) {
		if r.Alert != "" && !strings.Contains(string(data), "alertname: "+r.Alert+"\n") {
			t.Errorf("alert %s has no test in which it fires", r.Alert)
		}
	}
}

func TestDashboardUsesOnlyOurNames(t *testing.T) {
	data, err := os.ReadFile("dashboards/tarn.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	names, ids := known(t), []int{}
	for _, p := range board.Panels {
		if slices.Contains(ids, p.ID) {
			t.Errorf("panel id %d is taken twice", p.ID)
		}
		ids = append(ids, p.ID)
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			check(t, p.Title, target.Expr, names)
		}
	}
}

// Dashboards' expressions are also parsed by promtool, as rules.
func TestDashboardExpressionsParse(t *testing.T) {
	data, err := os.ReadFile("dashboards/tarn.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	type record struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var records []record
	replace := strings.NewReplacer("$share", "s", "$__rate_interval", "1m")
	for _, p := range board.Panels {
		for i, target := range p.Targets {
			records = append(records, record{"panel:expr" + strings.Repeat("x", len(records)+i), replace.Replace(target.Expr)})
		}
	}
	out, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": records}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, ".", "", "check", "rules", file)
}
