package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/agent/replicate"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// markReplica is the user property that makes a dataset one of tarn's replicas,
// when it is set locally.
const markReplica = "tarn:replica"

// sweepEvery is how often datasets are looked through without being asked.
const sweepEvery = 10 * time.Minute

// orphans finds datasets that carry a replica's mark and are assigned to nobody:
// left by a forced removal, or by a control plane restored from a backup. They
// are taken out of reach and told, never destroyed: nobody asked for that.
type orphans struct {
	storage  replicate.Engine
	exports  replicate.Exporter
	roots    map[string]string         // by pool: the dataset above all replicas
	assigned func() map[string]bool    // datasets that somebody takes care of
	taken    func(dataset string) bool // somebody does at this moment
	revision func() uint64             // of the assignments, or of earlier ones
	log      *slog.Logger

	mu    sync.Mutex
	found map[string]int
	told  map[string]bool
	// copies are divergent copies of replicas that are not assigned here; swept: they
	// are known of all pools.
	copies []*tarnv1.DivergentCopy
	// unknown are the orphans themselves, as their marks say.
	unknown []*tarnv1.UnknownReplica
	swept   bool
	under   uint64 // the revision that they were looked for under
}

// maxUnknown bounds what a report tells of datasets that are assigned to nobody.
const maxUnknown = 4000

// tell puts into a report the divergent copies that no replica on this host has, and the
// datasets of replicas that are not assigned here, as last seen, and if all pools have been
// looked through.
func (o *orphans) tell(req *tarnv1.ReportRequest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	req.OrphanedCopies, req.UnknownReplicas = o.copies, o.unknown
	req.OrphansKnown, req.OrphansRevision = o.swept, o.under
}

// divergent are the copies that tell tells of.
func (o *orphans) divergent() []*tarnv1.DivergentCopy {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.copies
}

// counts are the orphans by pool, as last seen.
func (o *orphans) counts() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.found)
}

// sweep looks through all pools once.
func (o *orphans) sweep(ctx context.Context) error {
	found, told := map[string]int{}, map[string]bool{}
	var problems []error
	var copies []*tarnv1.DivergentCopy
	var unknown []*tarnv1.UnknownReplica
	swept, under := true, o.revision()
	for pool, root := range o.roots {
		list, err := o.storage.Datasets(ctx, root)
		if errors.Is(err, zfs.ErrNotExist) {
			swept = false
			continue
		}
		if err != nil {
			swept, problems = false, append(problems, err)
			continue
		}
		taken := o.assigned()
		copies = append(copies, orphaned(list, root, taken)...)
		found[pool] = 0
		for _, d := range list {
			if isReplica(d, root) && !taken[d.Name] {
				found[pool]++
				told[d.Name] = true
				unknown = append(unknown, replicate.UnknownOf(d))
				if o.taken(d.Name) { // since the listing: its worker may have exported it
					continue
				}
				problems = append(problems, o.hide(ctx, d))
			}
		}
	}
	if len(unknown) > maxUnknown {
		problems = append(problems, fmt.Errorf("%d datasets are assigned to nobody; the control plane is told of %d", len(unknown), maxUnknown))
		unknown = unknown[:maxUnknown]
	}
	o.mu.Lock()
	o.found, o.told, o.copies, o.unknown, o.swept, o.under = found, told, copies, unknown, swept, under
	o.mu.Unlock()
	return errors.Join(problems...)
}

// isReplica tells a replica's own dataset from staging, divergent copies and
// what is not ours. Only local marks count: streams and parents bring others'.
func isReplica(d zfs.Dataset, root string) bool {
	mark := d.User[markReplica]
	return mark.Source == zfs.SourceLocal && path.Dir(d.Name) == root && mark.Value == path.Base(d.Name) &&
		!strings.HasPrefix(path.Base(d.Name), ".")
}

func (o *orphans) hide(ctx context.Context, d zfs.Dataset) error {
	o.mu.Lock()
	known := o.told[d.Name]
	o.mu.Unlock()
	if !known {
		o.log.Warn("dataset is assigned to nobody; it is kept, out of reach", "dataset", d.Name, "used", d.Used)
	}
	return withdraw(ctx, o.storage, o.exports, d)
}

// withdraw takes a dataset out of everybody's reach.
func withdraw(ctx context.Context, storage replicate.Mounter, exports replicate.Exporter, d zfs.Dataset) error {
	if d.Mountpoint != "" {
		if err := exports.Remove(ctx, d.Mountpoint); err != nil {
			return err
		}
	}
	if !d.Mounted {
		return nil
	}
	return storage.Unmount(ctx, d.Name, false)
}

// writable are tarn's datasets of a pool that are mounted and could be written.
func (o *orphans) writable(ctx context.Context, pool string) ([]zfs.Dataset, error) {
	root := o.roots[pool]
	list, err := o.storage.Datasets(ctx, root)
	if errors.Is(err, zfs.ErrNotExist) {
		return nil, nil
	}
	return slices.DeleteFunc(list, func(d zfs.Dataset) bool {
		return !isReplica(d, root) || !d.Mounted || d.ReadOnly
	}), err
}

// quiesce takes every writable dataset of tarn's in some pools out of reach, assigned
// or not: at the start, when there is no lease yet, and at the end, when there is
// none any more.
func (o *orphans) quiesce(ctx context.Context, pools ...string) error {
	var problems []error
	for _, pool := range pools {
		open, err := o.writable(ctx, pool)
		problems = append(problems, err)
		for _, d := range open {
			problems = append(problems, withdraw(ctx, o.storage, o.exports, d))
		}
	}
	return errors.Join(problems...)
}
