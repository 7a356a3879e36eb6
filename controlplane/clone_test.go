package controlplane_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"tarn/agent/lease"
	"tarn/controlplane"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// holder is the lease of an agent, as the agent counts it, on a network that can be cut.
type holder struct {
	*lease.Keeper
	agent   *fakeAgent
	cut     atomic.Bool
	renewed atomic.Int64
	// over is set when the leader said that another life goes on.
	over atomic.Bool
	// asked is when the last request went out.
	asked atomic.Pointer[time.Time]
}

func (k *holder) RenewLease(ctx context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error) {
	if k.cut.Load() {
		return nil, errors.New("cut off")
	}
	now := time.Now()
	k.asked.Store(&now)
	return k.agent.cl.Agent.RenewLease(ctx, req)
}

func (h *harness) holder(a *fakeAgent, want lease.Share) *holder {
	h.t.Helper()
	k := h.idle(a)
	k.Want([]lease.Share{want})
	return k
}

// idle is a holder that wants nothing yet.
func (h *harness) idle(a *fakeAgent) *holder {
	h.t.Helper()
	k := &holder{agent: a}
	var err error
	k.Keeper, err = lease.NewKeeper(lease.Config{
		HostID: a.id, SessionID: a.session, Renewer: k, Every: 150 * time.Millisecond, Margin: 200 * time.Millisecond,
		AnotherLife: func() { k.over.Store(true) },
		Renewed: func(result string) {
			if result == "renewed" {
				k.renewed.Add(1)
			}
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	return k
}

func (k *holder) held(s lease.Share) bool { return k.Held(s.ShareID, s.ReplicaID, s.Epoch) }

// A machine was cloned with its agent. The clone does not get the identity while the
// original is heard of, and not before every lease that it can have had is over; from
// then on the original does not get it. Never do both hold the share's lease.
func TestTwoMachinesOfOneIdentity(t *testing.T) {
	const wait = 3 * time.Second // longer than a busy machine keeps a renewal from going out
	h := newHarness(t, 1, func(cfg *controlplane.Config) {
		cfg.Lease = controlplane.LeaseConfig{Duration: time.Second, Wait: wait, Renew: 150 * time.Millisecond, Margin: 200 * time.Millisecond}
	})
	h.leader()
	kind := readableType(t, h.operator())
	original := h.serveAgent(&fakeAgent{id: uuid.NewString(), class: tarnv1.FenceClass_FENCE_CLASS_HELPER, machine: "original"}, "one", "az1")
	want := h.ownedShare(kind)
	clone := &fakeAgent{h: h, id: original.id, session: uuid.NewString(), class: original.class, machine: "clone"}
	clone.cl = h.as(identity.Subject{Role: identity.RoleAgent, ID: original.id})
	first, second := h.holder(original, want), h.holder(clone, want)
	apart := func() {
		t.Helper()
		if second.held(want) && first.held(want) {
			t.Fatal("both hold the lease")
		}
	}
	refused := func(a *fakeAgent) bool {
		apart()
		err := a.register("one", "az1", "")
		if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition {
			t.Fatal(err)
		}
		return err != nil
	}
	h.await("the original holds the lease", func() bool { return first.held(want) })
	from := first.renewed.Load()
	h.await("the original goes on for longer than the wait", func() bool {
		if !refused(clone) {
			t.Fatal("the clone took over from a living host")
		}
		return first.renewed.Load() >= from+int64(wait/(150*time.Millisecond))
	})

	original.die()
	first.cut.Store(true)
	h.await("the clone takes over", func() bool { return !refused(clone) })
	if after := time.Since(*first.asked.Load()); after < wait {
		t.Errorf("the clone took over %s after the last lease was asked for", after)
	}
	h.await("the clone holds the lease", func() bool { apart(); return second.held(want) })
	first.cut.Store(false)
	from = second.renewed.Load()
	h.await("the clone goes on", func() bool {
		if !refused(original) || first.held(want) {
			t.Fatal("the original took over from a living clone")
		}
		return second.renewed.Load() >= from+5
	})

	// The clone's agent starts again on the same machine: at once.
	clone.session = uuid.NewString()
	if refused(clone) {
		t.Error("the agent's own machine is refused")
	}
}

// ownedShare creates a share on the only host, and is the right to write it.
func (h *harness) ownedShare(kind *tarnv1.ShareType) lease.Share {
	t, user := h.t, h.member("blue")
	t.Helper()
	share, err := user.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{Name: "docs", SizeGib: 1, ShareType: kind.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	replicas, err := user.Replicas.ListReplicas(t.Context(), &tarnv1.ListReplicasRequest{ShareId: share.GetId()})
	if err != nil || len(replicas.GetReplicas()) != 1 {
		t.Fatal(replicas, err)
	}
	return lease.Share{ShareID: share.GetId(), ReplicaID: replicas.GetReplicas()[0].GetId(), Epoch: 1}
}

// A machine is copied while it runs: both lives have the same session, machine and boot.
// One of them goes on, also under another leader; the other is told, and the operator.
func TestTwoLivesOfOneMachine(t *testing.T) {
	h := newHarness(t, 1, func(cfg *controlplane.Config) {
		cfg.Lease = controlplane.LeaseConfig{Duration: time.Second, Wait: 3 * time.Second, Renew: 150 * time.Millisecond, Margin: 200 * time.Millisecond}
	})
	h.leader()
	kind := readableType(t, h.operator())
	agent := h.serveAgent(&fakeAgent{id: uuid.NewString(), class: tarnv1.FenceClass_FENCE_CLASS_HELPER, machine: "machine"}, "one", "az1")
	want := h.ownedShare(kind)
	// Both are as they were before the first answer.
	one, two := h.idle(agent), h.idle(agent)
	one.Want([]lease.Share{want})
	two.Want([]lease.Share{want})
	h.await("one of them is told", func() bool { return one.over.Load() || two.over.Load() })
	if one.over.Load() {
		one, two = two, one
	}
	from := one.renewed.Load()
	h.await("the other goes on", func() bool {
		if one.over.Load() || two.held(want) {
			t.Fatalf("going on: told of another life %t; stopped: holds the lease %t", one.over.Load(), two.held(want))
		}
		return one.renewed.Load() >= from+5 && one.held(want)
	})

	shown := func() *tarnv1.Host {
		host, err := h.operator().Hosts.GetHost(t.Context(), &tarnv1.GetRequest{Id: agent.id})
		if err != nil {
			t.Fatal(err)
		}
		return host
	}
	if shown().GetAnotherLifeAt() != nil {
		t.Error("another life is shown before it has said so")
	}
	if _, err := agent.cl.Agent.Report(t.Context(), &tarnv1.ReportRequest{HostId: agent.id, SessionId: "nobody's", AnotherLife: true}); err != nil {
		t.Fatal(err)
	}
	if host := shown(); host.GetAnotherLifeAt() == nil || host.GetSessionId() != agent.session {
		t.Errorf("host is %v", host)
	}
}
