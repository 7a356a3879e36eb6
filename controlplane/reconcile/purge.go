package reconcile

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// purges takes orders back that their hosts have carried out, and tells the users of
// the share whose data that were.
func (r *round) purges() {
	for h := range r.view.Hosts() {
		if len(h.GetPurges()) == 0 || !r.obs.Heard(h.GetId()) {
			continue
		}
		for _, p := range r.obs.Hosts[h.GetId()].Purges {
			if !p.GetGone() {
				continue
			}
			for _, o := range h.GetPurges() {
				if o.GetGuid() == p.GetGuid() {
					r.batch.Purges = append(r.batch.Purges, &raftv1.PurgeTransition{HostId: h.GetId(), Guid: o.GetGuid()})
					r.announcePurge(o)
				}
			}
		}
	}
}

func (r *round) announcePurge(o *tarnv1.PurgeOrder) {
	share, ok := r.view.Share(o.GetShareId())
	if !ok {
		return
	}
	r.batch.Messages = append(r.batch.Messages, &tarnv1.UserMessage{
		Id: r.ids(), ProjectId: share.GetProjectId(), ActionId: actionDelete, DetailId: detailUnknown, MessageLevel: "ERROR",
		CreatedAt: timestamppb.New(r.now), ExpiresAt: r.until(r.policy.MessageTTL),
		ResourceType: "SHARE", ResourceId: share.GetId(),
		UserMessage: "Data that had been kept aside when the share's history forked were destroyed on an operator's order of " +
			o.GetRequestedAt().AsTime().UTC().Format("2006-01-02 15:04:05Z") + ": " + o.GetReason(),
	})
}
