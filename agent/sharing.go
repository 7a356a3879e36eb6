package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"tarn/zfs"
)

// sharingEvery is how often pools are asked for what ZFS itself exports.
const sharingEvery = 5 * time.Minute

// sharer knows which datasets the storage itself exports, and by which properties.
type sharer interface {
	Shared(ctx context.Context, root string) (map[string][]string, error)
}

// setter changes properties of a dataset.
type setter interface {
	Set(ctx context.Context, name string, props map[string]string) error
}

// sharing switches off exports of the storage's own that somebody switched on: they let
// clients in past the access rules of a share, on secondaries and without a lease, too.
type sharing struct {
	storage interface {
		sharer
		setter
	}
	roots []string // datasets above all replicas of a pool
	log   *slog.Logger
}

func (a *Agent) sharing() *sharing {
	s := &sharing{storage: a.storage, log: a.log}
	for _, p := range a.cfg.Pools {
		s.roots = append(s.roots, a.root(p.Name))
	}
	return s
}

// run looks until ctx ends.
func (s *sharing) run(ctx context.Context) error {
	ticker := time.NewTicker(sharingEvery)
	defer ticker.Stop()
	for {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("whether ZFS itself exports shares cannot be told, or mended", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look does it once. A pool that is away, or too old for the properties, exports nothing.
func (s *sharing) look(ctx context.Context) error {
	var problems []error
	for _, root := range s.roots {
		shared, err := s.storage.Shared(ctx, root)
		if err != nil && !errors.Is(err, zfs.ErrNotExist) && !errors.Is(err, zfs.ErrPoolUnavailable) && !errors.Is(err, zfs.ErrInvalid) {
			problems = append(problems, err)
		}
		for dataset, props := range shared {
			off := map[string]string{}
			for _, p := range props {
				off[p] = "off"
			}
			if err := s.storage.Set(ctx, dataset, off); err != nil {
				problems = append(problems, err)
				continue
			}
			s.log.Warn("ZFS itself exported what is a share's, past its access rules, and does so no more: use access rules", "dataset", dataset, "properties", props)
		}
	}
	return errors.Join(problems...)
}
