package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"tarn/controlplane/audit"
	tarnv1 "tarn/proto/tarn/v1"
)

// auditVerdict is what was found unbroken.
type auditVerdict struct {
	Files   []*auditedFile  `json:"files,omitempty"`
	Cluster *auditedCluster `json:"cluster,omitempty"` // nil when it was not asked
}

// auditedCluster is the records that the cluster keeps; First and Last are 0 without any.
type auditedCluster struct {
	Records int    `json:"records"`
	First   uint64 `json:"first_seq"`
	Last    uint64 `json:"last_seq"`
	Head    string `json:"head"` // the last one's hash, in hex
}

type auditedFile struct {
	Path string `json:"path"`
	audit.Counts
	HeadSeq uint64 `json:"head_seq"` // the newest record's number, 0 without one
	// History compares the newest record with the cluster's of that number.
	History history `json:"history"`

	head *tarnv1.AuditRecord
}

type history string

const (
	historyUnasked history = "not asked"       // --offline
	historySame    history = "same"            // as the cluster's, up to HeadSeq
	historyNone    history = "no records"      // the file has none of the cluster's
	historyGone    history = "not kept so far" // the cluster does not have HeadSeq any more
)

// Run checks the files, then the cluster's records, then that both are the same.
func (c *auditVerify) Run(ctx context.Context, a *app) error {
	if c.Offline && len(c.File) == 0 {
		return usage("--offline needs --file")
	}
	var v auditVerdict
	err := c.verify(ctx, a, &v)
	switch {
	case a.Quiet:
	case a.Output == "table":
		v.print(a.stdout) // what was found before it went wrong, too
	case err == nil:
		return printMachine(a, a.stdout, v)
	}
	return err
}

func (c *auditVerify) verify(ctx context.Context, a *app, v *auditVerdict) error {
	for _, path := range c.File {
		f, err := verifyPath(path)
		if err != nil {
			return err
		}
		v.Files = append(v.Files, f)
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
	v.Cluster = clusterRecords(records)
	if v.Cluster.Last < head.GetHeadSeq() {
		return fmt.Errorf("the cluster gave records to %d, its newest is %d", v.Cluster.Last, head.GetHeadSeq())
	}
	for _, f := range v.Files {
		if err := f.compare(records); err != nil {
			return err
		}
	}
	return nil
}

func clusterRecords(records []*tarnv1.AuditRecord) *auditedCluster {
	if len(records) == 0 {
		return &auditedCluster{}
	}
	last := records[len(records)-1]
	return &auditedCluster{
		Records: len(records), First: records[0].GetSeq(), Last: last.GetSeq(), Head: hex.EncodeToString(last.GetHash()),
	}
}

func verifyPath(path string) (*auditedFile, error) {
	verify := audit.VerifyFile
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		verify = audit.VerifyDir
	}
	end, err := verify(path)
	if err != nil {
		return nil, err
	}
	head := end.Head()
	return &auditedFile{Path: path, Counts: end.Counts(), HeadSeq: head.GetSeq(), History: historyUnasked, head: head}, nil
}

// compare looks for the file's newest record in the cluster's. The file was read before: the
// cluster has every record that is in it, or has lost some.
func (f *auditedFile) compare(records []*tarnv1.AuditRecord) error {
	if f.head == nil {
		f.History = historyNone
		return nil
	}
	if newest := newestSeq(records); f.HeadSeq > newest {
		return fail(exitFailure, "%s: has record %d, and the cluster's newest is %d: records were taken out, or the cluster was restored from a backup", f.Path, f.HeadSeq, newest).
			next("after a restore the files of before are a history of their own: verify them with --offline")
	}
	f.History = historyGone
	for _, r := range records {
		if r.GetSeq() != f.HeadSeq {
			continue
		}
		if !bytes.Equal(r.GetHash(), f.head.GetHash()) {
			return fmt.Errorf("%s: record %d is not the cluster's", f.Path, f.HeadSeq)
		}
		f.History = historySame
	}
	return nil
}

func (v auditVerdict) print(w io.Writer) {
	for _, f := range v.Files {
		f.print(w)
	}
	switch c := v.Cluster; {
	case c == nil:
	case c.Records == 0:
		fmt.Fprintln(w, "cluster: no records yet")
	default:
		fmt.Fprintf(w, "cluster: %d records, %d to %d, unbroken; head %s\n", c.Records, c.First, c.Last, c.Head)
	}
	for _, f := range v.Files {
		switch f.History {
		case historyNone:
			fmt.Fprintf(w, "%s: has no record of the cluster\n", f.Path)
		case historySame:
			fmt.Fprintf(w, "%s: the same history as the cluster's, up to record %d\n", f.Path, f.HeadSeq)
		case historyGone:
			fmt.Fprintf(w, "%s: not compared with the cluster: it does not have record %d any more\n", f.Path, f.HeadSeq)
		}
	}
}

func (f *auditedFile) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %d lines, unbroken: %d records, %d intents, %d refusals\n", f.Path, f.Entries, f.Records, f.Intents, f.Denied)
	if f.First > 1 {
		fmt.Fprintf(w, "%s: begins at line %d: earlier files are not here\n", f.Path, f.First)
	}
	if f.Chains > 1 {
		fmt.Fprintf(w, "%s: begins anew %d times: files were set aside or taken away\n", f.Path, f.Chains-1)
	}
	if f.Gaps > 0 {
		fmt.Fprintf(w, "%s: %d records are missing: the node was away for too long, other nodes have them\n", f.Path, f.Gaps)
	}
	if f.Forks > 0 {
		fmt.Fprintf(w, "%s: the cluster was restored from a backup %d times\n", f.Path, f.Forks)
	}
}

func newestSeq(records []*tarnv1.AuditRecord) uint64 {
	if len(records) == 0 {
		return 0
	}
	return records[len(records)-1].GetSeq()
}
