package raftfsm

import (
	"maps"
	"slices"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// defaultQuota are the limits where nobody set any (manila semantics 1.10).
func defaultQuota() map[string]int64 {
	return map[string]int64{
		QuotaShares: 50, QuotaGigabytes: 1000, QuotaSnapshots: 50, QuotaSnapshotGigabytes: 1000,
		QuotaShareReplicas: 100, QuotaReplicaGigabytes: 1000, QuotaPerShareGigabytes: -1,
	}
}

// tighter is the smaller limit, -1 being none.
func tighter(a, b int64) int64 {
	if a < 0 || (b >= 0 && b < a) {
		return b
	}
	return a
}

func (s *state) projectQuota(project string) map[string]int64 {
	limits := defaultQuota()
	for _, scope := range []string{"", project} {
		if q, ok := s.limits(scope, "", ""); ok {
			maps.Copy(limits, q.GetLimits())
		}
	}
	return limits
}

// narrowings are the records that narrow a project's limits for a user or a type.
func (s *state) narrowings(project, user, shareType string) []*tarnv1.QuotaLimits {
	var out []*tarnv1.QuotaLimits
	if q, ok := s.limits(project, user, ""); ok && user != "" {
		out = append(out, q)
	}
	if q, ok := s.limits(project, "", shareType); ok && shareType != "" {
		out = append(out, q)
	}
	return out
}

func (s *state) effectiveQuota(project, user, shareType string) map[string]int64 {
	limits := s.projectQuota(project)
	narrowed := map[string]int64{}
	for _, q := range s.narrowings(project, user, shareType) {
		for k, v := range q.GetLimits() {
			if old, seen := narrowed[k]; seen {
				v = tighter(old, v)
			}
			narrowed[k] = v
		}
	}
	maps.Copy(limits, narrowed)
	return limits
}

// checkQuota refuses growth of a share beyond any limit that it falls under.
func (tx *txn) checkQuota(s *tarnv1.Share, grow amounts) *Error {
	limit := tx.s.effectiveQuota(s.GetProjectId(), s.GetUserId(), s.GetShareTypeId())[QuotaPerShareGigabytes]
	if grow[useGigabytes] > 0 && limit >= 0 && sizeOf(s) > limit {
		return exceeded(QuotaPerShareGigabytes, limit, 0, sizeOf(s))
	}
	return tx.checkQuotaOf(s.GetProjectId(), s.GetUserId(), s.GetShareTypeId(), grow)
}

func (tx *txn) checkQuotaOf(project, user, shareType string, grow amounts) *Error {
	if err := exceeds(tx.s.projectQuota(project), tx.s.used(project, "", ""), grow); err != nil {
		return err
	}
	for _, q := range tx.s.narrowings(project, user, shareType) {
		used := tx.s.used(project, q.GetUserId(), q.GetShareTypeId())
		if err := exceeds(q.GetLimits(), used, grow); err != nil {
			return err
		}
	}
	return nil
}

func exceeds(limits map[string]int64, used, grow amounts) *Error {
	for i, key := range usageKeys {
		limit, set := limits[key]
		if set && limit >= 0 && grow[i] > 0 && used[i]+grow[i] > limit {
			return exceeded(key, limit, used[i], grow[i])
		}
	}
	return nil
}

func exceeded(key string, limit, used, asked int64) *Error {
	err := refuse(ResourceExhausted, key, "quota exceeded: %d of %d in use, %d more asked for; delete something or have the quota raised",
		used, limit, asked)
	err.Quota = &tarnv1.QuotaExceeded{Key: key, Limit: limit, InUse: used, Requested: asked}
	return err
}

func (tx *txn) putQuota(c *raftv1.PutQuota) (*tarnv1.QuotaLimits, *Error) {
	next := c.GetLimits()
	if err := tx.checkLimits(next); err != nil {
		return nil, err
	}
	if old, ok := tx.s.limits(next.GetProjectId(), next.GetUserId(), next.GetShareTypeId()); ok {
		merged := maps.Clone(old.GetLimits())
		maps.Copy(merged, next.GetLimits())
		if maps.Equal(merged, old.GetLimits()) {
			return old, nil
		}
		next.Limits = merged
	}
	next.Revision = tx.s.index
	mutable(tx.own, &tx.s.quotas).put(next)
	return next, nil
}

func (tx *txn) checkLimits(q *tarnv1.QuotaLimits) *Error {
	narrow := q.GetUserId() != "" || q.GetShareTypeId() != ""
	switch {
	case len(q.GetLimits()) == 0:
		return refuse(InvalidArgument, "limits", "must name at least one limit")
	case q.GetUserId() != "" && q.GetShareTypeId() != "":
		return refuse(InvalidArgument, "share_type_id", "limits are for a user or a share type, not both")
	case narrow && q.GetProjectId() == "":
		return refuse(InvalidArgument, "project_id", "must be set with a user or a share type")
	}
	if id := q.GetShareTypeId(); id != "" {
		if _, ok := tx.s.shareType(id); !ok {
			return missing("share_type_id", "share type", id)
		}
	}
	project := tx.s.projectQuota(q.GetProjectId())
	for _, k := range slices.Sorted(maps.Keys(q.GetLimits())) {
		v := q.GetLimits()[k]
		if _, known := project[k]; !known {
			return refuse(InvalidArgument, "limits["+k+"]", "is no quota key; the keys are %v", slices.Sorted(maps.Keys(project)))
		}
		if v < -1 {
			return refuse(InvalidArgument, "limits["+k+"]", "is %d, must be -1 (unlimited) or more", v)
		}
		if narrow && tighter(v, project[k]) != v {
			return refuse(InvalidArgument, "limits["+k+"]", "is %d, above the project's %d", v, project[k])
		}
	}
	return nil
}

// resetQuota returns a scope to what it inherits. Resetting what was never set is no error.
func (tx *txn) resetQuota(c *raftv1.ResetQuota) *Error {
	key := &tarnv1.QuotaLimits{ProjectId: c.GetProjectId(), UserId: c.GetUserId(), ShareTypeId: c.GetShareTypeId()}
	mutable(tx.own, &tx.s.quotas).remove(key)
	return nil
}

func (tx *txn) deleteMessage(c *raftv1.DeleteMessage) *Error {
	if _, ok := mutable(tx.own, &tx.s.messages).remove(&tarnv1.UserMessage{Id: c.GetId()}); !ok {
		return missing("id", "message", c.GetId())
	}
	return nil
}
