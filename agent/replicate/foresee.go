package replicate

import (
	"context"
	"fmt"
	"path"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// maxForeseen bounds the GUIDs in an answer, as a request for a stream is bounded.
const maxForeseen = 4096

// Foresee says what taking a dataset over would come to, from what Worker would find.
// It changes nothing. root is the dataset that holds all replicas of the pool.
func Foresee(ctx context.Context, e Engine, root string, q *tarnv1.ManageQuestion) (*tarnv1.ManageFinding, error) {
	name := q.GetDataset()
	if err := zfs.ValidateDataset(name); err != nil {
		return nil, fmt.Errorf("check name: %w", err)
	}
	pool, base, _ := strings.Cut(root, "/")
	s := &state{a: &tarnv1.Assignment{ManagedFrom: name, SizeGib: q.GetSizeGib(), Role: tarnv1.Role_ROLE_ACTIVE, Encrypted: q.GetEncrypted()}, l: layout{pool: pool, base: base}}
	if q.GetSecondary() {
		s.a.Role = tarnv1.Role_ROLE_SECONDARY
	}
	var err error
	if s.f.former, err = lookFormer(ctx, e, name); err != nil {
		return nil, err
	}
	if s.f.former == nil {
		return &tarnv1.ManageFinding{Obstacle: nothingThere(name).Error()}, nil
	}
	d := s.f.former.ds
	like, err := before(ctx, e, d)
	if err != nil {
		return nil, err
	}
	out := &tarnv1.ManageFinding{
		Obstacle: s.unfit().Error(), UsedBytes: d.Used, SizeGib: q.GetSizeGib(), Mounted: d.Mounted, Mountpoint: d.Mountpoint,
		RenamedBelow: path.Join(pool, base), SwitchedOff: like.exports(),
	}
	if out.SizeGib == 0 {
		out.SizeGib = foundSize(&d)
	}
	versions, err := e.Versions(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	tellSnapshots(out, versions)
	if q.GetSecondary() && out.GetSnapshots() == 0 && out.GetObstacle() == "" {
		out.Obstacle = unfitf("dataset %s has no snapshot: there is nothing to go on from", name).Error()
	}
	return out, nil
}

func tellSnapshots(out *tarnv1.ManageFinding, versions []zfs.Version) {
	f := facts{versions: versions}
	for _, g := range f.have() {
		if out.Snapshots++; len(out.Guids) < maxForeseen {
			out.Guids = append(out.Guids, uint64(g))
		}
	}
	if n := f.newest(); n.GUID != 0 {
		out.NewestSnapshot, out.NewestCreatedAt = n.Name, timestamppb.New(n.Creation)
	}
}
