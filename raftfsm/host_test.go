package raftfsm

import (
	"testing"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func TestRegisterAgainKeepsWhatOperatorsDecided(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetHostAdminState{Id: "h1", AdminState: tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING, Reason: "old disks"})
	before, _ := n.f.View().Host("h1")
	if rec := n.do(&raftv1.RegisterHost{Host: host(1)}); rec != before {
		t.Errorf("the same registration was stored again")
	}
	next := host(1)
	next.SessionId, next.AdminState = "new", tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED
	n.do(&raftv1.RegisterHost{Host: next})
	got, _ := n.f.View().Host("h1")
	if got.GetSessionId() != "new" || got.GetAdminState() != before.GetAdminState() || got.GetDisabledReason() != "old disks" {
		t.Errorf("after registration: %v", got)
	}
	n.refused(FailedPrecondition, "host_id", newShare("s", "dr"))
}

func TestPoolThatHoldsReplicasIsNotForgotten(t *testing.T) {
	n := world(t)
	n.share("s", "dr")
	less := host(1)
	less.Pools = nil
	n.do(&raftv1.RegisterHost{Host: less})
	h, _ := n.f.View().Host("h1")
	if len(h.GetPools()) != 1 || h.GetPools()[0].GetName() != "tank" || h.GetPools()[0].GetHealth() != poolMissing {
		t.Errorf("pools after one vanished: %v", h.GetPools())
	}
	p := n.f.View().ProjectHost(h)
	if p.GetReplicaCount() != 1 || p.GetPools()[0].GetProvisionedCapacityGib() != 2 || p.GetPools()[0].GetFullName() != "node1@zfs#tank" {
		t.Errorf("projected: %v", p)
	}
	if gib, replicas := n.f.View().PoolProvisioned("h1", "tank"); gib != 2 || replicas != 1 {
		t.Errorf("provisioned %d GiB by %d replicas", gib, replicas)
	}
	n.do(&raftv1.RemoveHost{Id: "h4"})
}

func TestShareTypes(t *testing.T) {
	n := world(t)
	for _, id := range []string{"t-dr", "t-readable"} {
		st, _ := n.f.View().ShareType(id)
		n.do(&raftv1.PutShareType{ExpectedRevision: st.GetRevision(), ShareType: &tarnv1.ShareType{Id: id, Name: id, IsDefault: true}})
	}
	if a, _ := n.f.View().ShareType("t-dr"); a.GetIsDefault() {
		t.Errorf("two types are the default")
	}
	st, _ := n.f.View().ShareTypeByName("t-readable")
	again := &tarnv1.ShareType{Id: "t-readable", Name: "t-readable", IsDefault: true}
	if rec := n.do(&raftv1.PutShareType{ShareType: again}); rec != st {
		t.Errorf("a retried create stored something")
	}
	n.do(&raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p", ShareTypeId: "t-dr", Limits: map[string]int64{QuotaShares: 1}}})
	n.do(&raftv1.DeleteShareType{Id: "t-dr"})
	if _, left := n.f.View().QuotaLimits("p", "", "t-dr"); left {
		t.Errorf("limits of a deleted type are left")
	}
}
