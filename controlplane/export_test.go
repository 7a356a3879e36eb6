package controlplane

import (
	"context"

	"tarn/agent/gossip"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// Compare makes every node compare its state with the leader's, which n has to be.
func (n *Node) Compare(ctx context.Context) error {
	v := n.fsm.View()
	return n.decide(ctx, &raftv1.Command{Verb: &raftv1.Command_CheckHash{
		CheckHash: &raftv1.CheckHash{Index: v.Index(), Hash: v.Hash()},
	}})
}

// GossipSays is what the ring believes of a host.
func (n *Node) GossipSays(id string) gossip.State {
	for _, m := range n.ring.Members() {
		if m.Name == id {
			return m.State
		}
	}
	return 0
}

// GossipOrders are what a member is told that knows nothing.
func (n *Node) GossipOrders() *tarnv1.GossipOrders { return n.keeper.Orders(nil) }

// GossipAddr is where the ring reaches this node; empty until it does.
func (n *Node) GossipAddr() string { return n.ring.Addr() }
