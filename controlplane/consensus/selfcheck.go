package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

// selfCheckEvery is how often a node reads its newest snapshot back.
const selfCheckEvery = time.Hour

// runSelfCheck ends a node that could not hand its state to another: a leader
// that cannot read its snapshots never steps down by itself (raft#522).
func (n *Node) runSelfCheck(ctx context.Context, snaps raft.SnapshotStore) error {
	ticker := time.NewTicker(selfCheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := checkSnapshot(snaps, n.cfg.VerifySnapshot); err != nil {
				return err
			}
		}
	}
}

// checkSnapshot reads the newest snapshot whole.
func checkSnapshot(snaps raft.SnapshotStore, verify func(io.Reader) error) error {
	id, err := newest(snaps)
	if err != nil || id == "" {
		return err
	}
	err = verifySnapshot(snaps, id, verify)
	if err == nil {
		return nil
	}
	if now, listErr := newest(snaps); listErr == nil && now != id {
		return nil // replaced meanwhile: the next check reads the new one
	}
	return err
}

// verifySnapshot reads a snapshot; opening it compares raft's checksum. Damage gives
// ErrTorn, whatever else verify says is its own.
func verifySnapshot(snaps raft.SnapshotStore, id string, verify func(io.Reader) error) error {
	_, rc, err := snaps.Open(id)
	if err != nil {
		return fmt.Errorf("%w: snapshot %s: %w", ErrTorn, id, err)
	}
	if verify != nil {
		err = verify(rc)
	}
	if err = errors.Join(err, rc.Close()); err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	return nil
}

func newest(snaps raft.SnapshotStore) (string, error) {
	metas, err := snaps.List()
	if err != nil {
		return "", fmt.Errorf("list snapshots: %w", err)
	}
	if len(metas) == 0 {
		return "", nil
	}
	return metas[0].ID, nil
}
