package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"

	"tarn/controlplane/audit"
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

// Run checks the files, then the cluster's records, then that both are the same.
func (c *auditVerify) Run(ctx context.Context, a *app) error {
	if c.Offline && len(c.File) == 0 {
		return usage("--offline needs --file")
	}
	heads := map[string]*tarnv1.AuditRecord{}
	for _, path := range c.File {
		head, err := verifyPath(a.stdout, path)
		if err != nil {
			return err
		}
		heads[path] = head
	}
	if c.Offline {
		return nil
	}
	api, err := a.client()
	if err != nil {
		return err
	}
	records, head, err := auditRecords(ctx, api, &tarnv1.ListAuditRecordsRequest{}, 0)
	if err != nil {
		return err
	}
	if err := audit.VerifyRecords(nil, records); err != nil {
		return fmt.Errorf("the cluster's records: %w", err)
	}
	if len(records) == 0 {
		fmt.Fprintln(a.stdout, "cluster: no records yet")
	} else {
		last := records[len(records)-1]
		fmt.Fprintf(a.stdout, "cluster: %d records, %d to %d, unbroken; head %s\n",
			len(records), records[0].GetSeq(), last.GetSeq(), hex.EncodeToString(last.GetHash()))
	}
	if newest := newestSeq(records); newest < head.GetHeadSeq() {
		return fmt.Errorf("the cluster gave records to %d, its newest is %d", newest, head.GetHeadSeq())
	}
	for _, path := range c.File {
		if err := sameHistory(a.stdout, path, heads[path], records); err != nil {
			return err
		}
	}
	return nil
}

func verifyPath(w io.Writer, path string) (*tarnv1.AuditRecord, error) {
	verify := audit.VerifyFile
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		verify = audit.VerifyDir
	}
	end, err := verify(path)
	if err != nil {
		return nil, err
	}
	n := end.Counts()
	fmt.Fprintf(w, "%s: %d lines, unbroken: %d records, %d intents, %d refusals\n", path, n.Entries, n.Records, n.Intents, n.Denied)
	if n.First > 1 {
		fmt.Fprintf(w, "%s: begins at line %d: earlier files are not here\n", path, n.First)
	}
	if n.Chains > 1 {
		fmt.Fprintf(w, "%s: begins anew %d times: files were set aside or taken away\n", path, n.Chains-1)
	}
	if n.Gaps > 0 {
		fmt.Fprintf(w, "%s: %d records are missing: the node was away for too long, other nodes have them\n", path, n.Gaps)
	}
	if n.Forks > 0 {
		fmt.Fprintf(w, "%s: the cluster was restored from a backup %d times\n", path, n.Forks)
	}
	return end.Head(), nil
}

// sameHistory compares the newest record of a file with the cluster's of that number. The
// file was read before: the cluster has every record that is in it, or has lost some.
func sameHistory(w io.Writer, path string, head *tarnv1.AuditRecord, records []*tarnv1.AuditRecord) error {
	if head == nil {
		fmt.Fprintf(w, "%s: has no record of the cluster\n", path)
		return nil
	}
	if newest := newestSeq(records); head.GetSeq() > newest {
		return fail(exitFailure, "%s: has record %d, and the cluster's newest is %d: records were taken out, or the cluster was restored from a backup", path, head.GetSeq(), newest).
			next("after a restore the files of before are a history of their own: verify them with --offline")
	}
	for _, r := range records {
		if r.GetSeq() != head.GetSeq() {
			continue
		}
		if !bytes.Equal(r.GetHash(), head.GetHash()) {
			return fmt.Errorf("%s: record %d is not the cluster's", path, r.GetSeq())
		}
		fmt.Fprintf(w, "%s: the same history as the cluster's, up to record %d\n", path, r.GetSeq())
		return nil
	}
	fmt.Fprintf(w, "%s: not compared with the cluster: it does not have record %d any more\n", path, head.GetSeq())
	return nil
}

func newestSeq(records []*tarnv1.AuditRecord) uint64 {
	if len(records) == 0 {
		return 0
	}
	return records[len(records)-1].GetSeq()
}
