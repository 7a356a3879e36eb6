package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Recover makes the stopped server whose data cfg names the origin of a cluster
// of exactly servers, all voters. It is for the loss of a majority for good, and
// a human's decision: what only the lost servers held is lost, proposals of
// unknown outcome in the survivor's log become committed, and a lost server that comes back after all must not be started with its old
// directory. Run it on one survivor, the one with the highest LastIndex; the
// others come back with empty directories.
//
// Of cfg, ID, Dir, FSM, Stream (for its address; it is not listened on) and
// Logger count. The FSM is used up: a node needs another.
func Recover(cfg Config, servers []Server) error {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return err
	}
	if err := checkDir(cfg.Dir, cfg.ID); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if _, ok := find(servers, cfg.ID); !ok {
		return fmt.Errorf("recover: %w: the new cluster lacks this server, %s", ErrConflict, cfg.ID)
	}
	store, err := openStorage(cfg, func(err error) { cfg.Logger.Error("recover: the log cannot be written", "err", err) })
	if err != nil {
		return err
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(cfg.Stream.Addr().String()))
	err = raft.RecoverCluster(cfg.raftConfig(), &trackedFSM{inner: cfg.FSM}, store.logs, store.stable, store.snaps, trans, asVoters(servers))
	if err != nil {
		err = fmt.Errorf("recover: %w", err)
	}
	return errors.Join(err, trans.Close(), store.db.Close())
}

// Peeked is what a stopped server has on disk.
type Peeked struct {
	LastIndex uint64 // newest entry of its log or snapshot
	LastTerm  uint64
	Servers   []Server
}

// Peek reads a stopped server's directory, so that the survivors of a lost majority can
// be compared: the one with the higher LastTerm, then LastIndex, knows more. Of cfg the
// same counts as for Recover.
func Peek(cfg Config) (out Peeked, err error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return Peeked{}, err
	}
	if err := checkDir(cfg.Dir, cfg.ID); err != nil {
		return Peeked{}, fmt.Errorf("read data directory: %w", err)
	}
	store, err := openStorage(cfg, func(err error) { cfg.Logger.Error("peek: the log cannot be written", "err", err) })
	if err != nil {
		return Peeked{}, err
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(cfg.Stream.Addr().String()))
	defer func() { err = errors.Join(err, trans.Close(), store.db.Close()) }()
	c, err := raft.GetConfiguration(cfg.raftConfig(), &trackedFSM{inner: cfg.FSM}, store.logs, store.stable, store.snaps, trans)
	if err != nil {
		return Peeked{}, fmt.Errorf("read members: %w", err)
	}
	out.Servers = fromConfiguration(c)
	out.LastIndex, out.LastTerm, err = store.last()
	return out, err
}

// last returns the newest entry that log and snapshots know of.
func (s *storage) last() (index, term uint64, err error) {
	metas, err := s.snaps.List()
	if err != nil {
		return 0, 0, fmt.Errorf("list snapshots: %w", err)
	}
	if len(metas) > 0 {
		index, term = metas[0].Index, metas[0].Term
	}
	at, err := s.logs.LastIndex()
	if err != nil || at <= index {
		return index, term, err
	}
	var l raft.Log
	if err := s.logs.GetLog(at, &l); err != nil {
		return 0, 0, fmt.Errorf("read last entry: %w", err)
	}
	return l.Index, l.Term, nil
}

func asVoters(servers []Server) raft.Configuration {
	var out raft.Configuration
	for _, s := range servers {
		out.Servers = append(out.Servers,
			raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Addr)})
	}
	return out
}
