package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"tarn/cmd/tarn/dev"
)

// scrape is a node's /metrics page.
func (c *cluster) scrape(node string) string {
	c.t.Helper()
	n, err := c.Node(node)
	if err != nil {
		c.t.Fatal(err)
	}
	var page string
	c.eventually(15*time.Second, node+" answers a scrape", func(ctx context.Context) (err error) {
		page, err = get(ctx, "http://"+n.Admin()+"/metrics")
		return err
	})
	return page
}

func get(ctx context.Context, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.300s", address, answer.Status, body)
	}
	return string(body), err
}

// sumOf adds up the samples of a metric that carry a label.
func sumOf(page, name, label string) (sum float64) {
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, name+"{") || !strings.Contains(line, label) {
			continue
		}
		fields := strings.Fields(line)
		if v, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil {
			sum += v
		}
	}
	return sum
}

// absentInHealth are metrics of rules and dashboards that a cluster in which
// nothing went wrong has no series of, each with the reason.
func absentInHealth() map[string]string {
	return map[string]string{
		"tarn_step_errors_total":                        "counts by class of failure; no step has failed",
		"tarn_divergence_total":                         "counts by share; no history has forked",
		"tarn_transfer_expected_bytes":                  "only while a stream runs",
		"tarn_retention_keep_seconds":                   "only for types with tarn:keep",
		"tarn_retention_oldest_timestamp_seconds":       "only where the policy keeps snapshots",
		"tarn_transfer_done_bytes":                      "only while a stream runs",
		"tarn_transfer_last_progress_timestamp_seconds": "only while a stream runs, or once one has",
		"tarn_stonith_total":                            "counts by result; nothing had to be switched off",
		"tarn_auto_failovers_blocked":                   "only of shares that ought to fail over and cannot",
		"tarn_share_unknown_replicas":                   "only of shares that a restore left undecided",
		"tarn_gossip_refused_total":                     "counts by reason; nobody foreign knocked at the ring",
		"up":                                            "made by Prometheus itself",
	}
}

