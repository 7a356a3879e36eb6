package raftfsm

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	raftv1 "tarn/proto/tarn/raft/v1"
)

func leaseWait(wait time.Duration, ledTerm uint64) *raftv1.SetLeaseWait {
	return &raftv1.SetLeaseWait{Wait: durationpb.New(wait), LedTerm: ledTerm}
}

// TestLeaseWait: whoever leads raises it; only who has led its term long enough lowers it.
// How long that is is the leader's to know.
func TestLeaseWait(t *testing.T) {
	n := newNode(t)
	n.do(&raftv1.InitCluster{ClusterId: "c"})
	n.do(&raftv1.SetCommandVersion{Version: LeaseVersion})
	has := func(want time.Duration) {
		t.Helper()
		for _, f := range []*FSM{n.f, restored(t, dump(t, n.f.View()))} {
			if got := f.View().LeaseWait(); got != want {
				t.Errorf("the wait is %s, want %s", got, want)
			}
		}
	}
	has(0)
	n.do(leaseWait(15*time.Second, 0))
	n.do(leaseWait(30*time.Second, 7))
	has(30 * time.Second)
	n.refused(Aborted, "led_term", leaseWait(15*time.Second, 0))
	n.refused(Aborted, "led_term", leaseWait(15*time.Second, 2))
	n.do(leaseWait(30*time.Second, 0))
	has(30 * time.Second)
	n.do(leaseWait(15*time.Second, 1))
	has(15 * time.Second)
	for _, bad := range []*raftv1.SetLeaseWait{
		{}, leaseWait(0, 1), leaseWait(-time.Second, 1), leaseWait(time.Hour+1, 1),
		{Wait: &durationpb.Duration{Seconds: 1, Nanos: -1}, LedTerm: 1},
	} {
		n.refused(InvalidArgument, "wait", bad)
	}
	has(15 * time.Second)
}

// TestLeaseWaitWithoutTerm: a command without its proposer's term lowers nothing.
func TestLeaseWaitWithoutTerm(t *testing.T) {
	n := newNode(t)
	n.do(leaseWait(time.Minute, 0))
	tx := begin(n.f.published.Load())
	if err := tx.setLeaseWait(leaseWait(time.Second, 0), 0); err == nil || tx.s.leaseWait != time.Minute {
		t.Errorf("lowered to %s", tx.s.leaseWait)
	}
}
