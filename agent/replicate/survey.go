package replicate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tarn/zfs"
)

// SurveyEngine is the storage as a survey needs it.
type SurveyEngine interface {
	Datasets(ctx context.Context, root string) ([]zfs.Dataset, error)
	VersionsBelow(ctx context.Context, root string) (map[string][]zfs.Version, error)
}

// Survey lists everything below a pool's root once for all replicas of the pool, so
// that a look around costs two listings and not several per replica. Safe for
// concurrent use; whoever asks while a listing runs waits for it.
type Survey struct {
	engine SurveyEngine
	root   string

	mu    sync.Mutex
	begun time.Time // of the listing in last
	last  surveyed
	err   error // why there is none
}

// surveyed is what one listing found. It is not changed any more.
type surveyed struct {
	versions map[string][]zfs.Version
	// clones are the datasets that stand on a snapshot, by its full name.
	clones map[string][]string
	// datasets are all, as of begun.
	datasets map[string]zfs.Dataset
	begun    time.Time
}

// NewSurvey prepares the survey of root, the dataset above all replicas of a pool.
func NewSurvey(engine SurveyEngine, root string) *Survey {
	return &Survey{engine: engine, root: root}
}

// since gives a listing that was begun at or after the given moment, or why it failed:
// where the storage hangs, those who waited for one do not each try in turn.
func (s *Survey) since(ctx context.Context, notBefore time.Time) (surveyed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun.IsZero() && !s.begun.Before(notBefore) {
		return s.last, s.err
	}
	begun := time.Now()
	last, err := s.list(ctx)
	if err != nil && ctx.Err() != nil {
		return surveyed{}, err // the caller's own end is nobody else's
	}
	s.begun, s.last, s.err = begun, last, err
	return last, err
}

func (s *Survey) list(ctx context.Context) (surveyed, error) {
	seen := surveyed{datasets: map[string]zfs.Dataset{}, begun: time.Now()}
	var err error
	if seen.versions, err = s.engine.VersionsBelow(ctx, s.root); err != nil {
		return surveyed{}, fmt.Errorf("list snapshots of pool: %w", err)
	}
	list, err := datasetsBelow(ctx, s.engine, s.root)
	for _, d := range list {
		seen.datasets[d.Name] = d
	}
	seen.clones = clonesAmong(list)
	return seen, err
}

// clonesBelow finds which datasets are clones of which snapshots.
func clonesBelow(ctx context.Context, engine SurveyEngine, root string) (map[string][]string, error) {
	list, err := datasetsBelow(ctx, engine, root)
	return clonesAmong(list), err
}

func datasetsBelow(ctx context.Context, engine SurveyEngine, root string) ([]zfs.Dataset, error) {
	list, err := engine.Datasets(ctx, root)
	if err != nil && !errors.Is(err, zfs.ErrNotExist) {
		return nil, fmt.Errorf("list datasets: %w", err)
	}
	return list, nil
}

func clonesAmong(list []zfs.Dataset) map[string][]string {
	clones := map[string][]string{}
	for _, d := range list {
		if d.Origin != "" {
			clones[d.Origin] = append(clones[d.Origin], d.Name)
		}
	}
	return clones
}

// clonesOf are the clones of one dataset's snapshots, by the name of the snapshot.
func clonesOf(clones map[string][]string, dataset string) map[string][]string {
	mine := map[string][]string{}
	for snapshot, list := range clones {
		if name, ok := strings.CutPrefix(snapshot, dataset+"@"); ok {
			mine[name] = list
		}
	}
	return mine
}
