package controlplane_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"tarn/controlplane"
	"tarn/controlplane/audit"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// TestEveryNodeHasTheAuditLogOnDisk: a decision is in the files of all nodes, the same
// everywhere, and what was refused at a port is in the file of that node.
func TestEveryNodeHasTheAuditLogOnDisk(t *testing.T) {
	h := newHarness(t, 3)
	h.raised()
	op := h.operator()
	kind := readableType(t, op)
	if _, err := op.ShareTypes.DeleteShareType(t.Context(), &tarnv1.GetRequest{Id: kind.GetId()}); err != nil {
		t.Fatal(err)
	}
	all, err := op.Operator.ListAuditRecords(t.Context(), &tarnv1.ListAuditRecordsRequest{ObjectId: kind.GetId()})
	if err != nil || len(all.GetRecords()) != 2 || all.GetRecords()[1].GetAction() != "delete_share_type" {
		t.Fatalf("records %v, %v", all.GetRecords(), err)
	}
	for _, n := range h.nodes {
		dir := controlplane.AuditDir(n.cfg.DataDir)
		h.await("the record on disk", func() bool {
			end, err := audit.VerifyDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			return end.Head().GetSeq() >= all.GetHeadSeq()
		})
	}

	foreign, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	intruder := &harness{t: t, ca: foreign, nodes: h.nodes[:1]}
	if err := intruder.dialRaft(identity.Subject{Role: identity.RoleControl, ID: uuid.NewString()}); err == nil {
		t.Error("a foreign authority's node speaks raft")
	}
	if err := h.dialRaft(identity.Subject{Role: identity.RoleAgent, ID: uuid.NewString()}); err == nil {
		t.Error("an agent speaks raft")
	}
	file := filepath.Join(controlplane.AuditDir(h.nodes[0].cfg.DataDir), audit.FileName)
	for _, want := range []string{`"action":"tls handshake"`, `"action":"raft"`, "spiffe://test/agent/"} {
		h.await(want+" in the file", func() bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), want)
		})
	}
}

// TestNodeGoesOnWithItsAuditFile restarts a node: its file is one unbroken chain.
func TestNodeGoesOnWithItsAuditFile(t *testing.T) {
	h := newHarness(t, 1)
	h.raised()
	first := readableType(t, h.operator())
	h.nodes[0].stop(t)
	cfg := h.nodes[0].cfg
	var err error
	cfg.Socket, cfg.AdminSocket = listen(t, cfg.Listen), socket(t)
	h.nodes = nil
	h.start(cfg)
	h.raised()
	second := readableType(t, h.operator())
	dir := controlplane.AuditDir(cfg.DataDir)
	var seen string
	h.await("both records in one chain", func() bool {
		if _, err = audit.VerifyDir(dir); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, audit.FileName))
		seen = string(text)
		return err == nil && strings.Contains(seen, second.GetId())
	})
	if strings.Count(seen, first.GetId()) != strings.Count(seen, second.GetId()) {
		t.Errorf("records were written twice:\n%s", seen)
	}
	if strings.Count(seen, `"kind":"opened"`) != 2 {
		t.Error("the restart is not noted")
	}
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// raised waits until the cluster keeps audit records: all its members have been asked.
func (h *harness) raised() {
	h.t.Helper()
	h.leader()
	h.await("the newest command version on every node", func() bool {
		for _, n := range h.nodes {
			if n.View().CommandVersion() < raftfsm.AuditVersion {
				return false
			}
		}
		return true
	})
}
