package replicate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// CopyOf describes a dataset that holds a divergent copy, whole and at rest; nil for
// every other dataset. Only local marks count.
func CopyOf(d zfs.Dataset) *tarnv1.DivergentCopy {
	m := marksOf(d)
	if m.role != roleDivergent || m.replica == "" || path.Base(path.Dir(d.Name)) != divergentDir {
		return nil
	}
	c := &tarnv1.DivergentCopy{
		Dataset: d.Name, Epoch: m.epoch, UsedBytes: d.Used, Guid: uint64(d.GUID), ShareId: m.share, ReplicaId: m.replica,
	}
	if n, err := strconv.ParseUint(local(d, markBase), 10, 64); err == nil {
		c.BaseGuid = n
	}
	if at, err := time.Parse(time.RFC3339, local(d, markSince)); err == nil {
		c.CreatedAt = timestamppb.New(at)
	}
	return c
}

// UnknownOf describes the dataset of a replica that is not assigned to this host, by its
// own marks.
func UnknownOf(d zfs.Dataset) *tarnv1.UnknownReplica {
	m := marksOf(d)
	pool, _, _ := strings.Cut(d.Name, "/")
	return &tarnv1.UnknownReplica{
		ReplicaId: m.replica, ShareId: m.share, Pool: pool, Dataset: d.Name, Epoch: m.epoch, Primary: m.role == rolePrimary, UsedBytes: d.Used,
	}
}

// Why a divergent copy cannot be shown or purged.
var (
	errNoCopy   = errors.New("no divergent copy of this GUID is on this host")
	errNotACopy = errors.New("the dataset of this GUID is not a divergent copy, or of another replica: tarn does not touch it")
	errRootGone = errors.New("the dataset above all replicas is missing: is the pool imported?")
)

// maxCopySnapshots bounds how many snapshots of a copy are told.
const maxCopySnapshots = 2048

// Copies handles the divergent copies of one pool, whose replicas may be gone. It is
// safe for concurrent use, and beside the workers of the replicas.
type Copies struct {
	engine Engine
	root   string // dataset above all replicas
}

// NewCopies looks after the copies below root, pool/base.
func NewCopies(engine Engine, root string) Copies { return Copies{engine: engine, root: root} }

// find looks a dataset up by its GUID, wherever below the root it is.
func (c Copies) find(ctx context.Context, guid zfs.GUID) (found *zfs.Dataset, all []zfs.Dataset, err error) {
	all, err = c.engine.Datasets(ctx, c.root)
	if errors.Is(err, zfs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s: %w", c.root, errRootGone)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list datasets: %w", err)
	}
	for i := range all {
		if all[i].GUID == guid {
			found = &all[i]
		}
	}
	return found, all, nil
}

// Detail is all that there is to tell of one copy; errors.Is(err, zfs.ErrNotExist)
// when it is not here. Nothing is changed.
func (c Copies) Detail(ctx context.Context, guid zfs.GUID) (*tarnv1.DivergentDetail, error) {
	d, all, err := c.find(ctx, guid)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("%w: %w", errNoCopy, zfs.ErrNotExist)
	}
	out := &tarnv1.DivergentDetail{Copy: CopyOf(*d), Origin: d.Origin}
	if out.Copy == nil {
		return nil, errNotACopy
	}
	versions, err := c.engine.Versions(ctx, d.Name)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, v := range versions {
		if v.Kind != zfs.KindSnapshot {
			continue
		}
		s, err := c.snapshot(ctx, v, all)
		if err != nil {
			return nil, err
		}
		out.Snapshots = append(out.Snapshots, s)
	}
	out.Total = int32(len(out.Snapshots))
	out.Snapshots = out.Snapshots[max(0, len(out.Snapshots)-maxCopySnapshots):]
	return out, nil
}

func (c Copies) snapshot(ctx context.Context, v zfs.Version, all []zfs.Dataset) (*tarnv1.DivergentSnapshot, error) {
	s := &tarnv1.DivergentSnapshot{Name: v.Name, Guid: uint64(v.GUID)}
	if !v.Creation.IsZero() {
		s.CreatedAt = timestamppb.New(v.Creation)
	}
	for _, d := range all {
		if d.Origin == v.FullName() {
			s.Clones = append(s.Clones, d.Name)
		}
	}
	if v.UserRefs == 0 {
		return s, nil
	}
	holds, err := listHolds(ctx, c.engine, v)
	if err != nil {
		return nil, err
	}
	for _, h := range holds.list {
		s.Holds = append(s.Holds, h.Tag)
	}
	return s, nil
}

