package replicate

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// ahead is a copy whose source named one of the copy's older snapshots as its newest. That
// alone is nothing: word of a head may be older than the pull that went beyond it.
type ahead struct {
	head   zfs.GUID  // newest here
	source zfs.GUID  // newest there, which is here too; 0: the copy is not ahead
	since  time.Time // from here on at the latest the copy had head
}

// ahead compares the newest snapshot here with the last word of the source.
func (w *Worker) ahead(head zfs.GUID, now time.Time) ahead {
	if w.follow == nil || w.s.a.GetRole() != tarnv1.Role_ROLE_SECONDARY {
		return ahead{}
	}
	seen, ok := w.follow.Seen()
	if !ok || seen.GUID == head || seen.Epoch != w.s.a.GetEpoch() {
		return ahead{}
	}
	if _, held := w.s.f.holding(seen.GUID); !held {
		return ahead{}
	}
	return ahead{head: head, source: seen.GUID, since: now}
}

// after keeps the beginning of what goes on.
func (a ahead) after(before ahead) ahead {
	if a.head == before.head && a.source == before.source {
		a.since = before.since
	}
	return a
}

// problem is what the source's word says of it: an instant after this copy had its newest
// snapshot, the source's live data were equal to an older one. nil as long as that may be
// old news.
func (a ahead) problem(seen stream.Seen) *tarnv1.ReplicaError {
	if a.source == 0 || seen.GUID != a.source || !seen.AsOf.After(a.since) {
		return nil
	}
	return &tarnv1.ReplicaError{
		Code: tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_SOURCE_ROLLED_BACK, Since: timestamppb.New(a.since), Retrying: true,
		Message: fmt.Sprintf("follow: the primary is at snapshot %s, and this copy has newer ones, up to %s: somebody has rolled the primary back, or destroyed its snapshots "+
			"(the copy stays as it is until the primary is written again, then what only the copy has is put aside; to go back to it, promote this replica before)", a.source, a.head),
	}
}
