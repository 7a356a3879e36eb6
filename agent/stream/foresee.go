package stream

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Foresee says how a receiver with the snapshots in have, newest first, would go on
// from a dataset here: what choose would answer, without holding or sending anything.
func Foresee(ctx context.Context, e Engine, dataset string, have []zfs.GUID) (*tarnv1.BaseFinding, error) {
	versions, err := e.Versions(ctx, dataset)
	if err != nil {
		return nil, fmt.Errorf("list versions: %w", err)
	}
	base, relation := zfs.IncrementalBase(versions, asVersions(have[:min(len(have), maxHave)]))
	out := &tarnv1.BaseFinding{Kind: foreseen(base, relation)}
	if base.GUID == 0 {
		return out, nil
	}
	out.Base, out.BaseCreatedAt = base.FullName(), timestamppb.New(base.Creation)
	ahead := steps(versions, base)
	if out.Steps = int32(len(ahead)); len(ahead) == 0 {
		return out, nil
	}
	// The estimate is a courtesy: a version that has none leaves it out.
	if n, err := e.Estimate(ctx, sendRequest(Grant{Dataset: dataset}, "", newPlan(base, ahead), zfs.StreamFlags{})); err == nil {
		out.EstimateBytes = n
	}
	return out, nil
}

func foreseen(base zfs.Version, relation zfs.Relation) string {
	switch relation {
	case zfs.RelationUpToDate:
		return "up_to_date"
	case zfs.RelationDiverged:
		return "diverged"
	case zfs.RelationIncremental:
		if base.Kind == zfs.KindBookmark {
			return "bookmark"
		}
		return "incremental"
	}
	return "unrelated"
}
