package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"connectrpc.com/connect"

	"tarn/controlplane/backup"
	"tarn/controlplane/consensus"
	"tarn/raftfsm"
)

// ErrClusterRuns means that a restore found a control plane of the same cluster that
// still runs, or that could still run from what is on its disk.
var ErrClusterRuns = errors.New("a control plane of this cluster exists")

// Restored says what a Restore did.
type Restored struct {
	backup.Summary
	NodeID string `json:"restored_node_id"`
	// Unasked are members of the backup's time that did not answer. They must never
	// run again with the data that they have.
	Unasked []backup.Server `json:"unasked"`
}

// askTime bounds the question to one earlier member.
const askTime = 3 * time.Second

// Restore makes the stopped, empty node of cfg the only member of a control plane
// that goes on from the backup in f; others join it with empty data directories. It
// refuses, and changes nothing, if the backup is damaged, newer than this program or
// of another cluster than the node's certificate (backup's and identity's errors), if
// the data directory is not empty, or if any earlier member or address in cfg.Join
// answers for a running control plane (ErrClusterRuns).
func Restore(ctx context.Context, cfg Config, f io.ReadSeeker) (Restored, error) {
	summary, err := backup.Check(f)
	if err != nil {
		return Restored{}, err
	}
	n, err := offline(cfg)
	if err != nil {
		return Restored{}, err
	}
	if mine := n.material.Identity().Cluster; mine != summary.Cluster {
		return Restored{}, fmt.Errorf("the backup is of cluster %q, the certificate in %s of %q: use the pki directory of %q",
			summary.Cluster, n.cfg.PKIDir, mine, summary.Cluster)
	}
	out := Restored{Summary: summary, NodeID: n.id}
	if out.Unasked, err = n.askEarlier(ctx, summary.Servers); err != nil {
		return Restored{}, err
	}
	err = consensus.Seed(n.offlineConsensus(), summary.Index+raftfsm.RestoredGap, summary.Term, func(w io.Writer) error {
		state, err := backup.State(f, summary)
		if err != nil {
			return err
		}
		return raftfsm.RestoredState(w, state)
	})
	if errors.Is(err, consensus.ErrConflict) {
		return Restored{}, fmt.Errorf("%w in %s: a restore needs an empty data directory; move this one aside and keep it (%w)",
			ErrClusterRuns, n.cfg.DataDir, err)
	}
	return out, err
}

// offline opens a node as far as commands on a stopped one need it.
func offline(cfg Config) (*Node, error) {
	cfg = cfg.Defaults()
	if err := errors.Join(cfg.Validate()...); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	n := &Node{cfg: cfg}
	if err := n.openIdentity(); err != nil {
		return nil, err
	}
	var err error
	n.stream, err = consensus.NewStreamLayer(n.cfg.Advertise, n.material, n.log)
	return n, err
}

// offlineConsensus is what Seed and Recover need of the configuration.
func (n *Node) offlineConsensus() consensus.Config {
	return consensus.Config{
		ID: n.id, Dir: RaftDir(n.cfg.DataDir), Stream: n.stream, Logger: n.log,
		FSM: raftfsm.New(raftfsm.Config{}), VerifySnapshot: verifySnapshot, Timeouts: n.cfg.Raft.timeouts(),
	}
}

// askEarlier asks everybody who may run a control plane of this cluster, and returns
// the members that did not answer.
func (n *Node) askEarlier(ctx context.Context, members []backup.Server) ([]backup.Server, error) {
	peers := newPeers(n.material, nil)
	defer peers.close()
	var silent []backup.Server
	for _, m := range members {
		answered, err := n.askOne(ctx, peers, m.Address)
		if err != nil {
			return nil, err
		}
		if !answered {
			silent = append(silent, m)
		}
	}
	for _, addr := range append(slices.Clone(n.cfg.Join), n.cfg.Advertise) {
		if _, err := n.askOne(ctx, peers, addr); err != nil {
			return nil, err
		}
	}
	return silent, nil
}

// askOne gives ErrClusterRuns if whoever listens at addr is part of a control plane.
func (n *Node) askOne(ctx context.Context, peers *peers, addr string) (answered bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answer, err := peers.Join(ctx, addr, consensus.JoinRequest{
		Server: consensus.Server{ID: n.id, Addr: n.cfg.Advertise}, StillMember: true,
	})
	if err != nil && !connect.IsWireError(err) {
		n.log.Debug("an earlier member does not answer", "addr", addr, "err", err)
		return false, nil
	}
	// A leader that lost its majority answers with an error: it runs, too.
	if err != nil || answer.Status != consensus.JoinNoCluster {
		return true, fmt.Errorf("%w: the node at %s runs and has state, which a restore beside it would set back: "+
			"use it as it is, or stop every node and move their data directories aside first", ErrClusterRuns, addr)
	}
	return true, nil
}
