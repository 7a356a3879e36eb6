package controlplane_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"tarn/controlplane"
	"tarn/controlplane/client"
	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestNodeJoinsWithATokenAndVotes starts from nothing but a token and one address.
func TestNodeJoinsWithATokenAndVotes(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	op := h.operator()
	made, err := op.Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{Role: "control"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := h.newcomer(made.GetToken())
	node := h.start(cfg)
	h.await("the newcomer's vote", func() bool {
		res, err := op.Operator.ListRaftServers(context.Background(), &tarnv1.ListRaftServersRequest{})
		if err != nil {
			return false
		}
		for _, s := range res.GetServers() {
			if s.GetId() == node.ID() && s.GetVoter() {
				return true
			}
		}
		return false
	})
	left, err := op.Operator.RemoveRaftServer(t.Context(), &tarnv1.RemoveRaftServerRequest{Id: node.ID()})
	if err != nil || len(left.GetServers()) != 1 || left.GetServers()[0].GetId() == node.ID() {
		t.Errorf("after the removal: %v, %v", left, err)
	}
	// The removed node may have heard of it already, then it ended by itself.
	node.cancel()
	if err := <-node.done; err != nil && !errors.Is(err, consensus.ErrRemoved) {
		t.Errorf("removed node ended with %v", err)
	}
	h.nodes = h.nodes[:1]
}

// newcomer turns a token into a data directory with certificate and configuration.
func (h *harness) newcomer(text string) controlplane.Config {
	h.t.Helper()
	token, err := identity.ParseToken(text)
	if err != nil {
		h.t.Fatal(err)
	}
	cl, err := client.New(client.Config{Addresses: h.addresses(), TLS: token.ClientConfig()})
	if err != nil {
		h.t.Fatal(err)
	}
	defer cl.Close()
	cfg := h.nodes[0].cfg
	cfg.DataDir, cfg.PKIDir, cfg.BootstrapExpect = h.t.TempDir(), "", 0
	id, err := controlplane.NodeID(cfg.DataDir)
	if err != nil {
		h.t.Fatal(err)
	}
	csr, key, err := identity.NewCSR()
	if err != nil {
		h.t.Fatal(err)
	}
	res, err := cl.Join.Join(context.Background(), &tarnv1.JoinRequest{Token: text, Csr: csr, NodeId: id})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := identity.SaveNode(filepath.Join(cfg.DataDir, "pki"), res.GetCa(), res.GetCertificate(), key); err != nil {
		h.t.Fatal(err)
	}
	cfg.Socket, cfg.AdminSocket = socket(h.t), socket(h.t)
	cfg.Listen, cfg.Advertise = cfg.Socket.Addr().String(), cfg.Socket.Addr().String()
	cfg.Join = res.GetControlAddresses()
	return cfg
}

func TestStateSurvivesARestart(t *testing.T) {
	h := newHarness(t, 1)
	n := h.leader()
	kind := readableType(t, h.operator())
	n.stop(t)
	cfg := n.cfg
	cfg.Socket, cfg.AdminSocket = nil, socket(t)
	h.nodes = nil
	h.start(cfg)
	h.leader()
	got, err := h.operator().ShareTypes.GetShareType(t.Context(), &tarnv1.GetRequest{Id: kind.GetId()})
	if err != nil || got.GetName() != kind.GetName() {
		t.Errorf("after the restart: %v, %v", got, err)
	}
}

func TestForeignCertificateIsRefusedAtStart(t *testing.T) {
	h := newHarness(t, 1)
	cfg := h.nodes[0].cfg
	cfg.DataDir = t.TempDir()
	for name, s := range map[string]identity.Subject{
		"another id":   {Role: identity.RoleControl, ID: uuid.NewString()},
		"another role": {Role: identity.RoleAgent, ID: uuid.NewString()},
	} {
		h.issue(filepath.Join(cfg.DataDir, "pki"), s)
		if _, err := controlplane.New(cfg); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCertificateIsRenewedBeforeItEnds: with the authority's key by the node itself,
// without it by asking another.
func TestCertificateIsRenewedBeforeItEnds(t *testing.T) {
	h := newHarness(t, 2)
	h.leader()
	for i, n := range h.nodes {
		n.stop(t)
		pki := filepath.Join(n.cfg.DataDir, "pki")
		if i == 0 {
			if err := os.Remove(filepath.Join(pki, identity.CAKeyFile)); err != nil {
				t.Fatal(err)
			}
		}
		h.issue(pki, identity.Subject{Role: identity.RoleControl, ID: n.ID(), TTL: 2 * time.Minute})
	}
	stopped := h.nodes
	h.nodes = nil
	for _, n := range stopped {
		cfg := n.cfg
		cfg.Socket, cfg.AdminSocket = nil, socket(t)
		h.start(cfg)
	}
	for _, n := range h.nodes {
		h.await("a new certificate", func() bool {
			m, err := identity.LoadMaterial(filepath.Join(n.cfg.DataDir, "pki"))
			return err == nil && time.Until(m.NotAfter()) > 24*time.Hour && m.Identity().ID == n.ID()
		})
	}
	h.leader()
}

// TestAgentsAndClientsCannotSpeakRaft wants the port to refuse Raft's protocol to
// everybody but control nodes.
func TestAgentsAndClientsCannotSpeakRaft(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	for _, role := range []identity.Role{identity.RoleAgent, identity.RoleClient, identity.RoleOperator} {
		s := identity.Subject{Role: role, ID: uuid.NewString()}
		if role == identity.RoleClient {
			s.Project, s.ProjectRole = "blue", identity.ProjectMember
		}
		if err := h.dialRaft(s); err == nil {
			t.Errorf("%s was let in", role)
		}
	}
}
