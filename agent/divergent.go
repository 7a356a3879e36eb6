package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarn/agent/replicate"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// purge destroys the copy of an order, on whichever pool it is. An order names the
// pool: without that one nobody can say that the copy is gone.
func (a *Agent) purge(ctx context.Context, o *tarnv1.PurgeOrder) error {
	pool, _, _ := strings.Cut(o.GetDataset(), "/")
	if _, here := a.pool(pool); !here {
		return fmt.Errorf("purge %s: this host has no pool %q", o.GetDataset(), pool)
	}
	if err := replicate.NewCopies(a.storage, a.root(pool)).Purge(ctx, o); err != nil {
		return err
	}
	a.unlist(ctx, o)
	return nil
}

// unlistFor is how long a purge waits until nobody on this host tells of the copy any more.
const unlistFor = 5 * time.Second

// unlist lets what tells of copies look again, so that the news that one is gone does
// not come before a report that still has it.
func (a *Agent) unlist(ctx context.Context, o *tarnv1.PurgeOrder) {
	if err := a.orphans.sweep(ctx); err != nil && ctx.Err() == nil {
		a.log.Warn("datasets could not be looked through", "err", err)
	}
	w := a.workers.worker(o.GetReplicaId())
	if w == nil {
		return
	}
	w.Look()
	ctx, cancel := context.WithTimeout(ctx, unlistFor)
	defer cancel()
	listed := func(c *tarnv1.DivergentCopy) bool { return c.GetGuid() == o.GetGuid() }
	for slices.ContainsFunc(w.Report().GetDivergentCopies(), listed) && wait(ctx, coalesce/2) == nil {
	}
}

// describeCopy finds a copy on any pool and says how to read it.
func (a *Agent) describeCopy(ctx context.Context, q *tarnv1.DivergentQuestion) (*tarnv1.DivergentDetail, error) {
	var problems []error
	for _, p := range a.cfg.Pools {
		detail, err := replicate.NewCopies(a.storage, a.root(p.Name)).Detail(ctx, zfs.GUID(q.GetGuid()))
		if err == nil {
			detail.Reading = a.reading(detail)
			return detail, nil
		}
		if !errors.Is(err, zfs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return nil, errors.New("no divergent copy of this GUID is on the host any more")
}

// reading says how to look at a copy on this host without changing it.
func (a *Agent) reading(d *tarnv1.DivergentDetail) []string {
	dataset := d.GetCopy().GetDataset()
	pool, _, _ := strings.Cut(dataset, "/")
	if a.cfg.Storage == StorageDir {
		here, _ := a.pool(pool)
		return []string{
			"its newest state are the files in " + filepath.Join(filepath.Clean(here.Path), "heads", zfs.GUID(d.GetCopy().GetGuid()).String()) + ": read there, change nothing",
			"earlier snapshots of a directory pool can be read through a clone only, which takes a ZFS pool",
		}
	}
	newest := "SNAPSHOT"
	if n := len(d.GetSnapshots()); n > 0 {
		newest = d.GetSnapshots()[n-1].GetName()
	}
	clone := path.Join(pool, "look")
	return []string{
		"zfs mount " + dataset + ", which is read-only; its files are below `zfs get -H -o value mountpoint " + dataset +
			"`, those of each snapshot in .zfs/snapshot/NAME there; zfs unmount it afterwards",
		"or: zfs clone -o readonly=on -o mountpoint=/mnt/look " + dataset + "@" + newest + " " + clone +
			"; zfs destroy " + clone + " afterwards, for it keeps the copy from being purged",
	}
}

// orphaned are the divergent copies in a listing of a pool whose replicas are not
// assigned to this host.
func orphaned(list []zfs.Dataset, root string, assigned map[string]bool) []*tarnv1.DivergentCopy {
	var copies []*tarnv1.DivergentCopy
	for _, d := range list {
		if c := replicate.CopyOf(d); c != nil && !assigned[path.Join(root, c.GetReplicaId())] {
			copies = append(copies, c)
		}
	}
	return copies
}
