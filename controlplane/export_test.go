package controlplane

import (
	"context"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// Compare makes every node compare its state with the leader's, which n has to be.
func (n *Node) Compare(ctx context.Context) error {
	v := n.fsm.View()
	return n.decide(ctx, &raftv1.Command{Verb: &raftv1.Command_CheckHash{
		CheckHash: &raftv1.CheckHash{Index: v.Index(), Hash: v.Hash()},
	}})
}
