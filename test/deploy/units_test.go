package deploy

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// exposure is the most that systemd-analyze security may find in a unit, in tenths: 0 is
// locked up, 100 is a plain root service.
var exposure = map[string]int{
	"tarn-controlplane.service": 15, "tarn-agent.service": 20, "tarn-helper.service": 50, "tarn-deadman.service": 50,
}

// judgeUnits lets systemd read the installed units, and holds each to its exposure.
func (m *machine) judgeUnits() {
	m.t.Helper()
	units := strings.Fields(m.run("sh", "-c", "ls /usr/lib/systemd/system/tarn-*.service"))
	if out := strings.TrimSpace(m.run("systemd-analyze", append([]string{"verify", "--recursive-errors=no"}, units...)...)); out != "" {
		m.t.Errorf("systemd-analyze verify: %s", out)
	}
	for _, u := range units {
		name := filepath.Base(u)
		limit, known := exposure[name]
		if !known {
			continue
		}
		out, err := m.try("systemd-analyze", "security", "--offline=true", "--no-pager", fmt.Sprintf("--threshold=%d", limit), u)
		m.t.Logf("%s: %s", name, out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
		if err != nil {
			m.t.Errorf("%s is more exposed than %d: %v", name, limit, err)
		}
	}
}

// What parseUnit gives is what TestFreshMachine runs.
func TestParseUnit(t *testing.T) {
	got := parseUnit("# c\n[Unit]\nA=1\n[Service]\nB=2\nB=3=4\n")
	if fmt.Sprint(got) != "map[Service:map[B:[2 3=4]] Unit:map[A:[1]]]" {
		t.Errorf("%v", got)
	}
}
