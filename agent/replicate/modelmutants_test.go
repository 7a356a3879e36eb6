package replicate

import (
	"time"

	"tarn/agent/lease"
	"tarn/controlplane/assignment"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
	"tarn/zfs"
)

// mutant is the product with one of its rules replaced, and the smallest scope in
// which that shows.
type mutant struct {
	name string
	// law that it breaks; "" for what only costs liveness, or is guarded twice.
	law    string
	scope  func(*options)
	change func(*rules)
	slow   bool
}

func forcedOnce(o *options)  { o.ops, o.forced = 1, 1 }
func plannedOnce(o *options) { o.ops, o.planned = 1, 1 }

// mutants are the table of reliability 3.10, and further ones.
func mutants() []mutant {
	return append(append(leaseMutants(), promotionMutants()...), dataMutants()...)
}

func leaseMutants() []mutant {
	return []mutant{
		{name: "lease counted from receipt", law: "I1", scope: func(o *options) { forcedOnce(o); o.drift = true }, change: func(r *rules) {
			r.sent = func(a lease.Asked, received time.Duration) lease.Asked { a.Sent = received; return a }
		}},
		{name: "renewal without VerifyLeader", law: "I1", scope: func(o *options) { forcedOnce(o); o.leaders = 1 }, change: func(r *rules) { r.verify = false }},
		{name: "new leader trusts an empty grant table", law: "I1", scope: func(o *options) { forcedOnce(o); o.leaders = 1 }, change: func(r *rules) {
			r.lead = func(uint8) uint8 { return uint8(r.leaseWait) }
		}},
		{name: "activation without waiting", law: "I1", scope: forcedOnce, change: func(r *rules) { r.leaseWait = 0 }},
		{name: "D_c without drift allowance", law: "I1", scope: func(o *options) { forcedOnce(o); o.drift = true }, change: func(r *rules) { r.leaseWait = leaseTicks }},
		{name: "expiry enforced only by the agent process", law: "I1", scope: forcedOnce, change: func(r *rules) { r.guard = false }},
		{name: "answers to other requests accepted, under any epoch", law: "I1", scope: func(o *options) { forcedOnce(o); o.stray, o.losses = true, 1 }, change: func(r *rules) {
			r.judge = anyAnswer
		}},
		{slow: true, name: "answers to other requests accepted", law: "I1", scope: func(o *options) { forcedOnce(o); o.stray, o.losses = true, 1 }, change: func(r *rules) {
			r.judge = func(a lease.Asked, answer *tarnv1.RenewLeaseResponse) ([]lease.Share, time.Duration, error) {
				a.Nonce = answer.GetNonce()
				return a.Judge(answer)
			}
		}},
		{name: "grant noted after the state was read", law: "I1", scope: func(o *options) { forcedOnce(o); o.parts = true }, change: func(r *rules) { r.noteLate = true }},
		{name: "the worker does not ask for its lease", law: "I1", scope: forcedOnce, change: func(r *rules) {
			r.step = func(s *state) action { return step(with(s, func(s *state) { s.lease = true })) }
		}},
		{name: "renewals continue in FENCING", law: "I1", scope: forcedOnce, change: func(r *rules) { r.entitled = inFencing(true) }},
		{name: "renewals continue in FENCING until a proof is committed", law: "I1", scope: func(o *options) { forcedOnce(o); o.plans = true }, change: func(r *rules) {
			r.entitled = inFencing(false)
		}},
		{name: "renewals continue in FENCING until a proof is committed, and no proof waits to be committed", scope: forcedOnce, change: func(r *rules) {
			r.entitled = inFencing(false)
		}},
		{slow: true, name: "a grant is not matched with the epoch asked for", scope: func(o *options) { forcedOnce(o); o.stray, o.losses = true, 1 }, change: func(r *rules) {
			r.judge = func(a lease.Asked, answer *tarnv1.RenewLeaseResponse) ([]lease.Share, time.Duration, error) {
				if answer.GetNonce() != a.Nonce {
					return a.Judge(answer)
				}
				return anyAnswer(a, answer)
			}
		}},
	}
}

