package agent

import (
	"context"
	"fmt"
	"strings"

	"tarn/agent/replicate"
	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// answerManaging answers what taking a dataset over would come to. handled is false
// for other questions.
func (a *Agent) answerManaging(ctx context.Context, i *tarnv1.Inquiry, out *tarnv1.InquiryAnswer) (handled bool, err error) {
	switch q := i.GetQuestion().(type) {
	case *tarnv1.Inquiry_Manage:
		pool, _, _ := strings.Cut(q.Manage.GetDataset(), "/")
		if _, ok := a.pool(pool); !ok {
			return true, fmt.Errorf("pool %s is none of this host's: %w", pool, errNotHere)
		}
		found, err := replicate.Foresee(ctx, a.storage, a.root(pool), q.Manage)
		if err != nil {
			return true, fmt.Errorf("look at the dataset: %w", err)
		}
		out.Answer = &tarnv1.InquiryAnswer_Manage{Manage: found}
		return true, nil
	case *tarnv1.Inquiry_Base:
		worker := a.workers.worker(q.Base.GetReplicaId())
		if worker == nil {
			return true, fmt.Errorf("replica %s: %w", q.Base.GetReplicaId(), errNotHere)
		}
		have := make([]zfs.GUID, len(q.Base.GetHave()))
		for i, g := range q.Base.GetHave() {
			have[i] = zfs.GUID(g)
		}
		found, err := stream.Foresee(ctx, a.storage, worker.Dataset(), have)
		if err != nil {
			return true, fmt.Errorf("look at the share's snapshots: %w", err)
		}
		out.Answer = &tarnv1.InquiryAnswer_Base{Base: found}
		return true, nil
	}
	return false, nil
}
