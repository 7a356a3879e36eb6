package controlplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"tarn/agent/gossip"
)

// openGossip prepares the ring. This node observes and is seen in it; nothing is
// decided by what it says.
func (n *Node) openGossip() error {
	if n.cfg.Gossip.Bind == "" {
		return nil
	}
	keys, err := n.gossipKeys()
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fmt.Errorf("gossip.bind needs a key in %s", n.cfg.Gossip.KeyFile)
	}
	n.ring, err = gossip.New(gossip.Config{
		Bind:      n.cfg.Gossip.Bind,
		Advertise: n.cfg.Gossip.Advertise,
		Key:       keys[0],
		OtherKeys: keys[1:],
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

// gossipKeys reads the ring's keys; nil without error if there is no file.
func (n *Node) gossipKeys() ([][]byte, error) {
	text, err := os.ReadFile(n.cfg.Gossip.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read gossip key: %w", err)
	}
	keys, err := gossip.ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.cfg.Gossip.KeyFile, err)
	}
	return keys, nil
}

// gossipKey is the one that those who join are given: the one in use.
func (n *Node) gossipKey() ([]byte, error) {
	keys, err := n.gossipKeys()
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	return keys[0], nil
}
