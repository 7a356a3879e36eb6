package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"tarn/agent/gossip"
	tarnv1 "tarn/proto/tarn/v1"
)

func newPart(t *testing.T, path string) *ringPart {
	t.Helper()
	file, err := gossip.OpenKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	part := &ringPart{file: file, revoked: func(string) error { return nil }}
	part.ring, err = gossip.New(gossip.Config{
		Bind: "127.0.0.1:0", Key: file.Keyring().Keys[0], Label: "test", Logger: slog.New(slog.DiscardHandler),
		Meta: gossip.Meta{Role: gossip.RoleAgent, HostID: uuid.NewString(), Zone: "z"}, Accept: part.accept,
	})
	if err != nil {
		t.Fatal(err)
	}
	file.Attach(part.ring)
	return part
}

// What the control plane says of the ring is followed: keys are kept over a restart and
// confirmed, members are known by name and address.
func TestRingFollowsTheControlPlane(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gossip.key")
	old, next := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	part := newPart(t, path)
	friend := gossip.Member{Name: "friend", Addr: "10.0.0.1:7000", Meta: gossip.Meta{Role: gossip.RoleAgent}}
	if err := part.accept(friend); err != nil {
		t.Errorf("before anything is known: %v", err)
	}
	begun, err := (gossip.Keyring{Keys: [][]byte{old}}).Begin(next)
	if err != nil {
		t.Fatal(err)
	}
	orders := &tarnv1.GossipOrders{
		Keyring: begun.Offer(part.state()),
		Roster: &tarnv1.GossipRoster{Digest: []byte("d"), Peers: []*tarnv1.GossipPeer{
			{Id: "friend", Role: "agent", Address: friend.Addr}, {Id: "leader", Role: "control", Address: "10.0.0.9:0"},
		}},
	}
	if orders.Keyring == nil || begun.Has(part.state()) {
		t.Fatal("the keys are not offered")
	}
	if changed, err := part.obey(orders); err != nil || !changed {
		t.Fatalf("obeyed: %v, %v", changed, err)
	}
	again := newPart(t, path)
	for name, p := range map[string]*ringPart{"now": part, "after a restart": again} {
		if state := p.state(); !begun.Has(state) || begun.Offer(state) != nil || state.GetError() != "" {
			t.Errorf("%s: %v", name, state)
		}
	}
	if !bytes.Equal(part.state().GetRosterDigest(), []byte("d")) || again.state().GetRosterDigest() != nil {
		t.Error("the roster is not told of as it is")
	}
	moved, stranger := friend, friend
	moved.Addr, stranger.Name = "10.0.0.2:7000", "nobody"
	if part.accept(friend) != nil || !errors.Is(part.accept(moved), gossip.ErrAddress) || !errors.Is(part.accept(stranger), gossip.ErrStranger) {
		t.Errorf("friend %v, moved %v, stranger %v", part.accept(friend), part.accept(moved), part.accept(stranger))
	}
	if peers := part.peers([]string{"seed:1"}); len(peers) != 2 || peers[1] != friend.Addr {
		t.Errorf("looked for are %v", peers)
	}
}

// Keys that cannot be written are not confirmed, and the reason is told.
func TestRingTellsWhyItHasOldKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "gossip.key")
	old := bytes.Repeat([]byte{1}, 32)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	part := newPart(t, path)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	begun, err := (gossip.Keyring{Keys: [][]byte{old}}).Begin(bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	changed, err := part.obey(&tarnv1.GossipOrders{Keyring: begun.Message()})
	if err == nil || !changed || part.state().GetError() == "" || begun.Has(part.state()) {
		t.Errorf("%v, %v, says %v", changed, err, part.state())
	}
	if _, err := part.obey(&tarnv1.GossipOrders{Keyring: &tarnv1.GossipKeyring{Number: 5}}); !errors.Is(err, gossip.ErrKeyring) {
		t.Errorf("no keys: %v", err)
	}
	var none *ringPart
	if changed, err := none.obey(&tarnv1.GossipOrders{Keyring: begun.Message()}); changed || err != nil || none.state().GetRunning() {
		t.Errorf("a host without a ring: %v, %v", changed, err)
	}
}