// with is a step on a state that looks different.
func with(s *state, change func(*state)) *state {
	other := *s
	change(&other)
	return &other
}

// anyAnswer takes every answer for one to this request.
func anyAnswer(a lease.Asked, answer *tarnv1.RenewLeaseResponse) ([]lease.Share, time.Duration, error) {
	a.Nonce = answer.GetNonce()
	for _, g := range answer.GetGranted() {
		g.Epoch = a.Shares[g.GetReplicaId()].Epoch
	}
	return a.Judge(answer)
}

// inFencing grants to the owner also while the share is fencing, until a proof is
// committed or even after.
func inFencing(proved bool) func(*raftfsm.View, string, []*tarnv1.LeaseShare) (granted, revoked []*tarnv1.LeaseShare) {
	return func(view *raftfsm.View, host string, shares []*tarnv1.LeaseShare) (granted, revoked []*tarnv1.LeaseShare) {
		s, _ := view.Share(modelShare)
		f, x := s.GetFencing(), shares[0]
		none := f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED
		if f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING && f.GetOwnerReplicaId() == x.GetReplicaId() &&
			f.GetEpoch() == x.GetEpoch() && (none || proved) {
			return shares, nil
		}
		return assignment.Entitled(view, host, shares)
	}
}

func promotionMutants() []mutant {
	return []mutant{
		{name: "activation without proof", law: "I1", scope: forcedOnce, change: func(r *rules) {
			r.leader = func(d *decided) []*raftv1.Command {
				if !d.fencing.GetSealed() || d.fencing.GetLoss() != nil {
					return nil
				}
				return []*raftv1.Command{proofOf(d, tarnv1.FencingProof_FENCING_PROOF_STONITH)}
			}
		}},
		{name: "activation without proof, as the state machine sees it", law: "I3", scope: forcedOnce, change: func(r *rules) {
			r.leader = func(d *decided) []*raftv1.Command {
				if !d.fencing.GetSealed() {
					return nil
				}
				return []*raftv1.Command{activationOf(d, d.fencing.GetSealedGuid())}
			}
			r.forge = func(d *decided, cmd *raftv1.Command) []*raftv1.Command {
				if cmd.GetActivate() == nil || d.fencing.GetLoss() != nil {
					return nil
				}
				return []*raftv1.Command{proofOf(d, tarnv1.FencingProof_FENCING_PROOF_STONITH)}
			}
		}},
		{name: "dataset boots writable", law: "I1", scope: func(o *options) { forcedOnce(o); o.boots = 1 }, change: func(r *rules) {
			r.resting = func(m marks) map[string]string {
				props := resting(m)
				props[zfs.PropCanMount] = on
				return props
			}
		}},
		{name: "demotion acked before done", law: "I1", scope: plannedOnce, change: func(r *rules) {
			r.acked = func(s *state) bool { return s.a.GetRole() == tarnv1.Role_ROLE_FENCED && !s.a.GetSeal() || s.acked() }
			r.step = hasty
		}},
		{name: "a forced promotion whose owner has stopped cannot be given back", law: "I12", scope: forcedOnce, change: func(r *rules) { r.version = 2 }},
		{name: "operator attests without looking", law: "I1", scope: func(o *options) { forcedOnce(o); o.attests = 1 }, change: func(r *rules) { r.blind = true }},
		{name: "planned: activation before the final snapshot has arrived", law: "I5", scope: func(o *options) { plannedOnce(o); o.writes = 1 }, change: func(r *rules) {
			r.leader = func(d *decided) []*raftv1.Command {
				if d.fencing.GetFinalGuid() == 0 {
					return nil
				}
				return []*raftv1.Command{activationOf(d, d.fencing.GetFinalGuid())}
			}
		}},
		{name: "planned: the target's head passes for the final snapshot", law: "I6", scope: func(o *options) { plannedOnce(o); o.writes = 1 }, change: func(r *rules) {
			r.edit = func(d *decided, cmd *raftv1.Command) {
				if c := cmd.GetCommitDemotion(); c != nil {
					c.FinalGuid = 1
				}
			}
		}},
		{name: "the epoch's mark is not written before the data are served", law: "I2", scope: plannedOnce, change: func(r *rules) {
			r.step = func(s *state) action {
				return step(with(s, func(s *state) {
					if s.a.GetRole() == tarnv1.Role_ROLE_ACTIVE && s.lease {
						s.f.marks.role, s.f.marks.epoch = rolePrimary, s.a.GetEpoch()
					}
				}))
			}
		}},
		{name: "an assignment below the dataset's epoch is followed", law: "I2", scope: func(o *options) { plannedOnce(o); o.crashes, o.lags = 1, 1 }, change: func(r *rules) {
			r.step = func(s *state) action {
				return step(with(s, func(s *state) {
					if s.f.ds != nil && s.ahead() {
						s.f.marks.epoch = s.a.GetEpoch() - 1
					}
				}))
			}
		}},
		{slow: true, name: "older assignments are followed", scope: func(o *options) { plannedOnce(o); o.lags = 1 }, change: func(r *rules) { r.older = true }},
	}
}

