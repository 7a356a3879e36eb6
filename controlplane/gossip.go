package controlplane

import (
	"context"
	"fmt"

	"tarn/agent/gossip"
	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	"tarn/metrics"
	tarnv1 "tarn/proto/tarn/v1"
)

// openGossip prepares the ring. This node observes and is seen in it; nothing is
// decided by what it says.
func (n *Node) openGossip() error {
	if n.cfg.Gossip.Bind == "" {
		return nil
	}
	keys := n.keeper.file.Keyring().Keys
	if len(keys) == 0 {
		return fmt.Errorf("gossip.bind needs a key in %s", n.cfg.Gossip.KeyFile)
	}
	var err error
	n.ring, err = gossip.New(gossip.Config{
		Bind:      n.cfg.Gossip.Bind,
		Advertise: n.cfg.Gossip.Advertise,
		Key:       keys[0],
		OtherKeys: keys[1:],
		Label:     n.material.Identity().Cluster,
		Profile:   gossip.Profile(n.cfg.Gossip.Profile),
		Meta:      gossip.Meta{Role: gossip.RoleControl, HostID: n.id, APIAddress: n.cfg.Advertise},
		Peers:     func() []string { return n.keeper.roster.peers(n.cfg.Gossip.Join) },
		Accept:    n.keeper.roster.accept,
		Refused:   func(_ gossip.Member, err error) { n.counters.GossipRefused.WithLabelValues(gossip.Reason(err)).Inc() },
		Notify:    n.heardGossip,
		Admit:     identity.NewAdmission(identity.GossipLimits()).Admit,
		Logger:    n.log,
	})
	if err != nil {
		return err
	}
	metrics.RegisterGossipKeys(n.registry, func() int { return len(n.keeper.file.Keyring().Keys) })
	n.keeper.ring = n.ring
	n.keeper.file.Attach(n.ring)
	return nil
}

// openKeys reads the ring's keys, which a node without gossip hands on too.
func (n *Node) openKeys() error {
	file, err := gossip.OpenKeyFile(n.cfg.Gossip.KeyFile)
	if err != nil {
		return err
	}
	n.keeper = &ringKeeper{
		self: consensus.Server{ID: n.id, Addr: n.cfg.Advertise}, file: file, roster: &roster{view: n.fsm.View},
		view: n.fsm.View, soft: n.soft, servers: n.consensus.Servers,
		exchange: func(ctx context.Context, addr string, req *tarnv1.ExchangeGossipRequest) (*tarnv1.ExchangeGossipResponse, error) {
			return n.peers.at(addr).ExchangeGossip(ctx, req)
		},
		confirm: func(ctx context.Context) error {
			_, err := n.commands.ReadIndex(ctx)
			return err
		},
		warn: n.log.Warn, kick: make(chan struct{}, 1),
	}
	return nil
}

func (n *Node) heardGossip(events []gossip.Event) {
	for _, e := range events {
		if e.ConflictAddr != "" || e.Refused != nil {
			continue // told by the ring
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
