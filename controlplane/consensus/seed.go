package consensus

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// stableTerm is where raft keeps its term.
const stableTerm = "CurrentTerm"

// Seed makes the stopped, still empty server whose data cfg names the first and only
// member of a cluster whose state is what write writes, as of the given index and
// term of an earlier log. A directory that holds entries or a snapshot gives
// ErrConflict: nothing is ever overwritten.
//
// If it is interrupted the directory is no cluster and cannot found one; it may be
// seeded again. Of cfg the same counts as for Recover.
func Seed(cfg Config, index, term uint64, write func(io.Writer) error) error {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return err
	}
	if index == 0 || term == 0 {
		return errors.New("seed: a state of index or term 0 is none")
	}
	if err := checkDir(cfg.Dir, cfg.ID); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	store, err := openStorage(cfg, func(err error) { cfg.Logger.Error("seed: the log cannot be written", "err", err) })
	if err != nil {
		return err
	}
	if err = checkBlank(store); err == nil {
		err = store.seed(cfg, index, term, write)
	}
	if err != nil {
		err = fmt.Errorf("seed: %w", err)
	}
	return errors.Join(err, store.db.Close())
}

func checkBlank(store *storage) error {
	last, err := store.db.LastIndex()
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	id, err := newest(store.snaps)
	if err != nil {
		return err
	}
	if last > 0 || id != "" {
		return fmt.Errorf("%w: the directory holds a log or a snapshot already", ErrConflict)
	}
	return nil
}

// seed writes the term first: a directory with a term and nothing else can neither
// be taken for a new one nor for a whole one.
func (s *storage) seed(cfg Config, index, term uint64, write func(io.Writer) error) (err error) {
	if err := s.stable.SetUint64([]byte(stableTerm), term); err != nil {
		return fmt.Errorf("write term: %w", err)
	}
	me := Server{ID: cfg.ID, Addr: cfg.Stream.Addr().String()}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(me.Addr))
	defer func() { err = errors.Join(err, trans.Close()) }()
	sink, err := s.snaps.Create(raft.SnapshotVersionMax, index, term, asVoters([]Server{me}), index, trans)
	if err != nil {
		return fmt.Errorf("create snapshot: %w", err)
	}
	if err := write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}