// Every name that alerts and dashboards use is on the pages of a real cluster, and
// a real Prometheus evaluates every expression on them without an error.
func TestMetricsAgainstRules(t *testing.T) {
	c := start(t, dev.Options{Servers: 3, Agents: 2, Zones: 2})
	share := c.replicatedShare("web")
	c.must("replica", "promote", "web/agent2@dir#tank", "--wait")
	c.eventually(time.Minute, "three replicas are well", func(ctx context.Context) error { return c.allWell(ctx, 3) })
	names := map[string]bool{}
	for _, n := range c.Nodes() {
		page := c.scrape(n.Name)
		promtoolCheck(t, n.Name, page)
		for line := range strings.Lines(page) {
			if end := strings.IndexAny(line, "{ "); end > 0 && line[0] != '#' {
				names[line[:end]] = true
			}
		}
		if n.Kind == dev.Agent && !strings.Contains(page, share) {
			t.Errorf("the page of %s does not know share %s", n.Name, share)
		}
	}
	expressions := c.expressions(t)
	reasons := absentInHealth()
	for _, e := range expressions {
		for _, name := range metricNames.FindAllString(e.expr, -1) {
			if _, excused := reasons[name]; !names[name] && !excused && !strings.HasPrefix(name, "replica:") {
				t.Errorf("%s uses %s, which no process of a running cluster has", e.where, name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		if !names[name] {
			t.Logf("not on any page: %s: %s", name, reasons[name])
		}
	}
	c.evaluate(t, expressions)
}

var metricNames = regexp.MustCompile(`\b(?:replica:tarn|tarn|go|process)_[a-z0-9_:]+|\bup\b`)

func promtoolCheck(t *testing.T, node, page string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		requireAll(t, "promtool is not installed (Debian package prometheus)")
	}
	cmd := exec.CommandContext(t.Context(), path, "check", "metrics")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(strings.TrimSpace(string(out))) > 0 {
		t.Errorf("promtool check metrics of %s: %v\n%s", node, err, out)
	}
}

type expression struct{ where, expr string }

// expressions are those of alerts, records and panels, with a dashboard's variables filled in.
func (c *cluster) expressions(t *testing.T) []expression {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Record, Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal([]byte(readText(t, "../../metrics/rules/tarn.rules.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	var all []expression
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all = append(all, expression{"rule " + r.Alert + r.Record, r.Expr})
		}
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(readText(t, "../../metrics/dashboards/tarn.json")), &board); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$share", ".*", "$__rate_interval", "30s")
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			all = append(all, expression{"panel " + p.Title, variables.Replace(target.Expr)})
		}
	}
	if len(all) < 20 {
		t.Fatalf("found only %d expressions", len(all))
	}
	return all
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// evaluate lets Prometheus scrape the cluster and asks it for every expression.
func (c *cluster) evaluate(t *testing.T, expressions []expression) {
	t.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil {
		requireAll(t, "prometheus is not installed (Debian package prometheus)")
	}
	p := c.prometheus(t, path)
	c.eventually(time.Minute, "Prometheus has scraped every node and run every rule", p.ready)
	for _, e := range expressions {
		var answer struct{ Status, Error string }
		if err := p.ask(t.Context(), "/api/v1/query?query="+url.QueryEscape(e.expr), &answer); err != nil || answer.Status != "success" {
			t.Errorf("%s: %v %s\n%s", e.where, err, answer.Error, e.expr)
		}
	}
	// An alert may have begun before the first scrape was in.
	c.eventually(15*time.Second, "no alert in a cluster that is well", p.quiet)
}

type prometheus struct {
	base    string
	targets int
}

func (c *cluster) prometheus(t *testing.T, path string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	// The same rules, looked at often enough for a test.
	rules := strings.ReplaceAll(readText(t, "../../metrics/rules/tarn.rules.yml"), "interval: 15s", "interval: 1s")
	writeFile(t, filepath.Join(dir, "tarn.rules.yml"), rules)
	config, targets := "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files: [tarn.rules.yml]\nscrape_configs:\n", 0
	for _, kind := range []dev.Kind{dev.Control, dev.Agent} {
		var addresses []string
		for _, n := range c.Nodes() {
			if n.Kind == kind {
				addresses = append(addresses, strconv.Quote(n.Admin()))
				targets++
			}
		}
		config += fmt.Sprintf("  - {job_name: tarn-%s, static_configs: [{targets: [%s]}]}\n", kind, strings.Join(addresses, ", "))
	}
	writeFile(t, filepath.Join(dir, "prometheus.yml"), config)
	address := freeAddress(t)
	cmd := exec.Command(path, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed is what it says
	})
	return &prometheus{"http://" + address, targets}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (p *prometheus) ask(ctx context.Context, path string, into any) error {
	text, err := get(ctx, p.base+path)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), into)
}

type ruleState struct {
	Name, Health, LastError, State, Type string
}

func (p *prometheus) rules(ctx context.Context) ([]ruleState, error) {
	var answer struct {
		Data struct {
			Groups []struct{ Rules []ruleState }
		}
	}
	if err := p.ask(ctx, "/api/v1/rules", &answer); err != nil {
		return nil, err
	}
	var all []ruleState
	for _, g := range answer.Data.Groups {
		all = append(all, g.Rules...)
	}
	return all, nil
}

// ready is nil when all targets are up and all rules were evaluated without an error.
func (p *prometheus) ready(ctx context.Context) error {
	var up struct {
		Data struct {
			Result []struct{ Value []any }
		}
	}
	if err := p.ask(ctx, "/api/v1/query?query="+url.QueryEscape("sum(up)"), &up); err != nil {
		return err
	}
	if len(up.Data.Result) != 1 || fmt.Sprint(up.Data.Result[0].Value[1]) != strconv.Itoa(p.targets) {
		return fmt.Errorf("targets that are up: %v of %d", up.Data.Result, p.targets)
	}
	rules, err := p.rules(ctx)
	if err != nil || len(rules) == 0 {
		return fmt.Errorf("%d rules: %w", len(rules), err)
	}
	for _, r := range rules {
		if r.Health != "ok" {
			return fmt.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError)
		}
	}
	return nil
}

// quiet is nil when no alert fires or is about to.
func (p *prometheus) quiet(ctx context.Context) error {
	rules, err := p.rules(ctx)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.Type == "alerting" && r.State != "inactive" {
			return fmt.Errorf("alert %s is %s", r.Name, r.State)
		}
	}
	return nil
}
