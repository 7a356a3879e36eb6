package replicate

import (
	"time"

	"tarn/agent/lease"
	"tarn/controlplane/assignment"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// rules are the decisions of the product that the model runs on, at the seams at which
// a mutant replaces one. theProduct has the product's.
type rules struct {
	// leaseWait is reconcile.Policy.LeaseWait in ticks.
	leaseWait int
	// lead says how long a new leader takes itself to lead, from how long its forerunner did.
	lead func(since uint8) uint8
	// verify: a lease is granted only after a round to a quorum (consensus.Node.ReadIndex).
	verify bool
	// guard: the lease counts when the dead-man has confirmed its end (lease.Config.Guard).
	guard bool
	// noteLate: the grant is noted after the state was read that decides on it.
	noteLate bool
	// sent is what the lease counts from; the product's is the request as it was sent.
	sent func(a lease.Asked, received time.Duration) lease.Asked
	// judge is lease.Asked.Judge.
	judge func(a lease.Asked, answer *tarnv1.RenewLeaseResponse) ([]lease.Share, time.Duration, error)
	// entitled is assignment.Entitled.
	entitled func(view *raftfsm.View, host string, shares []*tarnv1.LeaseShare) (granted, revoked []*tarnv1.LeaseShare)
	// step is the worker's.
	step func(*state) action
	// acked is when the worker's side of a promotion is done.
	acked func(*state) bool
	// harmless is when the dead-man may forget a replica.
	harmless func(*tarnv1.ReplicaReport) bool
	// report is what the agent says of a replica, as Worker.observation has it.
	report func(*state, *tarnv1.ReplicaReport)
	// leader is what the leader proposes besides reconcile.Step's commands.
	leader func(*decided) []*raftv1.Command
	// edit changes a command before it is proposed.
	edit func(*decided, *raftv1.Command)
	// forge gives commands that the state machine is fed before one: it then lets pass
	// what one of its guards would stop.
	forge func(*decided, *raftv1.Command) []*raftv1.Command
	// version of commands that the members of the cluster agree on.
	version uint32
	// resting are the properties of a dataset at rest.
	resting func(marks) map[string]string
	// older: assignments of an older revision are followed, too.
	older bool
	// blind: operators attest without looking.
	blind bool
	// receiveForced is zfs receive -F.
	receiveForced bool
}

func theProduct() *rules {
	return &rules{
		leaseWait: leaseTicks + 1,
		lead:      func(uint8) uint8 { return 0 },
		verify:    true,
		guard:     true,
		sent:      func(a lease.Asked, _ time.Duration) lease.Asked { return a },
		judge:     lease.Asked.Judge,
		entitled:  assignment.Entitled,
		step:      step,
		acked:     (*state).acked,
		harmless:  Harmless,
		report:    func(*state, *tarnv1.ReplicaReport) {},
		leader:    func(*decided) []*raftv1.Command { return nil },
		edit:      func(*decided, *raftv1.Command) {},
		forge:     func(*decided, *raftv1.Command) []*raftv1.Command { return nil },
		version:   raftfsm.CommandVersion,
		resting:   resting,
	}
}
