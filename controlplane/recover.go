package controlplane

import (
	"context"
	"fmt"

	"tarn/controlplane/backup"
	"tarn/controlplane/consensus"
)

// Survivor is what is left on a stopped node after the loss of a majority.
type Survivor struct {
	NodeID string
	consensus.Peeked
}

// Inspect reads the stopped node of cfg, without a network.
func Inspect(cfg Config) (Survivor, error) {
	n, err := offline(cfg)
	if err != nil {
		return Survivor{}, err
	}
	peeked, err := consensus.Peek(n.offlineConsensus())
	return Survivor{n.id, peeked}, err
}

// Recover makes the stopped node of cfg the only member of its cluster, for when a
// majority is lost for good. It refuses (ErrClusterRuns) while any other member
// answers: either there is a majority, or a survivor that may know more.
func Recover(ctx context.Context, cfg Config) (Survivor, error) {
	n, err := offline(cfg)
	if err != nil {
		return Survivor{}, err
	}
	peeked, err := consensus.Peek(n.offlineConsensus())
	if err != nil {
		return Survivor{}, err
	}
	var others []backup.Server
	for _, s := range peeked.Servers {
		if s.ID != n.id {
			others = append(others, backup.Server{ID: s.ID, Address: s.Addr, Voter: s.Voter})
		}
	}
	if _, err := n.askEarlier(ctx, others); err != nil {
		return Survivor{}, fmt.Errorf("recover: %w", err)
	}
	me := consensus.Server{ID: n.id, Addr: n.cfg.Advertise}
	return Survivor{n.id, peeked}, consensus.Recover(n.offlineConsensus(), []consensus.Server{me})
}