// hasty tells of a demotion before it is begun: nothing is left to be done.
func hasty(s *state) action {
	if s.a.GetRole() == tarnv1.Role_ROLE_FENCED && !s.a.GetSeal() {
		return do(doIdle)
	}
	return step(s)
}

func proofOf(d *decided, proof tarnv1.FencingProof) *raftv1.Command {
	f := d.fencing
	return command(&raftv1.CommitProof{
		ShareId: modelShare, OpId: f.GetOpId(), Epoch: f.GetEpoch(), Proof: proof,
		Loss: &tarnv1.LossReport{KeptGuid: f.GetSealedGuid(), Bound: "at_least"},
	})
}

func activationOf(d *decided, head uint64) *raftv1.Command {
	f := d.fencing
	return command(&raftv1.Activate{ShareId: modelShare, OpId: f.GetOpId(), Epoch: f.GetEpoch(), HeadGuid: head})
}

func dataMutants() []mutant {
	writing := func(o *options) { forcedOnce(o); o.writes = 2 }
	alone := func(o *options) { forcedOnce(o); o.users, o.apart = 1, true }
	return []mutant{
		{name: "zfs receive -F", law: "I7", scope: writing, change: func(r *rules) { r.receiveForced = true }},
		{name: "a sealed target goes on receiving", law: "I9", scope: writing, change: func(r *rules) {
			r.acked = func(s *state) bool { return s.a.GetSeal() || s.acked() }
			r.step = sealless
		}},
		{name: "a secondary is exported for writing", law: "I11", scope: plannedOnce, change: func(r *rules) {
			r.step = func(s *state) action { a := step(s); a.readOnly = false; return a }
		}},
		{name: "the loss report leaves a user's snapshot out, which the state machine refuses", slow: true, scope: alone, change: func(r *rules) {
			r.edit = func(_ *decided, cmd *raftv1.Command) {
				if c := cmd.GetCommitProof(); c != nil {
					c.Loss.LostSnapshots = nil
				}
			}
		}},
		{name: "the target's head passes for the owner's last, so that nothing seems lost", law: "I5", scope: alone, change: func(r *rules) {
			r.forge = func(d *decided, cmd *raftv1.Command) []*raftv1.Command {
				if cmd.GetActivate() == nil {
					return nil
				}
				f := d.fencing
				return []*raftv1.Command{command(&raftv1.CommitDemotion{
					ShareId: modelShare, OpId: f.GetOpId(), Epoch: f.GetEpoch(), FinalGuid: f.GetSealedGuid(),
				})}
			}
		}},
		{name: "the state machine takes in snapshots that a committed loss report lacks", law: "I5", scope: alone, change: func(r *rules) { r.version = 1 }},
		{name: "a snapshot is told before it has arrived", law: "I4", scope: func(o *options) { o.users = 1 }, change: func(r *rules) {
			r.report = func(s *state, report *tarnv1.ReplicaReport) {
				for _, x := range report.GetSnapshots() {
					x.Present = x.GetGuid() != 0
				}
			}
		}},
	}
}

// sealless lets the target of a forced failover follow its source as before.
func sealless(s *state) action {
	if !s.a.GetSeal() {
		return step(s)
	}
	return do(doPull)
}
