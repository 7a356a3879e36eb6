package privsep

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"tarn/agent/export"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// noted is an exporter that remembers what it was asked for.
type noted struct{ asked []string }

func (n *noted) Apply(_ context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	n.asked = append(n.asked, "apply "+mode(readOnly)+" "+mountpoint)
	reported := []*tarnv1.ReportedExport{{Path: "host:" + mountpoint}}
	var rules []*tarnv1.RuleError
	for _, r := range want.GetRules() {
		rules = append(rules, &tarnv1.RuleError{AccessRuleId: r.GetAccessRuleId()})
	}
	return reported, rules, nil
}

func (n *noted) Remove(_ context.Context, mountpoint string) error {
	n.asked = append(n.asked, "remove "+mountpoint)
	return nil
}

func (n *noted) List(context.Context) ([]export.Export, error) {
	n.asked = append(n.asked, "list")
	return []export.Export{{Mountpoint: "/srv/fast/a"}}, nil
}

func exporting(t *testing.T) (Client, *noted) {
	n := &noted{}
	return serve(t, Config{Policy: policy(), UID: uint32(os.Getuid()), Exporter: n, Logger: testLog(t)}), n
}

// What the agent asks about its replicas comes through, and the answers back.
func TestExportsComeThrough(t *testing.T) {
	c, n := exporting(t)
	want := &tarnv1.Exports{Rules: []*tarnv1.ExportRule{{AccessRuleId: "r"}}}
	reported, rules, err := c.Apply(t.Context(), "/srv/fast/a", want, true)
	if err != nil || len(reported) != 1 || reported[0].GetPath() != "host:/srv/fast/a" || len(rules) != 1 || rules[0].GetAccessRuleId() != "r" {
		t.Errorf("%v, %v, %v", reported, rules, err)
	}
	if err := c.Remove(t.Context(), "/tank/tarn/0198f0aa-1111-7222-8333-444455556666"); err != nil {
		t.Error(err)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Mountpoint != "/srv/fast/a" {
		t.Errorf("%v, %v", list, err)
	}
	if got := strings.Join(n.asked, ", "); got != "apply ro /srv/fast/a, remove /tank/tarn/0198f0aa-1111-7222-8333-444455556666, list" {
		t.Errorf("the server heard: %s", got)
	}
}

// Directories that are no replica's do not get to the server, nor anything else about one.
func TestExportsAreRefused(t *testing.T) {
	c, n := exporting(t)
	for _, dir := range []string{
		"", "/", "/etc", "/tank", "/tank/tarn", "/srv/fast", "/srv", "/srv/faster/a", "/srv/fast/", "/srv/fast/a/", "/srv/fast/../fast/a",
		"/srv/fast/a/etc", "/tank/tarn/a/b", "/srv/fast/.divergent", "/srv/fast/..", "/srv/fast/-a", "srv/fast/a", "/srv/fast/a\n/etc", "/srv/fast/a b", "/srv/fast/" + strings.Repeat("a", 300),
	} {
		_, _, err := c.Apply(t.Context(), dir, &tarnv1.Exports{}, false)
		if !errors.Is(err, zfs.ErrPermission) {
			t.Errorf("apply %q: %v", dir, err)
		}
		if err := c.Remove(t.Context(), dir); !errors.Is(err, zfs.ErrPermission) {
			t.Errorf("remove %q: %v", dir, err)
		}
	}
	for _, asked := range []call{
		{Verb: verbApply}, {Verb: verbApply, Args: []string{"rw"}}, {Verb: verbApply, Args: []string{"rw,no_root_squash", "/srv/fast/a"}},
		{Verb: verbApply, Args: []string{"rw", "/srv/fast/a", "/srv/fast/b"}}, {Verb: verbApply, Args: []string{"rw", "/srv/fast/a"}, Exports: []byte("\xff")},
		{Verb: verbRemove}, {Verb: verbRemove, Args: []string{"/srv/fast/a", "/srv/fast/b"}}, {Verb: verbExported, Args: []string{"-a"}},
	} {
		if _, err := c.do(t.Context(), asked); !errors.Is(err, zfs.ErrPermission) {
			t.Errorf("%v: %v", asked, err)
		}
	}
	if len(n.asked) > 0 {
		t.Errorf("the server heard: %v", n.asked)
	}
}

// Whatever is asked, the server hears of mountpoints of single replicas alone.
func FuzzExports(f *testing.F) {
	rules, err := proto.Marshal(&tarnv1.Exports{Rules: []*tarnv1.ExportRule{{AccessRuleId: "r", AccessTo: "10.0.0.0/8"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(verbApply, "rw", "/srv/fast/a", rules)
	f.Add(verbRemove, "/tank/tarn/a", "", []byte(nil))
	f.Add(verbExported, "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, verb, first, second string, exports []byte) {
		if !slices.Contains([]string{verbApply, verbRemove, verbExported}, verb) {
			return
		}
		n := &noted{}
		args := slices.DeleteFunc([]string{first, second}, func(a string) bool { return a == "" })
		_, _, err := NewServer(Config{Policy: policy(), Exporter: n}).exports(t.Context(), call{Verb: verb, Args: args, Exports: exports})
		for _, asked := range n.asked {
			words := strings.Split(asked, " ")
			dir := words[len(words)-1]
			name, ok := strings.CutPrefix(dir, "/srv/fast/")
			if !ok {
				name, ok = strings.CutPrefix(dir, "/tank/tarn/")
			}
			if asked != "list" && (!ok || name == "" || strings.ContainsAny(name, "/\n\x00 ") || name[0] == '.') {
				t.Errorf("%q: %v", asked, err)
			}
		}
	})
}
