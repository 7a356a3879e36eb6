package api_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"tarn/controlplane/client"
	"tarn/controlplane/consensus"
	tarnv1 "tarn/proto/tarn/v1"
)

func TestCreateIsIdempotentByID(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	s.host("two", "az2")
	kind := s.shareType(op, "gold")
	req := &tarnv1.CreateShareRequest{Id: uuid.NewString(), Name: "docs", SizeGib: 2, ShareType: kind.GetId()}
	first, err := op.Shares.CreateShare(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := op.Shares.CreateShare(t.Context(), req)
	if err != nil || again.GetRevision() != first.GetRevision() {
		t.Errorf("repeated: %v, %v", again, err)
	}
	req.SizeGib = 3
	wantCode(t, second(op.Shares.CreateShare(t.Context(), req)), connect.CodeAlreadyExists)
	s.available(first.GetId())

	snap := &tarnv1.CreateSnapshotRequest{Id: uuid.NewString(), ShareId: first.GetId(), Name: "a"}
	rule := &tarnv1.AllowAccessRequest{Id: uuid.NewString(), ShareId: first.GetId(), AccessTo: "192.0.2.0/24"}
	replica := &tarnv1.CreateReplicaRequest{Id: uuid.NewString(), ShareId: first.GetId()}
	for range 2 {
		for _, err := range []error{
			second(op.Snapshots.CreateSnapshot(t.Context(), snap)),
			second(op.AccessRules.AllowAccess(t.Context(), rule)),
			second(op.Replicas.CreateReplica(t.Context(), replica)),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	if n := len(s.fsm.View().ReplicasOfShare(first.GetId())); n != 2 {
		t.Errorf("%d replicas, want 2", n)
	}
	snap.Name, rule.AccessTo, replica.AvailabilityZone = "b", "192.0.2.1", "az9"
	wantCode(t, second(op.Snapshots.CreateSnapshot(t.Context(), snap)), connect.CodeAlreadyExists)
	wantCode(t, second(op.AccessRules.AllowAccess(t.Context(), rule)), connect.CodeAlreadyExists)
	wantCode(t, second(op.Replicas.CreateReplica(t.Context(), replica)), connect.CodeAlreadyExists)
}

func TestPlacementFailureSaysWhyPerPool(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	_, err := op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{
		SizeGib: 1, ShareType: s.shareType(op, "gold").GetId(), AvailabilityZone: "mars",
	})
	wantCode(t, err, connect.CodeFailedPrecondition)
	why, ok := client.Detail[*tarnv1.PlacementFailure](err)
	if !ok || len(why.GetRefusals()) != 1 || why.GetRefusals()[0].GetFilter() != "zone" || why.GetRefusals()[0].GetPool() != "one@dir#tank" {
		t.Errorf("refusals %v", why)
	}
}

func TestQuotaExceededNamesTheLimit(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	kind := s.shareType(op, "gold")
	if _, err := op.Quotas.UpdateQuota(t.Context(), &tarnv1.QuotaLimits{ProjectId: "default", Limits: map[string]int64{"gigabytes": 3}}); err != nil {
		t.Fatal(err)
	}
	s.share(op, kind, "fits")
	_, err := op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{SizeGib: 2, ShareType: kind.GetId()})
	wantCode(t, err, connect.CodeResourceExhausted)
	if q, ok := client.Detail[*tarnv1.QuotaExceeded](err); !ok || q.GetKey() != "gigabytes" || q.GetLimit() != 3 || q.GetInUse() != 2 {
		t.Errorf("detail %v", q)
	}
	set, err := op.Quotas.GetQuota(t.Context(), &tarnv1.GetQuotaRequest{})
	if err != nil || set.GetQuotas()["gigabytes"].GetInUse() != 2 || set.GetQuotas()["shares"].GetLimit() != 50 {
		t.Errorf("quota %v, %v", set, err)
	}
}

func TestUnknownOutcomeIsCalledUnknown(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	kind := s.shareType(op, "gold")
	s.log.set(func() { s.log.fail = consensus.ErrUnknownOutcome })
	req := &tarnv1.CreateShareRequest{Id: uuid.NewString(), SizeGib: 1, ShareType: kind.GetId()}
	got := post(t, httpClient(t, s.tls(operatorSubject())), s.addr, "/tarn.v1.ShareService/CreateShare", req)
	if got.code != connect.CodeUnavailable.String() || got.message != "outcome unknown, retry with the same id" {
		t.Fatalf("%s %s", got.code, got.message)
	}
	s.log.set(func() { s.log.fail = nil })
	// It had taken effect: the repetition finds it.
	if share, err := op.Shares.CreateShare(t.Context(), req); err != nil || share.GetId() != req.GetId() {
		t.Errorf("repetition: %v", err)
	}
}

func TestFollowersNameTheLeader(t *testing.T) {
	s := newServer(t)
	s.log.set(func() { s.log.notFirst = true })
	web := httpClient(t, s.tls(operatorSubject()))
	for method, msg := range map[string]*tarnv1.ListSharesRequest{
		"linearizable": {}, "stale": {Consistency: tarnv1.Consistency_CONSISTENCY_STALE},
	} {
		got := post(t, web, s.addr, "/tarn.v1.ShareService/ListShares", msg)
		if method == "stale" {
			if got.code != "ok" {
				t.Errorf("stale read: %s %s", got.code, got.message)
			}
			continue
		}
		if got.code != connect.CodeFailedPrecondition.String() || got.header.Get("Tarn-Leader") != leaderAddr {
			t.Errorf("%s read: %s %s, leader %q", method, got.code, got.message, got.header.Get("Tarn-Leader"))
		}
	}
	got := post(t, web, s.addr, "/tarn.v1.ShareService/CreateShare", &tarnv1.CreateShareRequest{SizeGib: 1})
	if got.code != connect.CodeFailedPrecondition.String() || got.header.Get("Tarn-Leader") != leaderAddr {
		t.Errorf("write: %s %s", got.code, got.message)
	}
}

func TestListsPageSortAndFilter(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	kind := s.shareType(op, "gold")
	for i := range 25 {
		_, err := op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{
			Name: fmt.Sprintf("share-%02d", i), SizeGib: int64(1 + i%3), ShareType: kind.GetId(),
			Metadata: map[string]string{"odd": fmt.Sprint(i % 2)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for sort, key := range map[string]func(*tarnv1.Share) string{
		"":          func(x *tarnv1.Share) string { return x.GetName() },
		"name":      func(x *tarnv1.Share) string { return x.GetName() },
		"-name":     func(x *tarnv1.Share) string { return x.GetName() },
		"-size_gib": func(x *tarnv1.Share) string { return fmt.Sprint(x.GetSizeGib()) },
	} {
		var keys []string
		token, pages := "", 0
		for {
			res, err := op.Shares.ListShares(t.Context(), &tarnv1.ListSharesRequest{Limit: 10, PageToken: token, Sort: sort})
			if err != nil || res.GetTotal() != 25 {
				t.Fatalf("%q: total %d, %v", sort, res.GetTotal(), err)
			}
			for _, share := range res.GetShares() {
				keys = append(keys, key(share))
			}
			pages++
			if token = res.GetNextPageToken(); token == "" {
				break
			}
		}
		sorted := slices.Sorted(slices.Values(keys))
		if sort != "" && sort[0] == '-' {
			slices.Reverse(sorted)
		}
		if pages != 3 || len(keys) != 25 || !slices.Equal(keys, sorted) {
			t.Errorf("%q: %d pages, %d records, in order %v", sort, pages, len(keys), slices.Equal(keys, sorted))
		}
	}
	res, err := op.Shares.ListShares(t.Context(), &tarnv1.ListSharesRequest{
		NameContains: "-0", Metadata: map[string]string{"odd": "1"}, Status: tarnv1.Status_STATUS_CREATING,
	})
	if err != nil || res.GetTotal() != 5 {
		t.Errorf("filtered: %d, %v", res.GetTotal(), err)
	}
}

func TestShareTypesLifecycle(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	kind := s.shareType(op, "gold")
	changed, err := op.ShareTypes.SetExtraSpecs(t.Context(), &tarnv1.SetExtraSpecsRequest{Id: "gold", ExtraSpecs: map[string]string{"tarn:rpo": "30s"}})
	if err != nil || changed.GetExtraSpecs()["tarn:rpo"] != "30s" || len(changed.GetExtraSpecs()) != 4 {
		t.Errorf("set: %v, %v", changed, err)
	}
	wantCode(t, second(op.ShareTypes.UnsetExtraSpecs(t.Context(), &tarnv1.UnsetExtraSpecsRequest{Id: "gold", Keys: []string{"driver_handles_share_servers"}})), connect.CodeInvalidArgument)
	name := "silver"
	wantCode(t, second(op.ShareTypes.UpdateShareType(t.Context(), &tarnv1.UpdateShareTypeRequest{Id: "gold", Revision: kind.GetRevision(), Name: &name})), connect.CodeAborted)
	if _, err := op.ShareTypes.UpdateShareType(t.Context(), &tarnv1.UpdateShareTypeRequest{Id: "gold", Revision: changed.GetRevision(), Name: &name}); err != nil {
		t.Error(err)
	}
	if _, err := op.ShareTypes.DeleteShareType(t.Context(), &tarnv1.GetRequest{Id: "silver"}); err != nil {
		t.Error(err)
	}
	wantCode(t, second(op.ShareTypes.GetShareType(t.Context(), &tarnv1.GetRequest{Id: kind.GetId()})), connect.CodeNotFound)
}

func TestOperatorsChooseAProject(t *testing.T) {
	s := newServer(t)
	s.host("one", "az1")
	kind := s.shareType(s.operator(), "gold")
	in := func(project string) (*client.Client, error) {
		return client.New(client.Config{Addresses: []string{s.addr}, TLS: s.tls(operatorSubject()), Project: project})
	}
	green, err := in("green")
	if err != nil {
		t.Fatal(err)
	}
	defer green.Close()
	if share := s.share(green, kind, "g"); share.GetProjectId() != "green" {
		t.Errorf("share in %q", share.GetProjectId())
	}
	if list, err := s.operator().Shares.ListShares(t.Context(), &tarnv1.ListSharesRequest{}); err != nil || list.GetTotal() != 0 {
		t.Errorf("default project: %v, %v", list, err)
	}
	if list, err := s.operator().Shares.ListShares(t.Context(), &tarnv1.ListSharesRequest{AllProjects: true}); err != nil || list.GetTotal() != 1 {
		t.Errorf("all projects: %v, %v", list, err)
	}
	bad, err := client.New(client.Config{Addresses: []string{s.addr}, TLS: s.tls(memberSubject("blue")), Project: "green"})
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	wantCode(t, second(bad.Shares.ListShares(t.Context(), &tarnv1.ListSharesRequest{})), connect.CodePermissionDenied)
}

func TestJSONOverHTTPWorks(t *testing.T) {
	s := newServer(t)
	web := httpClient(t, s.tls(operatorSubject()))
	res, err := web.Post("https://"+s.addr+"/tarn.v1.OperatorService/GetStatus", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var status struct {
		ClusterID string `json:"clusterId"`
	}
	if err := json.NewDecoder(res.Body).Decode(&status); err != nil || status.ClusterID != "test" {
		t.Errorf("status %d: %+v, %v", res.StatusCode, status, err)
	}
}
