package controlplane_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"tarn/agent/gossip"
	"tarn/controlplane"
	tarnv1 "tarn/proto/tarn/v1"
)

// ringHost is a storage host's part in the ring, as the agent has it.
type ringHost struct {
	file *gossip.KeyFile
	ring *gossip.Ring
	// deaf: it takes no new keys, as with a disk that is full.
	deaf atomic.Bool

	mu    sync.Mutex
	peers []string
}

func (r *ringHost) state() *tarnv1.GossipState {
	if r.ring == nil {
		return &tarnv1.GossipState{}
	}
	return r.file.State(r.ring)
}

func (r *ringHost) obey(orders *tarnv1.GossipOrders) {
	r.mu.Lock()
	r.peers = nil
	for _, p := range orders.GetRoster().GetPeers() {
		r.peers = append(r.peers, p.GetAddress())
	}
	r.mu.Unlock()
	if orders.GetKeyring() == nil || r.deaf.Load() {
		return
	}
	if k, err := gossip.KeyringOf(orders.GetKeyring()); err == nil {
		_, _ = r.file.Take(k) // it says so itself
	}
}

func (r *ringHost) known() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.peers
}

// ringHost starts a host's ring, which knows nobody.
func (h *harness) ringHost(id, keyFile string) *ringHost {
	h.t.Helper()
	file, err := gossip.OpenKeyFile(keyFile)
	if err != nil {
		h.t.Fatal(err)
	}
	r := &ringHost{file: file}
	r.ring, err = gossip.New(gossip.Config{
		Bind: "127.0.0.1:0", Key: file.Keyring().Keys[0], Label: "test", Profile: gossip.ProfileLocal, Logger: slog.New(slog.DiscardHandler),
		Meta: gossip.Meta{Role: gossip.RoleAgent, HostID: id, Zone: "z"}, Peers: r.known, Rejoin: time.Second,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	file.Attach(r.ring)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.ring.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	select {
	case <-r.ring.Ready():
	case err := <-done:
		done <- err
		h.t.Fatal(err)
	}
	return r
}

// ringed starts nodes with one key and nobody to join by configuration, and tells where
// each has its key.
func ringed(t *testing.T, size int) (h *harness, key []byte) {
	t.Helper()
	key = bytes.Repeat([]byte{5}, 32)
	h = newHarness(t, size, func(cfg *controlplane.Config) {
		cfg.Gossip = controlplane.GossipConfig{Bind: "127.0.0.1:0", Profile: "local", KeyFile: filepath.Join(cfg.DataDir, "gossip.key")}
		writeKey(t, cfg.Gossip.KeyFile, key)
	})
	h.raised()
	return h, key
}

func writeKey(t *testing.T, path string, key []byte) {
	t.Helper()
	if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func keyringIn(t *testing.T, path string) gossip.Keyring {
	t.Helper()
	file, err := gossip.OpenKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file.Keyring()
}

// keysUntil asks whoever leads until what an operator is told is as wanted. While nobody
// leads nothing is told.
func (h *harness) keysUntil(what string, holds func(*tarnv1.GossipKeys) bool) {
	h.t.Helper()
	op := h.operator()
	h.await(what, func() bool {
		keys, err := op.Operator.GetGossipKeys(h.t.Context(), &tarnv1.GetGossipKeysRequest{})
		return err == nil && holds(keys)
	})
}

// The ring finds together by what the control plane tells its members, with strangers and
// duplicates outside; a rotation waits for a member that is up and does not confirm, goes
// on after its leader died in the middle of it, and leaves one new key everywhere.
func TestRotationOfTheRingsKey(t *testing.T) {
	h, key := ringed(t, 3)
	path := filepath.Join(t.TempDir(), "gossip.key")
	writeKey(t, path, key)
	host := h.ringAgent("alpha", "z", path)
	mute := h.serveAgent(&fakeAgent{id: uuid.NewString(), part: &ringHost{}, class: tarnv1.FenceClass_FENCE_CLASS_HELPER}, "beta", "z")
	whole := func() bool {
		for _, n := range h.nodes {
			if n.GossipSays(host.id) != gossip.StateAlive {
				return false
			}
		}
		return host.part.ring.Stats().Alive == 4
	}
	h.await("the ring of those who are registered", whole)

	host.part.deaf.Store(true)
	started, err := h.operator().Operator.RotateGossipKey(t.Context(), &tarnv1.RotateGossipKeyRequest{})
	if err != nil || started.GetPhase() != tarnv1.GossipPhase_GOSSIP_PHASE_ADDING || started.GetNumber() != 1 {
		t.Fatalf("begun: %v, %v", started, err)
	}
	if by, ago := started.GetBegunBy(), time.Since(started.GetBegunAt().AsTime()); !strings.Contains(by, "/operator/") || ago < 0 || ago > time.Minute {
		t.Errorf("begun by %q, %s ago", by, ago)
	}
	h.keysUntil("all but one have the new key", func(now *tarnv1.GossipKeys) bool {
		waits := now.GetWaitsFor()
		return len(waits) == 1 && strings.Contains(waits[0], "agent alpha: has keys number 0, not yet 1")
	})
	dead := h.leader()
	dead.stop(t)
	h.nodes = slicesWithout(h.nodes, dead)
	h.leader()
	if again, err := h.operator().Operator.RotateGossipKey(t.Context(), &tarnv1.RotateGossipKeyRequest{}); err != nil || again.GetNumber() != 1 {
		t.Fatalf("begun again by the next leader: %v, %v", again, err)
	}
	host.part.deaf.Store(false)
	h.keysUntil("the one that is down is waited for", func(now *tarnv1.GossipKeys) bool {
		waits := now.GetWaitsFor()
		return len(waits) == 1 && strings.Contains(waits[0], dead.ID()) && now.GetPhase() == tarnv1.GossipPhase_GOSSIP_PHASE_ADDING
	})
	cfg := dead.cfg
	cfg.Socket, cfg.AdminSocket = again(t, cfg.Listen), socket(t)
	h.start(cfg)
	h.keysUntil("the rotation is over", func(now *tarnv1.GossipKeys) bool {
		// Whoever leads now, and whoever asked again.
		return now.GetPhase() == tarnv1.GossipPhase_GOSSIP_PHASE_SETTLED && now.GetNumber() == 3 && len(now.GetWaitsFor()) == 0 &&
			now.GetBegunBy() == started.GetBegunBy() && now.GetBegunAt().AsTime().Equal(started.GetBegunAt().AsTime())
	})
	mute.die()
	h.await("the ring is whole", whole)
	want := keyringIn(t, path)
	if len(want.Keys) != 1 || bytes.Equal(want.Keys[0], key) {
		t.Errorf("the host has %+v", want)
	}
	for _, n := range h.nodes {
		if have := keyringIn(t, n.cfg.Gossip.KeyFile); !bytes.Equal(have.Text(), want.Text()) {
			t.Errorf("node %s has number %d, %d keys", n.ID(), have.Number, len(have.Keys))
		}
	}
}

func slicesWithout(nodes []*runningNode, gone *runningNode) []*runningNode {
	var out []*runningNode
	for _, n := range nodes {
		if n != gone {
			out = append(out, n)
		}
	}
	return out
}

// A rotation is not begun while a control-plane node is away, nor without a key.
func TestRotationIsRefused(t *testing.T) {
	h := newHarness(t, 1)
	h.raised()
	_, err := h.operator().Operator.RotateGossipKey(t.Context(), &tarnv1.RotateGossipKeyRequest{})
	if err == nil || !strings.Contains(err.Error(), "has no gossip key") {
		t.Errorf("without a key: %v", err)
	}
	h, key := ringed(t, 3)
	leader := h.leader()
	for _, n := range h.nodes {
		if n != leader {
			n.stop(t)
			h.nodes = slicesWithout(h.nodes, n)
			break
		}
	}
	h.leader()
	_, err = h.operator().Operator.RotateGossipKey(t.Context(), &tarnv1.RotateGossipKeyRequest{})
	if err == nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), "raft remove") {
		t.Errorf("a node is away: %v", err)
	}
	if have := keyringIn(t, leader.cfg.Gossip.KeyFile); have.Number != 0 || !bytes.Equal(have.Keys[0], key) {
		t.Errorf("something was begun: %+v", have)
	}
}
