package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"tarn/zfs"
)

// damageEvery is how often pools are asked for what they cannot read.
const damageEvery = time.Minute

// surveyor knows the permanent errors of a pool.
type surveyor interface {
	Damage(ctx context.Context, pool string) ([]zfs.Damage, error)
}

// damages remembers what the pools have found unreadable. Safe for concurrent use; run
// is called once.
type damages struct {
	storage surveyor
	pools   []string
	log     *slog.Logger

	mu    sync.Mutex
	found map[string]error // by dataset
}

// run looks until ctx ends.
func (d *damages) run(ctx context.Context) error {
	ticker := time.NewTicker(damageEvery)
	defer ticker.Stop()
	for {
		d.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look asks all pools. One that does not answer keeps what was known of it until it
// does: pools tells that it is missing.
func (d *damages) look(ctx context.Context) {
	next := map[string]error{}
	for _, pool := range d.pools {
		list, err := d.storage.Damage(ctx, pool)
		if err != nil {
			d.log.Debug("pool does not tell its errors", "pool", pool, "err", err)
			d.keep(pool, next)
			continue
		}
		first, count := map[string]zfs.Damage{}, map[string]int{}
		for _, x := range list {
			if count[x.Dataset]++; count[x.Dataset] == 1 {
				first[x.Dataset] = x
			}
		}
		for dataset, n := range count {
			next[dataset] = fmt.Errorf("pool %s cannot read %d places of the dataset, %s for one: see `zpool status -v %s` and scrub the pool (twice, if the places have gone); "+
				"what stays is restored by promoting another replica and making this one anew", pool, n, first[dataset], pool)
		}
	}
	d.note(next)
}

func (d *damages) keep(pool string, next map[string]error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dataset, err := range d.found {
		if of, _, _ := strings.Cut(dataset, "/"); of == pool {
			next[dataset] = err
		}
	}
}

// note takes over what was found; the same trouble stays the same error.
func (d *damages) note(next map[string]error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dataset, err := range next {
		if old := d.found[dataset]; old != nil && old.Error() == err.Error() {
			next[dataset] = old
		} else {
			d.log.Error("data are damaged", "dataset", dataset, "err", err)
		}
	}
	d.found = next
}

// of is what is wrong with a dataset, nil if nothing is known.
func (d *damages) of(dataset string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.found[dataset]
}
