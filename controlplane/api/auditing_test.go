package api_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"tarn/controlplane/audit"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// memoryAuditor is an audit file in memory that may be full.
type memoryAuditor struct {
	mu      sync.Mutex
	full    bool
	entries []audit.Entry
}

func (m *memoryAuditor) add(kind string, e audit.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return errors.New("no space left on device: canary")
	}
	e.Kind = kind
	m.entries = append(m.entries, e)
	return nil
}

func (m *memoryAuditor) Intend(e audit.Entry) error { return m.add(audit.KindIntent, e) }
func (m *memoryAuditor) Denied(e audit.Entry) error { return m.add(audit.KindDenied, e) }

func (m *memoryAuditor) set(full bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = full
}

func (m *memoryAuditor) take() []audit.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.entries
	m.entries = nil
	return out
}

// destructiveMethods are those that take something away or give rights away: written
// down apart from the function that it checks.
func destructiveMethods() []string {
	return []string{
		"DeleteShare", "DeleteReplica", "DeleteSnapshot", "DeleteShareType", "PurgeDivergentCopy", "ResetShareStatus", "ResetReplicaStatus",
		"ResetReplicaState", "ResetSnapshotStatus", "ResetQuota", "PromoteReplica", "RemoveHost", "RemoveRaftServer", "RemoveProjectAccess",
		"UnmanageShare", "UnmanageReplica", "UnmanageSnapshot", "ShrinkShare", "CreateJoinToken", "DenyAccess", "CreateUser", "RevokeUser",
		"DismissUnknownReplica",
	}
}

// TestNoDestructiveCallWithoutAudit fills the disk under the audit file: no call that
// destroys anything reaches the log, all others work, and afterwards they do too.
func TestNoDestructiveCallWithoutAudit(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	web := httpClient(t, s.tls(operatorSubject()))
	s.host("one", "az1")
	kind := s.shareType(op, "gold")
	share := s.share(op, kind, "docs")
	s.auditor.take()
	s.auditor.set(true)
	before := s.log.proposals()
	for _, m := range methods(t) {
		if !slices.Contains(destructiveMethods(), string(m.Name())) {
			continue
		}
		req := dynamicpb.NewMessage(m.Input())
		if f := m.Input().Fields().ByName("id"); f != nil {
			req.Set(f, protoreflect.ValueOfString(share.GetId()))
		}
		got := post(t, web, s.addr, procedure(m), req)
		// What is malformed is refused before; nothing else may get further.
		if got.code != connect.CodeFailedPrecondition.String() && got.code != connect.CodeInvalidArgument.String() {
			t.Errorf("%s: %s %s", m.FullName(), got.code, got.message)
		}
		if strings.Contains(got.message, "canary") {
			t.Errorf("%s shows what is for the log: %s", m.FullName(), got.message)
		}
	}
	_, err := op.Shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: share.GetId()})
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "audit file") {
		t.Errorf("delete: %v", err)
	}
	if s.log.proposals() != before {
		t.Error("a destructive call reached the log")
	}
	if _, err := op.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()}); err != nil {
		t.Errorf("reading: %v", err)
	}
	s.auditor.set(false)
	if _, err := op.Shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: share.GetId()}); err != nil {
		t.Errorf("with space again: %v", err)
	}
	if got := s.auditor.take(); len(got) != 1 || got[0].Kind != audit.KindIntent || !strings.Contains(got[0].Details, share.GetId()) {
		t.Errorf("intent: %+v", got)
	}
}

// TestEveryDestructiveMethodIsCalledSo: a new method of such a name needs a line above.
func TestEveryDestructiveMethodIsCalledSo(t *testing.T) {
	for _, m := range methods(t) {
		for _, verb := range []string{"Delete", "Purge", "Reset", "Promote", "Remove", "Unmanage", "Revoke", "Destroy", "Force"} {
			if strings.HasPrefix(string(m.Name()), verb) && m.Name() != "DeleteMessage" && !slices.Contains(destructiveMethods(), string(m.Name())) {
				t.Errorf("%s is missing", m.Name())
			}
		}
	}
}

func TestRefusalsAreNoted(t *testing.T) {
	s := newServer(t)
	user := s.member("blue")
	s.auditor.take()
	_, err := user.Hosts.ListHosts(t.Context(), &tarnv1.ListHostsRequest{})
	wantCode(t, err, connect.CodePermissionDenied)
	post(t, httpClient(t, anonymous(s)), s.addr, "/tarn.v1.ShareService/ListShares", &tarnv1.ListSharesRequest{})
	_, err = user.Join.Join(t.Context(), joinRequest(t, "tarn1.test."+s.ca.Hash()+"."+strings.Repeat("A", 43)))
	wantCode(t, err, connect.CodePermissionDenied)
	got := s.auditor.take()
	if len(got) != 3 {
		t.Fatalf("%d refusals: %+v", len(got), got)
	}
	if got[0].Action != "tarn.v1.HostService/ListHosts" || !strings.HasPrefix(got[0].Actor, "spiffe://test/client/") || got[0].Remote == "" {
		t.Errorf("role: %+v", got[0])
	}
	if got[1].Actor != "nobody" || got[1].Action != "tarn.v1.ShareService/ListShares" {
		t.Errorf("no certificate: %+v", got[1])
	}
	if strings.Contains(got[2].Details, "AAAA") {
		t.Errorf("a token is in the audit file: %+v", got[2])
	}
}

func TestAuditRecordsOverTheAPI(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	kind := s.shareType(op, "gold")
	share := s.share(s.member("blue"), kind, "docs")
	all, err := op.Operator.ListAuditRecords(t.Context(), &tarnv1.ListAuditRecordsRequest{})
	if err != nil || all.GetHeadSeq() != uint64(len(all.GetRecords())) {
		t.Fatalf("%d records, head %d, %v", len(all.GetRecords()), all.GetHeadSeq(), err)
	}
	if err := audit.VerifyRecords(nil, all.GetRecords()); err != nil {
		t.Error(err)
	}
	mine, err := op.Operator.ListAuditRecords(t.Context(), &tarnv1.ListAuditRecordsRequest{ObjectId: share.GetId(), Limit: 1})
	if err != nil || len(mine.GetRecords()) != 1 || mine.GetRecords()[0].GetAction() != "create_share" || mine.GetRecords()[0].GetProjectId() != "blue" {
		t.Errorf("%v, %v", mine.GetRecords(), err)
	}
	_, err = s.member("blue").Operator.ListAuditRecords(t.Context(), &tarnv1.ListAuditRecordsRequest{})
	wantCode(t, err, connect.CodePermissionDenied)
}

func joinRequest(t *testing.T, token string) *tarnv1.JoinRequest {
	t.Helper()
	csr, _, err := identity.NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	return &tarnv1.JoinRequest{Token: token, NodeId: uuid.NewString(), Csr: csr}
}
