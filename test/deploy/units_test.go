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
	"tarn-controlplane.service": 14, "tarn-backup.service": 14, "tarn-agent.service": 18, "tarn-helper.service": 48, "tarn-deadman.service": 48,
}

// judgeUnits lets systemd read the installed units, and holds each to its exposure.
func (m *machine) judgeUnits() {
	m.t.Helper()
	units := strings.Fields(m.run("sh", "-c", "ls /usr/lib/systemd/system/tarn-*.service"))
	if out := strings.TrimSpace(m.run("systemd-analyze", append([]string{"verify", "--recursive-errors=no"}, units...)...)); out != "" {
		m.t.Errorf("systemd-analyze verify: %s", out)
	}
	for _, u := range units {
		m.judge(u, exposure[filepath.Base(u)])
	}
	// What the drop-ins add is next to nothing.
	for _, class := range []string{"watchdog", "kernel"} {
		m.run("sh", "-c", `mkdir -p "/tmp/$1" && cat /usr/lib/systemd/system/tarn-deadman.service "/usr/share/doc/tarn/examples/fence-$1.conf" >"/tmp/$1/tarn-deadman.service"`, "sh", class)
		m.judge("/tmp/"+class+"/tarn-deadman.service", exposure["tarn-deadman.service"]+2)
	}
}

// judge holds one unit to its exposure.
func (m *machine) judge(u string, limit int) {
	m.t.Helper()
	out, err := m.try("systemd-analyze", "security", "--offline=true", "--no-pager", fmt.Sprintf("--threshold=%d", limit), u)
	m.t.Logf("%s: %s", u, strings.TrimSpace(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]))
	if err != nil {
		m.t.Errorf("%s is more exposed than %d: %v", u, limit, err)
	}
}

// What parseUnit gives is what TestFreshMachine runs.
func TestParseUnit(t *testing.T) {
	got := parseUnit("# c\n[Unit]\nA=1\n[Service]\nB=2\nB=3=4\n")
	if fmt.Sprint(got) != "map[Service:map[B:[2 3=4]] Unit:map[A:[1]]]" {
		t.Errorf("%v", got)
	}
}
