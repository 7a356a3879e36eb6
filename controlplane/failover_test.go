package controlplane_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/controlplane"
	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// lonely is one control-plane node with short times and a switch for the hosts' power.
func lonely(t *testing.T, off string) *harness {
	t.Helper()
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, ca: ca}
	cfg := h.config([]net.Listener{socket(t)}, 0)
	cfg.Lease = controlplane.LeaseConfig{
		Duration: 600 * time.Millisecond, Wait: 1700 * time.Millisecond, Renew: 100 * time.Millisecond, Margin: 200 * time.Millisecond,
	}
	cfg.Hosts = controlplane.HostsConfig{TTL: 3 * time.Second, ReportInterval: 100 * time.Millisecond}
	dir := t.TempDir()
	for name, body := range map[string]string{"off": off, "status": `test -e "$0-$1.off" && exit 2; exit 0`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Stonith = []controlplane.StonithConfig{{
		Hosts: []string{"o*"}, Off: []string{filepath.Join(dir, "off"), "{name}", filepath.Join(dir, "status-{name}.off")},
		Status: []string{filepath.Join(dir, "status"), "{name}"}, Timeout: 20 * time.Second,
	}}
	n := h.start(cfg)
	t.Cleanup(func() { n.stop(t) })
	h.leader()
	return h
}

// TestLostHostIsSwitchedOffAndFailedOver: nothing on host one ends a lease, so that its
// silence proves nothing; a command switches it off, and the share, whose type asks for
// it, is promoted elsewhere without anybody's word.
func TestLostHostIsSwitchedOffAndFailedOver(t *testing.T) {
	h := lonely(t, `touch "$2"`)
	op, user := h.operator(), h.member("blue")
	one := h.agentOfClass("one", "az1", tarnv1.FenceClass_FENCE_CLASS_NONE)
	two := h.agent("two", "az2")
	kind, err := op.ShareTypes.CreateShareType(t.Context(), &tarnv1.CreateShareTypeRequest{
		Name: "auto", ExtraSpecs: map[string]string{
			"driver_handles_share_servers": "false", "replication_type": "readable", "tarn:auto_failover": "10s",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	share, err := user.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{Name: "docs", SizeGib: 1, ShareType: kind.GetName(), AvailabilityZone: "az1"})
	if err != nil {
		t.Fatal(err)
	}
	h.awaitShare(user, share.GetId())
	first, _ := user.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})
	replica, err := user.Replicas.CreateReplica(t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	h.awaitReplica(user, replica.GetId(), tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC)
	one.die()
	h.awaitReplica(user, replica.GetId(), tarnv1.ReplicaState_REPLICA_STATE_ACTIVE)

	get := &tarnv1.GetRequest{Id: share.GetId()}
	var seen *tarnv1.Share
	h.await("the new owner to serve", func() bool {
		_, _ = two.cl.Agent.RenewLease(context.Background(), &tarnv1.RenewLeaseRequest{
			HostId: two.id, SessionId: two.session, Shares: []*tarnv1.LeaseShare{{ShareId: share.GetId(), ReplicaId: replica.GetId(), Epoch: 2}},
		})
		seen, err = op.Shares.GetShare(context.Background(), get)
		return err == nil && seen.GetFencing().GetRight().GetState() == tarnv1.WriteState_WRITE_STATE_SERVING
	})
	f := seen.GetFencing()
	right := f.GetRight()
	if right.GetReplicaId() != replica.GetId() || right.GetHost() != "two" || right.GetEpoch() != 2 || right.GetSince() == nil ||
		right.GetProof() != tarnv1.FencingProof_FENCING_PROOF_STONITH || !strings.HasPrefix(f.GetProofDetail(), "stonith(one)") || !f.GetAutomatic() {
		t.Errorf("who may write: %v of %v", right, f)
	}
	if right := first.GetFencing().GetRight(); right.GetProof() != 0 || right.GetEpoch() != 1 || right.GetHost() != "" || right.GetFenceClass() != tarnv1.FenceClass_FENCE_CLASS_NONE {
		t.Errorf("a member saw of the first owner: %v", right)
	}
	messages, err := user.Messages.ListMessages(t.Context(), &tarnv1.ListMessagesRequest{})
	if err != nil || len(messages.GetMessages()) == 0 || !strings.Contains(messages.GetMessages()[0].GetUserMessage(), "by itself") {
		t.Errorf("messages: %v, %v", messages, err)
	}
}

// mirrored is a share in az1 with a replica in sync elsewhere.
func (h *harness) mirrored(op, user *client.Client) (*tarnv1.Share, *tarnv1.Replica) {
	h.t.Helper()
	share, err := user.Shares.CreateShare(h.t.Context(), &tarnv1.CreateShareRequest{
		Name: "docs", SizeGib: 1, ShareType: readableType(h.t, op).GetName(), AvailabilityZone: "az1",
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.awaitShare(user, share.GetId())
	replica, err := user.Replicas.CreateReplica(h.t.Context(), &tarnv1.CreateReplicaRequest{ShareId: share.GetId()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.awaitReplica(user, replica.GetId(), tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC)
	return share, replica
}

// TestWhoMayWriteWhileNobodyMay: a forced failover of a host that cannot be switched
// off says what it waits for, and an operator's word ends it.
func TestWhoMayWriteWhileNobodyMay(t *testing.T) {
	h := lonely(t, "echo outlet does not answer; exit 1")
	op, user := h.operator(), h.member("blue")
	one := h.agentOfClass("one", "az1", tarnv1.FenceClass_FENCE_CLASS_NONE)
	h.agent("two", "az2")
	share, replica := h.mirrored(op, user)
	one.die()
	force := &tarnv1.PromoteReplicaRequest{Id: replica.GetId(), Force: true, Consent: &tarnv1.Consent{Reason: "one is silent"}}
	begun, err := op.Replicas.PromoteReplica(t.Context(), force)
	if err != nil {
		t.Fatal(err)
	}
	waits := func() string {
		s, err := op.Shares.GetShare(context.Background(), &tarnv1.GetRequest{Id: share.GetId()})
		if err != nil {
			return err.Error()
		}
		return s.GetFencing().GetRight().GetWaitingFor()
	}
	h.await("the failed command to be told", func() bool { return strings.Contains(waits(), "outlet does not answer") })
	seen, err := user.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})
	right := seen.GetFencing().GetRight()
	if err != nil || right.GetReplicaId() != "" || right.GetWaitingFor() == "" || strings.Contains(right.GetWaitingFor(), "outlet") {
		t.Errorf("a member is told %v, %v", right, err)
	}
	force.OpId, force.AttestHostIsDown, force.Consent = begun.GetOpId(), true, &tarnv1.Consent{Reason: "pulled the plug"}
	if _, err := op.Replicas.PromoteReplica(t.Context(), force); err != nil {
		t.Fatal(err)
	}
	h.awaitReplica(user, replica.GetId(), tarnv1.ReplicaState_REPLICA_STATE_ACTIVE)
	seen, err = op.Shares.GetShare(t.Context(), &tarnv1.GetRequest{Id: share.GetId()})
	if f := seen.GetFencing(); err != nil || f.GetProof() != tarnv1.FencingProof_FENCING_PROOF_OPERATOR_ATTESTED || !strings.HasSuffix(f.GetProofDetail(), "pulled the plug") {
		t.Errorf("the proof is %v, %v", f, err)
	}
}
