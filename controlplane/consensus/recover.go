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

func asVoters(servers []Server) raft.Configuration {
	var out raft.Configuration
	for _, s := range servers {
		out.Servers = append(out.Servers,
			raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Addr)})
	}
	return out
}
