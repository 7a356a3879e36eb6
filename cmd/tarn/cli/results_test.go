package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// fakeReplicas answers what the tests need.
type fakeReplicas struct {
	tarnv1connect.ReplicaServiceClient
	deleted []string
	copies  func() *tarnv1.ListDivergentCopiesResponse
}

func (f *fakeReplicas) DeleteReplica(_ context.Context, req *tarnv1.DeleteReplicaRequest) (*tarnv1.Empty, error) {
	if len(f.deleted) == 2 {
		return nil, errors.New("enough")
	}
	f.deleted = append(f.deleted, req.GetId())
	return &tarnv1.Empty{}, nil
}

func (f *fakeReplicas) ListDivergentCopies(context.Context, *tarnv1.ListDivergentCopiesRequest) (*tarnv1.ListDivergentCopiesResponse, error) {
	return f.copies(), nil
}

func fake(replicas *fakeReplicas) (a *app, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	a = newApp(nil, nil, stdout, stderr)
	a.dial = func(*app) (*client.Client, error) { return &client.Client{Replicas: replicas}, nil }
	return a, stdout, stderr
}

// TestResultsForPrograms: JSON is one document, whatever the command and however many
// results it has, also of one that failed half-way.
func TestResultsForPrograms(t *testing.T) {
	ids := []string{"11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333"}
	for _, n := range []int{1, 2, 3} {
		a, stdout, _ := fake(&fakeReplicas{})
		code := run(t.Context(), append([]string{"replica", "delete", "-o", "json"}, ids[:n]...), a)
		var got []result
		if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || len(got) != min(n, 2) || got[0].ID != ids[0] || (code == exitOK) != (n < 3) {
			t.Errorf("%d deleted: exit code %d, %v: %s", n, code, err, stdout)
		}
	}
	a, stdout, _ := fake(nil)
	var version map[string]string
	if code := run(t.Context(), []string{"version", "-o", "json"}, a); code != exitOK || json.Unmarshal(stdout.Bytes(), &version) != nil || version["version"] == "" {
		t.Errorf("version: exit code %d: %s", code, stdout)
	}
	a, stdout, _ = fake(&fakeReplicas{})
	if run(t.Context(), []string{"replica", "delete", ids[0]}, a); stdout.String() != "replica "+ids[0]+" is being deleted\n" {
		t.Errorf("for people: %s", stdout)
	}
}

// TestSilenceIsNoPurge: of a copy whose replica is gone only its host knows, and a new
// leader has not heard of that one.
func TestSilenceIsNoPurge(t *testing.T) {
	looks := 0
	a, stdout, stderr := fake(&fakeReplicas{copies: func() *tarnv1.ListDivergentCopiesResponse {
		if looks++; looks < 3 {
			return &tarnv1.ListDivergentCopiesResponse{SilentHosts: []string{"one", "two"}}
		}
		return &tarnv1.ListDivergentCopiesResponse{SilentHosts: []string{"one"}}
	}})
	if _, err := a.client(); err != nil {
		t.Fatal(err)
	}
	a.Output = "table"
	purge := &divergentPurge{waitFlags: waitFlags{Timeout: time.Minute}}
	if err := purge.awaitPurged(t.Context(), a, &tarnv1.DivergentCopy{Guid: 7, HostId: "h", Host: "two@zfs#tank"}); err != nil {
		t.Fatal(err)
	}
	if looks != 3 || !strings.Contains(stderr.String(), "not told yet what they have: one, two") || stdout.String() != "purged 7\n" {
		t.Errorf("%d looks; %s%s", looks, stderr, stdout)
	}
}

// TestHistoryBehindAFile: a file that has newer records than the cluster proves that the
// cluster has lost some.
func TestHistoryBehindAFile(t *testing.T) {
	records := []*tarnv1.AuditRecord{{Seq: 4, Hash: []byte("d")}, {Seq: 5, Hash: []byte("e")}}
	for _, c := range []struct {
		head *tarnv1.AuditRecord
		of   []*tarnv1.AuditRecord
		says string
		bad  string
	}{
		{&tarnv1.AuditRecord{Seq: 5, Hash: []byte("e")}, records, "the same history", ""},
		{&tarnv1.AuditRecord{Seq: 3}, records, "does not have record 3 any more", ""},
		{nil, records, "has no record", ""},
		{&tarnv1.AuditRecord{Seq: 5, Hash: []byte("x")}, records, "", "is not the cluster's"},
		{&tarnv1.AuditRecord{Seq: 6}, records, "", "the cluster's newest is 5"},
		{&tarnv1.AuditRecord{Seq: 1}, nil, "", "the cluster's newest is 0"},
	} {
		var out bytes.Buffer
		f := &auditedFile{Path: "f", HeadSeq: c.head.GetSeq(), History: historyUnasked, head: c.head}
		err := f.compare(c.of)
		if err == nil {
			auditVerdict{Files: []*auditedFile{f}}.print(&out)
		}
		if !strings.Contains(out.String(), c.says) || (err == nil) != (c.bad == "") || err != nil && !strings.Contains(err.Error(), c.bad) {
			t.Errorf("head %v: %q, %v", c.head, out.String(), err)
		}
	}
}
