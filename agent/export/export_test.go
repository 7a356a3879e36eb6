package export

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"

	"github.com/google/go-cmp/cmp"
)

const (
	rw = tarnv1.AccessLevel_ACCESS_LEVEL_RW
	ro = tarnv1.AccessLevel_ACCESS_LEVEL_RO
)

func rule(id, to string, level tarnv1.AccessLevel) *tarnv1.ExportRule {
	return &tarnv1.ExportRule{AccessRuleId: id, AccessTo: to, AccessLevel: level}
}

func open(t *testing.T, file string) *Directory {
	t.Helper()
	d, err := NewDirectory(DirectoryConfig{File: file, Host: "127.0.0.21"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func apply(t *testing.T, d *Directory, mountpoint string, readOnly bool, rules ...*tarnv1.ExportRule) []*tarnv1.RuleError {
	t.Helper()
	paths, refused, err := d.Apply(t.Context(), mountpoint, &tarnv1.Exports{Revision: 7, Rules: rules, Fsid: "f"}, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) != 1 || paths[0].GetPath() != "127.0.0.21:"+mountpoint || !paths[0].GetPreferred() {
		t.Errorf("export paths %v", paths)
	}
	return refused
}

func listed(t *testing.T, d *Directory) string {
	t.Helper()
	all, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range all {
		b.WriteString(e.Mountpoint)
		for _, c := range e.Clients {
			b.WriteString(" " + c.Prefix.String())
			if c.ReadOnly {
				b.WriteString("(ro)")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestTableSurvivesARestartAndRemoval(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exports.json")
	d := open(t, file)
	apply(t, d, "/p/b", false, rule("1", "10.0.0.0/8", rw), rule("2", "192.168.1.7", ro))
	apply(t, d, "/p/a", true, rule("1", "2001:db8::/32", rw))
	want := "/p/a 2001:db8::/32(ro)\n/p/b 192.168.1.7/32(ro) 10.0.0.0/8\n"
	if got := listed(t, d); got != want {
		t.Errorf("table is\n%swant\n%s", got, want)
	}
	d = open(t, file)
	if got := listed(t, d); got != want {
		t.Errorf("table after a restart is\n%swant\n%s", got, want)
	}
	for range 2 { // twice: idempotent
		if err := d.Remove(t.Context(), "/p/b"); err != nil {
			t.Fatal(err)
		}
	}
	if got := listed(t, open(t, file)); got != "/p/a 2001:db8::/32(ro)\n" {
		t.Errorf("table after removal is %q", got)
	}
}

func TestApplyingTwiceWritesOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exports.json")
	d := open(t, file)
	apply(t, d, "/p/a", false, rule("1", "10.0.0.0/8", rw))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	apply(t, d, "/p/a", false, rule("1", "10.0.0.0/8", rw))
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Error("an unchanged export was written again")
	}
	apply(t, d, "/p/a", false)
	if got := listed(t, open(t, file)); got != "/p/a\n" {
		t.Errorf("without rules the table is %q", got)
	}
}

func TestRulesAreTranslatedOneByOne(t *testing.T) {
	for _, c := range []struct {
		to      string
		level   tarnv1.AccessLevel
		want    string
		refused string
	}{
		{"10.0.0.1", rw, "10.0.0.1/32", ""},
		{"10.0.0.0/8", ro, "10.0.0.0/8(ro)", ""},
		{"0.0.0.0/0", rw, "0.0.0.0/0", ""},
		{"2001:DB8::1", rw, "2001:db8::1/128", ""},
		{"10.0.0.1/8", rw, "", "write 10.0.0.0/8"},
		{"::ffff:10.0.0.1", rw, "", "write 10.0.0.1"},
		{"fe80::1%eth0", rw, "", "neither"},
		{"example.org", rw, "", "neither an IP address nor a prefix"},
		{"", rw, "", "neither"},
		{"*(rw,no_root_squash)", rw, "", "neither"},
		{"10.0.0.1", tarnv1.AccessLevel_ACCESS_LEVEL_UNSPECIFIED, "", "neither rw nor ro"},
	} {
		clients, refused := Clients([]*tarnv1.ExportRule{rule("x", c.to, c.level), rule("y", "10.9.9.9", rw)}, false)
		got := ""
		for _, client := range clients {
			if client.Prefix.String() != "10.9.9.9/32" {
				got = client.Prefix.String() + map[bool]string{true: "(ro)"}[client.ReadOnly]
			}
		}
		if got != c.want {
			t.Errorf("%q became %q, want %q", c.to, got, c.want)
		}
		if c.refused == "" && len(refused) != 0 || c.refused != "" &&
			(len(refused) != 1 || refused[0].GetAccessRuleId() != "x" || !strings.Contains(refused[0].GetMessage(), c.refused)) {
			t.Errorf("%q gave errors %v, want %q", c.to, refused, c.refused)
		}
		if len(clients) == 0 {
			t.Errorf("%q took the good rule with it", c.to)
		}
	}
}

func TestWidestRuleOfAPrefixCounts(t *testing.T) {
	for _, rules := range [][]*tarnv1.ExportRule{
		{rule("1", "10.0.0.1", ro), rule("2", "10.0.0.1/32", rw)},
		{rule("2", "10.0.0.1/32", rw), rule("1", "10.0.0.1", ro)},
	} {
		clients, _ := Clients(rules, false)
		if len(clients) != 1 || clients[0].ReadOnly {
			t.Errorf("clients are %v", clients)
		}
		if clients, _ = Clients(rules, true); len(clients) != 1 || !clients[0].ReadOnly {
			t.Errorf("read-only clients are %v", clients)
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exports.json")
	d := open(t, file)
	for _, mountpoint := range []string{"", "relative", "/", "/a/../b", "/a/"} {
		if _, _, err := d.Apply(t.Context(), mountpoint, nil, false); err == nil {
			t.Errorf("mountpoint %q was accepted", mountpoint)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := d.Apply(ended, "/p/a", nil, false); err == nil {
		t.Error("applied after its context ended")
	}
	for _, content := range []string{"{", `{"version":2}`, `{"version":1,"exports":[{"mountpoint":"x"}]}`} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewDirectory(DirectoryConfig{File: file, Host: "h"}); err == nil {
			t.Errorf("table %q was accepted", content)
		}
	}
	if _, err := NewDirectory(DirectoryConfig{}); err == nil {
		t.Error("empty config was accepted")
	}
}

// A table that cannot be written must not be believed.
func TestFailedWriteChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := open(t, filepath.Join(dir, "exports.json"))
	apply(t, d, "/p/a", false)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), "/p/a"); err == nil {
		t.Error("removal without a table on disk succeeded")
	}
	if got := listed(t, d); got != "/p/a\n" {
		t.Errorf("table is %q", got)
	}
}

func TestIPv6HostIsBracketed(t *testing.T) {
	d, err := NewDirectory(DirectoryConfig{File: filepath.Join(t.TempDir(), "e"), Host: "2001:db8::5"})
	if err != nil {
		t.Fatal(err)
	}
	paths, _, err := d.Apply(t.Context(), "/p/a", nil, true)
	if err != nil || paths[0].GetPath() != "[2001:db8::5]:/p/a" {
		t.Errorf("path %v, %v", paths, err)
	}
}

func FuzzDecodeTable(f *testing.F) {
	f.Add([]byte(`{"version":1,"exports":[{"mountpoint":"/a","clients":[{"prefix":"10.0.0.0/8"}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := decodeTable(data)
		if err != nil {
			return
		}
		out, err := json.Marshal(tableFile{Version: tableVersion, Exports: (&table{rows: rows}).list()})
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := decodeTable(out)
		if err != nil {
			t.Fatalf("what was read cannot be written and read: %v", err)
		}
		if diff := cmp.Diff(len(rows), len(again)); diff != "" {
			t.Fatal(diff)
		}
	})
}
