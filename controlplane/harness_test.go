package controlplane_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"tarn/controlplane"
	"tarn/controlplane/client"
	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
)

// harness runs real nodes on loopback: real TLS, real Raft, real disks.
type harness struct {
	t     testing.TB
	ca    *identity.CA
	nodes []*runningNode
}

type runningNode struct {
	*controlplane.Node
	cfg    controlplane.Config
	cancel context.CancelFunc
	done   chan error
}

// stop ends the node and waits for it.
func (n *runningNode) stop(t testing.TB) {
	t.Helper()
	n.cancel()
	select {
	case err := <-n.done:
		if err != nil {
			t.Errorf("node %s: %v", n.ID(), err)
		}
		n.done <- nil
	case <-time.After(30 * time.Second):
		t.Fatalf("node %s does not stop", n.ID())
	}
}

func newHarness(t testing.TB, size int, change ...func(*controlplane.Config)) *harness {
	t.Helper()
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, ca: ca}
	sockets := make([]net.Listener, size)
	for i := range sockets {
		sockets[i] = socket(t)
	}
	for i := range size {
		cfg := h.config(sockets, i)
		for _, f := range change {
			f(&cfg)
		}
		h.start(cfg)
	}
	t.Cleanup(func() {
		for _, n := range h.nodes {
			n.stop(t)
		}
	})
	return h
}

func socket(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (h *harness) config(sockets []net.Listener, i int) controlplane.Config {
	cfg := controlplane.Config{
		DataDir:         h.t.TempDir(),
		Advertise:       sockets[i].Addr().String(),
		Listen:          sockets[i].Addr().String(),
		Socket:          sockets[i],
		AdminSocket:     socket(h.t),
		BootstrapExpect: len(sockets),
		Raft:            controlplane.RaftConfig{HeartbeatTimeout: 500 * time.Millisecond, PromoteAfter: 200 * time.Millisecond},
		Lease: controlplane.LeaseConfig{
			Duration: 3 * time.Second, Wait: 5 * time.Second, Renew: 500 * time.Millisecond, Margin: time.Second,
		},
		Logger:  slog.New(slog.DiscardHandler),
		Version: "test",
	}
	if len(sockets) > 1 {
		cfg.Join = []string{sockets[(i+1)%len(sockets)].Addr().String()}
	}
	h.certify(cfg.DataDir)
	return cfg
}

// certify gives a data directory its node's certificate and the authority's key.
func (h *harness) certify(dataDir string) {
	h.t.Helper()
	id, err := controlplane.NodeID(dataDir)
	if err != nil {
		h.t.Fatal(err)
	}
	pki := filepath.Join(dataDir, "pki")
	h.issue(pki, identity.Subject{Role: identity.RoleControl, ID: id})
	if err := h.ca.Save(pki); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) issue(dir string, s identity.Subject) {
	h.t.Helper()
	cert, key, err := h.ca.IssueKey(s)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := identity.SaveNode(dir, h.ca.CertPEM(), cert, key); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) start(cfg controlplane.Config) *runningNode {
	h.t.Helper()
	node, err := controlplane.New(cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &runningNode{Node: node, cfg: cfg, cancel: cancel, done: make(chan error, 1)}
	go func() { n.done <- node.Run(ctx) }()
	h.nodes = append(h.nodes, n)
	return n
}

// as returns a client with a certificate for s.
func (h *harness) as(s identity.Subject) *client.Client {
	h.t.Helper()
	if s.ID == "" {
		s.ID = uuid.NewString()
	}
	dir := h.t.TempDir()
	h.issue(dir, s)
	material, err := identity.LoadMaterial(dir)
	if err != nil {
		h.t.Fatal(err)
	}
	cl, err := client.New(client.Config{Addresses: h.addresses(), TLS: material.ClientConfig(identity.RoleControl)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(cl.Close)
	return cl
}

func (h *harness) operator() *client.Client {
	return h.as(identity.Subject{Role: identity.RoleOperator})
}

func (h *harness) member(project string) *client.Client {
	return h.as(identity.Subject{Role: identity.RoleClient, Project: project, ProjectRole: identity.ProjectMember})
}

func (h *harness) addresses() []string {
	var out []string
	for _, n := range h.nodes {
		out = append(out, n.cfg.Advertise)
	}
	return out
}

// leader waits for a leader among the running nodes.
func (h *harness) leader() *runningNode {
	h.t.Helper()
	var found *runningNode
	h.await("a leader", func() bool {
		for _, n := range h.nodes {
			if n.Consensus().IsLeader() {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// await polls a condition, which has to hold within half a minute.
func (h *harness) await(what string, holds func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			h.t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

// dialRaft opens a Raft connection with a certificate for s and waits for the
// other end to close it. It returns the error of reading, nil if the connection stays.
func (h *harness) dialRaft(s identity.Subject) error {
	h.t.Helper()
	dir := h.t.TempDir()
	h.issue(dir, s)
	material, err := identity.LoadMaterial(dir)
	if err != nil {
		h.t.Fatal(err)
	}
	conf := material.ClientConfig(identity.RoleControl)
	conf.NextProtos = []string{consensus.ALPN}
	conn, err := tls.Dial("tcp", h.nodes[0].cfg.Advertise, conf)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}
