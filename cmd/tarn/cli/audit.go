package cli

import (
	"context"
	"fmt"
	"strconv"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type auditCmd struct {
	List   auditList   `cmd:"" help:"Who did what, and what came of it."`
	Verify auditVerify `cmd:"" help:"Check that no record was changed, taken out or put in."`
}

var auditView = view[*tarnv1.AuditRecord]{
	id: func(r *tarnv1.AuditRecord) string { return strconv.FormatUint(r.GetSeq(), 10) },
	list: []column[*tarnv1.AuditRecord]{
		{"SEQ", func(r *tarnv1.AuditRecord) string { return strconv.FormatUint(r.GetSeq(), 10) }},
		{"AT", func(r *tarnv1.AuditRecord) string { return stampText(r.GetAt()) }},
		{"ACTOR", (*tarnv1.AuditRecord).GetActor},
		{"ACTION", (*tarnv1.AuditRecord).GetAction},
		{"OBJECT", (*tarnv1.AuditRecord).GetObjectId},
		{"EPOCH", epochText},
		{"RESULT", (*tarnv1.AuditRecord).GetResult},
		{"REASON", (*tarnv1.AuditRecord).GetReason},
	},
}

func epochText(r *tarnv1.AuditRecord) string {
	switch {
	case r.GetShareId() == "":
		return "-"
	case r.GetOldEpoch() == r.GetNewEpoch():
		return strconv.FormatUint(r.GetNewEpoch(), 10)
	}
	return fmt.Sprintf("%d → %d", r.GetOldEpoch(), r.GetNewEpoch())
}

type auditList struct {
	Actor  string `help:"Only what this certificate URI or user did."`
	Action string `help:"Only this action, as in promote_replica."`
	Object string `help:"Only what was done to this id, or to this share and what belongs to it."`
	After  uint64 `help:"Only records after this number."`
	Limit  int    `help:"At most so many, the oldest first; 0 for all."`
}

func (c *auditList) Run(ctx context.Context, a *app, api *client.Client) error {
	records, _, err := auditRecords(ctx, api, &tarnv1.ListAuditRecordsRequest{
		AfterSeq: c.After, Actor: c.Actor, Action: c.Action, ObjectId: c.Object,
	}, c.Limit)
	if err != nil {
		return err
	}
	return auditView.printList(a, a.stdout, records)
}

// auditRecords reads all pages, or the first limit records.
func auditRecords(ctx context.Context, api *client.Client, req *tarnv1.ListAuditRecordsRequest, limit int) (all []*tarnv1.AuditRecord, head *tarnv1.ListAuditRecordsResponse, err error) {
	for {
		page, err := api.Operator.ListAuditRecords(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		all, head = append(all, page.GetRecords()...), page
		if limit > 0 && len(all) >= limit {
			return all[:limit], head, nil
		}
		if page.GetNextAfterSeq() == 0 {
			return all, head, nil
		}
		req.AfterSeq = page.GetNextAfterSeq()
	}
}

type auditVerify struct {
	File    []string `help:"A node's audit file or directory; repeatable. On a node it is audit below data_dir." placeholder:"PATH"`
	Offline bool     `help:"Only the files: do not ask the cluster."`
}
