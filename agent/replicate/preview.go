package replicate

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// maxVerdicts bounds one preview; with a name each it stays below a mebibyte.
const maxVerdicts = 4096

// Reclaimer is storage that can tell beforehand what destroying snapshots frees.
type Reclaimer interface {
	// Reclaimable is the bytes that destroying exactly these snapshots of a dataset would free.
	Reclaimable(ctx context.Context, dataset string, names ...string) (int64, error)
}

// Preview is what retention would do under a policy, were it to run now, without
// doing anything. Safe for concurrent use with Run.
func (w *Worker) Preview(ctx context.Context, keep *tarnv1.KeepPolicy) (*tarnv1.RetentionPreview, error) {
	w.mu.Lock()
	a, strange, stuck, ran := w.assigned, maps.Clone(w.view.strange), maps.Clone(w.view.stuck), w.view.ranAt
	w.mu.Unlock()
	versions, err := w.cfg.Engine.Versions(ctx, w.l.dataset())
	if err != nil {
		return nil, fmt.Errorf("list versions: %w", err)
	}
	clones, err := clonesBelow(ctx, w.cfg.Engine, w.l.root())
	if err != nil {
		return nil, err
	}
	k := w.newKeeping(a, versions, clonesOf(clones, w.l.dataset()), policyOf(keep))
	k.strange, k.stuck = strange, stuck
	k.tags, k.late = map[string][]string{}, map[release]bool{}
	for _, v := range versions {
		if v.UserRefs == 0 {
			continue
		}
		holds, err := listHolds(ctx, w.cfg.Engine, v)
		if err != nil {
			return nil, err
		}
		for _, h := range holds.list {
			k.tags[v.Name] = append(k.tags[v.Name], h.Tag)
			k.late[release{tag: h.Tag, name: v.Name}] = time.Since(h.Created) > w.cfg.AwayBudget
		}
	}
	p := k.preview()
	if !ran.IsZero() {
		p.LastRunAt = timestamppb.New(ran)
	}
	p.FreedBytes = w.reclaimable(ctx, k.prune().destroy)
	return p, nil
}

// reclaimable is what would become free; -1 where nobody can tell.
func (w *Worker) reclaimable(ctx context.Context, list []zfs.Version) int64 {
	if len(list) == 0 {
		return 0
	}
	r, ok := w.cfg.Engine.(Reclaimer)
	if !ok {
		return -1
	}
	var names []string
	for _, v := range list {
		names = append(names, v.Name)
	}
	n, err := r.Reclaimable(ctx, w.l.dataset(), names...)
	if err != nil {
		return -1
	}
	return n
}

// preview tells what prune decides. It is pure.
func (k keeping) preview() *tarnv1.RetentionPreview {
	judged := k.prune().judged
	p := &tarnv1.RetentionPreview{Keep: k.policy.text(), AsOf: timestamppb.New(k.now), Total: int32(len(judged))}
	for i, j := range judged {
		if len(j.reasons) == 0 {
			p.Going++
		}
		if len(judged)-i > maxVerdicts {
			continue
		}
		v := &tarnv1.RetentionVerdict{Name: j.of.Name, Guid: uint64(j.of.GUID), Goes: len(j.reasons) == 0}
		if !j.of.Creation.IsZero() {
			v.CreatedAt = timestamppb.New(j.of.Creation)
		}
		for _, r := range j.reasons {
			v.Causes = append(v.Causes, &tarnv1.RetentionCause{Reason: r.kind, Detail: shorten(r.detail)})
		}
		p.Snapshots = append(p.Snapshots, v)
	}
	return p
}

// maxDetail is what the control plane takes of a text, in bytes.
const maxDetail = 250

func shorten(s string) string {
	if len(s) <= maxDetail {
		return s
	}
	return strings.ToValidUTF8(s[:maxDetail], "") + "..."
}

// retained sums up a run for metrics.
func retained(k keeping, v verdict, at time.Time) Retained {
	r := Retained{At: at, Keep: k.policy.horizon(), Total: len(v.judged)}
	for _, j := range v.judged {
		if r.First.IsZero() || j.of.Creation.Before(r.First) {
			r.First = j.of.Creation
		}
		aged := len(j.reasons) > 0 && j.reasons[0].kind == whyPolicy
		if j.overdue {
			r.Overdue++
		}
		if (j.overdue || aged) && (r.Oldest.IsZero() || j.of.Creation.Before(r.Oldest)) {
			r.Oldest = j.of.Creation
		}
	}
	return r
}
