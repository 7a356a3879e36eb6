package controlplane_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"tarn/agent/gossip"
	"tarn/controlplane"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestGossipMovesNothing: the ring says that a host is dead, then that two claim its
// name, then that it left. Nothing is decided (reliability.md 4, row 43).
func TestGossipMovesNothing(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	h.nodes[0].stop(t)
	cfg := h.nodes[0].cfg
	key := bytes.Repeat([]byte{5}, 32)
	cfg.Gossip = controlplane.GossipConfig{Bind: "127.0.0.1:0", Profile: "local", KeyFile: filepath.Join(cfg.DataDir, "gossip.key")}
	cfg.Hosts = controlplane.HostsConfig{TTL: time.Hour, ReportInterval: time.Minute} // silence is not what is tested
	cfg.Socket, cfg.AdminSocket = again(t, cfg.Listen), socket(t)
	if _, err := controlplane.New(cfg); err == nil || !strings.Contains(err.Error(), "needs a key") {
		t.Fatalf("gossip without a key: %v", err)
	}
	if err := os.WriteFile(cfg.Gossip.KeyFile, key, 0o600); err != nil {
		t.Fatal(err)
	}
	h.nodes = nil
	node := h.start(cfg)
	h.leader()
	id := uuid.NewString()
	register(t, h, id)
	h.await("the cluster is settled", func() bool { return node.Consensus().IsLeader() && node.View().CommandVersion() > 1 })
	h.await("the node's part in the ring", func() bool { return node.GossipAddr() != "" })
	before, index := hostRecord(t, node, id), node.View().Index()

	ring := func() (stop func()) {
		r, err := gossip.New(gossip.Config{
			Bind: "127.0.0.1:0", Key: key, Label: "test", Profile: gossip.ProfileLocal, Logger: slog.New(slog.DiscardHandler),
			Meta:  gossip.Meta{Role: gossip.RoleAgent, HostID: id, Zone: "z"},
			Peers: func() []string { return []string{node.GossipAddr()} },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		h.await("it is in the ring", func() bool { return node.GossipSays(id) == gossip.StateAlive || r.Stats().Alive > 1 })
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	first := ring()
	twin := ring() // a second one with the same name, at another address
	twin()
	first()
	h.await("the ring takes it for dead", func() bool { return node.GossipSays(id) == gossip.StateFailed })
	after := hostRecord(t, node, id)
	if !proto.Equal(before, after) || after.GetState() != tarnv1.HostState_HOST_STATE_UP {
		t.Errorf("gossip changed the host from %v to %v", before, after)
	}
	if moved := node.View().Index() - index; moved > 1 { // the leader's comparison of states may be due
		t.Errorf("gossip moved the state by %d entries", moved)
	}
	// What the state says does count in the ring.
	op := h.as(identity.Subject{Role: identity.RoleOperator})
	if _, err := op.Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: id, Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	h.await("a revoked host is not in the ring", func() bool { return node.GossipSays(id) == 0 })
	orders := node.GossipOrders()
	if slices.ContainsFunc(orders.GetRoster().GetPeers(), func(p *tarnv1.GossipPeer) bool { return p.GetId() == id }) || len(orders.GetRoster().GetPeers()) == 0 {
		t.Errorf("others are told of %v", orders.GetRoster())
	}
}

func hostRecord(t *testing.T, node *runningNode, id string) *tarnv1.Host {
	t.Helper()
	host, ok := node.View().Host(id)
	if !ok {
		t.Fatal("the host is gone")
	}
	return host
}

// register announces a host as its agent would; it does not report, and its TTL is long.
func register(t *testing.T, h *harness, id string) {
	t.Helper()
	agent := h.as(identity.Subject{Role: identity.RoleAgent, ID: id})
	_, err := agent.Agent.Register(t.Context(), &tarnv1.RegisterRequest{Host: &tarnv1.Host{
		Id: id, Name: "alpha", AvailabilityZone: "z", Address: "127.0.0.1:7500", Backend: "dir", SessionId: "one",
		FenceClass: tarnv1.FenceClass_FENCE_CLASS_HELPER,
		Pools:      []*tarnv1.Pool{{Name: "tank", TotalCapacityGib: 10, FreeCapacityGib: 10, Health: "ONLINE", StorageProtocol: "NFS"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
}
