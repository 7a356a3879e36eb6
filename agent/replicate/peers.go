package replicate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tarn/zfs"
)

// maxNoted bounds the mark of peers: old versions take 1 KiB of a property. The
// oldest are forgotten; a share has far fewer replicas at once.
const maxNoted = 20

// noted are the replicas in a dataset's mark, oldest first.
func noted(d zfs.Dataset) []string {
	return strings.FieldsFunc(local(d, markPeers), func(r rune) bool { return r == ',' })
}

// unnoted are the peers that the mark lacks.
func unnoted(d zfs.Dataset, peers []string) []string {
	known := noted(d)
	return slices.DeleteFunc(slices.Clone(peers), func(id string) bool { return slices.Contains(known, id) })
}

// notePeers remembers with the dataset who may come to hold its snapshots.
func (w *Worker) notePeers(ctx context.Context) error {
	ds := *w.s.f.ds
	all := append(noted(ds), unnoted(ds, peerReplicas(w.s.a))...)
	all = all[max(0, len(all)-maxNoted):]
	return w.cfg.Engine.Set(ctx, ds.Name, map[string]string{markPeers: strings.Join(all, ",")})
}

// releaseKnown lets go of every hold that tarn may have set, where the engine cannot
// tell which there are: releasing one that is not there changes nothing.
func (w *Worker) releaseKnown(ctx context.Context, v zfs.Version) error {
	d, err := w.cfg.Engine.Dataset(ctx, v.Dataset)
	if err != nil {
		return fmt.Errorf("look at whose holds there are: %w", err)
	}
	tags := []string{holdLast + w.cfg.ReplicaID, holdDivergent}
	for _, id := range append(noted(d), unnoted(d, peerReplicas(w.s.a))...) {
		tags = append(tags, holdStep+id, holdLast+id)
	}
	for _, tag := range tags {
		if err := ignore(w.cfg.Engine.Release(ctx, tag, v.FullName()), zfs.ErrNotExist); err != nil {
			return err
		}
	}
	return nil
}
