package consensus

import (
	"context"
	"fmt"
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
			if err := checkSnapshot(snaps); err != nil {
				return err
			}
		}
	}
}

// checkSnapshot reads the newest snapshot; opening it compares the checksum.
func checkSnapshot(snaps raft.SnapshotStore) error {
	id, err := newest(snaps)
	if err != nil || id == "" {
		return err
	}
	_, rc, err := snaps.Open(id)
	if err == nil {
		return rc.Close()
	}
	if now, listErr := newest(snaps); listErr == nil && now != id {
		return nil // replaced meanwhile: the next check reads the new one
	}
	return fmt.Errorf("%w: snapshot %s: %w", ErrTorn, id, err)
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
