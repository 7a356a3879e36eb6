package controlplane

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"tarn/agent/gossip"
)

const gossipKeyBytes = 32

// openGossip prepares the ring. This node observes and is seen in it; nothing is
// decided by what it says.
func (n *Node) openGossip() error {
	if n.cfg.Gossip.Bind == "" {
		return nil
	}
	key, err := n.gossipKey()
	if err != nil {
		return err
	}
	if key == nil {
		return fmt.Errorf("gossip.bind needs a key in %s", n.cfg.Gossip.KeyFile)
	}
	n.ring, err = gossip.New(gossip.Config{
		Bind:      n.cfg.Gossip.Bind,
		Advertise: n.cfg.Gossip.Advertise,
		Key:       key,
		Label:     n.material.Identity().Cluster,
		Profile:   gossip.Profile(n.cfg.Gossip.Profile),
		Meta:      gossip.Meta{Role: gossip.RoleControl, HostID: n.id, APIAddress: n.cfg.Advertise},
		Peers:     func() []string { return n.cfg.Gossip.Join },
		Notify:    n.heardGossip,
		Logger:    n.log,
	})
	return err
}

func (n *Node) heardGossip(events []gossip.Event) {
	for _, e := range events {
		if e.ConflictAddr != "" {
			n.log.Error("two hosts claim one identity", "host", e.Member.Name, "addr", e.Member.Addr, "other", e.ConflictAddr)
			continue
		}
		n.log.Debug("gossip", "host", e.Member.Name, "state", e.Member.State.String())
	}
	seen := n.ring.Stats()
	for state, count := range map[gossip.State]int{
		gossip.StateAlive: seen.Alive, gossip.StateFailed: seen.Failed, gossip.StateLeft: seen.Left,
	} {
		n.counters.GossipMembers.WithLabelValues(state.String()).Set(float64(count))
	}
}

// gossipKey reads the ring's key; nil without error if there is none.
func (n *Node) gossipKey() ([]byte, error) {
	text, err := os.ReadFile(n.cfg.Gossip.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read gossip key: %w", err)
	}
	return parseGossipKey(text)
}

// parseGossipKey takes 32 raw bytes, or their base64 or hex.
func parseGossipKey(text []byte) ([]byte, error) {
	if len(text) == gossipKeyBytes {
		return text, nil
	}
	trimmed := string(bytes.TrimSpace(text))
	if key, err := hex.DecodeString(trimmed); err == nil && len(key) == gossipKeyBytes {
		return key, nil
	}
	if key, err := base64.StdEncoding.DecodeString(trimmed); err == nil && len(key) == gossipKeyBytes {
		return key, nil
	}
	return nil, fmt.Errorf("gossip key is not %d bytes, raw, in hex or in base64", gossipKeyBytes)
}
