package controlplane_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"tarn/controlplane"
	"tarn/controlplane/audit"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestPolicyFileIsTakenUp changes a node's policy while it runs: the new rules hold
// without a restart, a wrong file changes nothing, and the audit file knows of each.
func TestPolicyFileIsTakenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		// As an editor does: the node never sees half a file.
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("# the built-in rules\n")
	h := newHarness(t, 1, func(cfg *controlplane.Config) { cfg.PolicyFile = path })
	h.leader()
	op := h.operator()
	hosts := func() error {
		_, err := op.Hosts.ListHosts(context.Background(), &tarnv1.ListHostsRequest{})
		return err
	}
	if err := hosts(); err != nil {
		t.Fatal(err)
	}
	write("\"host:list\": \"!\"\n")
	h.await("the new rule", func() bool { return connect.CodeOf(hosts()) == connect.CodePermissionDenied })
	write("\"host:liszt\": \"@\" # a wrong file leaves the last good one in force\n")
	write("\"host:list\": \"role:operator\" # and a good one is taken up after it\n")
	h.await("the next rule", func() bool { return hosts() == nil })
	text, err := os.ReadFile(filepath.Join(controlplane.AuditDir(h.nodes[0].cfg.DataDir), audit.FileName))
	if err != nil || strings.Count(string(text), `"kind":"policy"`) < 3 {
		t.Errorf("noted: %s, %v", text, err)
	}
}

func TestNodeRefusesAWrongPolicy(t *testing.T) {
	h := newHarness(t, 0)
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte("\n\"share:destroy\": \"@\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := controlplane.Config{DataDir: t.TempDir(), Advertise: "127.0.0.1:1", PolicyFile: path}
	h.certify(cfg.DataDir)
	if _, err := controlplane.New(cfg); err == nil || !strings.Contains(err.Error(), `line 2: unknown action "share:destroy"`) {
		t.Errorf("started with it: %v", err)
	}
	if err := controlplane.CheckPolicy(path); err == nil {
		t.Error("the check is content")
	}
}