// Purge destroys one divergent copy as an operator ordered it, and nothing else. nil
// means that nothing of it is left; a copy that is not here was purged before. It is
// idempotent: cut anywhere, the next call goes on.
func (c Copies) Purge(ctx context.Context, o *tarnv1.PurgeOrder) error {
	for {
		d, all, err := c.find(ctx, zfs.GUID(o.GetGuid()))
		if err != nil || d == nil {
			return err
		}
		found := CopyOf(*d)
		if found == nil || found.GetShareId() != o.GetShareId() || found.GetReplicaId() != o.GetReplicaId() {
			return fmt.Errorf("%s: %w", d.Name, errNotACopy)
		}
		yielded, err := c.yield(ctx, *d, all)
		if err != nil {
			return err
		}
		if !yielded {
			return c.destroy(ctx, *d)
		}
		// Snapshots have changed hands: look again.
	}
}

// yield hands snapshots that a replica or another copy stands on to that one; what
// else was made of the copy stands in the way.
func (c Copies) yield(ctx context.Context, d zfs.Dataset, all []zfs.Dataset) (bool, error) {
	for _, clone := range all {
		if !strings.HasPrefix(clone.Origin, d.Name+"@") {
			continue
		}
		if local(clone, markReplica) == "" {
			return false, &zfs.Error{Op: "destroy", Object: d.Name, Class: zfs.ErrHasClones, Text: clone.Name + " is a clone of it: destroy or promote that first"}
		}
		return true, c.yieldTo(ctx, clone, d.Name)
	}
	return false, nil
}

// yieldTo makes a clone the owner of its origin. In another share that one is no
// user's snapshot, and is renamed before.
func (c Copies) yieldTo(ctx context.Context, clone zfs.Dataset, dataset string) error {
	name := clone.Origin[strings.LastIndexByte(clone.Origin, '@')+1:]
	if id, users := strings.CutPrefix(name, userPrefix); users && marksOf(clone).role != roleDivergent {
		if err := c.engine.RenameSnapshot(ctx, dataset, name, retiredPrefix+id); err != nil {
			return fmt.Errorf("rename origin of %s: %w", clone.Name, err)
		}
	}
	if err := c.engine.Promote(ctx, clone.Name); err != nil {
		return fmt.Errorf("hand shared snapshots to %s: %w", clone.Name, err)
	}
	return nil
}

func (c Copies) destroy(ctx context.Context, d zfs.Dataset) error {
	if d.Mounted {
		if err := c.engine.Unmount(ctx, d.Name, false); err != nil {
			return fmt.Errorf("unmount divergent copy: %w", err)
		}
	}
	if d.ResumeToken != "" {
		if err := ignore(c.engine.AbortReceive(ctx, d.Name), zfs.ErrNotResumable); err != nil {
			return fmt.Errorf("abort half a receive: %w", err)
		}
	}
	// Read anew, by GUID: what is destroyed by name has to be what was looked at.
	versions, err := c.engine.Versions(ctx, d.Name)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	if err := c.unpin(ctx, d, versions); err != nil {
		return err
	}
	for _, v := range versions {
		if v.Kind != zfs.KindSnapshot {
			continue
		}
		if err := ignore(c.engine.DestroySnapshots(ctx, d.Name, v.Name), zfs.ErrNotExist); err != nil {
			return err
		}
	}
	return ignore(c.engine.Destroy(ctx, d.Name), zfs.ErrNotExist)
}

// unpin lets go of all that tarn holds for the copy's sake, its origin included, which
// retention may remove once the copy is gone. Somebody else's hold stops it before
// anything is destroyed.
func (c Copies) unpin(ctx context.Context, d zfs.Dataset, versions []zfs.Version) error {
	tags := map[string][]string{}
	for _, v := range versions {
		list, err := c.tagsOf(ctx, d, v)
		if err != nil {
			return err
		}
		tags[v.FullName()] = list
	}
	if d.Origin != "" {
		tags[d.Origin] = []string{holdDivergent}
	}
	for snapshot, list := range tags {
		for _, tag := range list {
			if err := ignore(c.engine.Release(ctx, tag, snapshot), zfs.ErrNotExist); err != nil {
				return fmt.Errorf("release hold: %w", err)
			}
		}
	}
	return nil
}

// tagsOf are tarn's holds on one snapshot; an error if there are others.
func (c Copies) tagsOf(ctx context.Context, d zfs.Dataset, v zfs.Version) (tags []string, err error) {
	if v.UserRefs == 0 {
		return nil, nil
	}
	holds, err := c.engine.Holds(ctx, v.FullName())
	switch {
	case errors.Is(err, zfs.ErrUnsupported):
		tags = []string{holdDivergent, holdLast + marksOf(d).replica}
		for _, id := range noted(d) {
			tags = append(tags, holdStep+id, holdLast+id)
		}
	case err != nil:
		return nil, fmt.Errorf("list holds: %w", err)
	}
	for _, h := range holds {
		if owner(h.Tag) == "" && h.Tag != holdDivergent {
			return nil, &zfs.Error{Op: "destroy", Object: v.FullName(), Class: zfs.ErrHeld, Text: "by " + h.Tag + ", which is not tarn's: release it first"}
		}
		tags = append(tags, h.Tag)
	}
	return tags, nil
}
