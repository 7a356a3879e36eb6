package metrics

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Every alert names the section of docs/operations.md that says what to do, and the section is there.
func TestEveryAlertHasARunbook(t *testing.T) {
	rules, err := os.ReadFile("rules/tarn.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `json:"alert"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.Unmarshal(rules, &file); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(doc), -1) {
		anchors[strings.ReplaceAll(strings.ToLower(heading[1]), " ", "-")] = true
	}
	const page = "file:///usr/share/doc/tarn/operations.md#"
	alerts := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts[r.Alert] = true
			anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], page)
			if !ok || anchor != strings.ToLower(r.Alert) || !anchors[anchor] {
				t.Errorf("alert %s: runbook_url is %q, which is no section of docs/operations.md", r.Alert, r.Annotations["runbook_url"])
			}
		}
	}
	if len(alerts) < 20 {
		t.Errorf("only %d alerts were found", len(alerts))
	}
	for anchor := range anchors {
		if name, ok := strings.CutPrefix(anchor, "tarn"); ok && name != "" {
			known := false
			for a := range alerts {
				known = known || strings.ToLower(a) == anchor
			}
			if !known {
				t.Errorf("section %s is of no alert", anchor)
			}
		}
	}
	for _, link := range regexp.MustCompile(`\]\(#([a-z0-9-]+)\)`).FindAllStringSubmatch(string(doc), -1) {
		if !anchors[link[1]] {
			t.Errorf("link to %s, which is no section", link[1])
		}
	}
}
