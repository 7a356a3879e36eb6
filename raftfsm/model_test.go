package raftfsm

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// The model: plain maps and the rules of manila semantics 2.5, 2.6 and of the fencing
// protocol, written down a second time. It says which commands are accepted and what
// the world looks like afterwards.

type modelReplica struct {
	host, pool string
	status     tarnv1.Status
	state      tarnv1.ReplicaState
}

type modelShare struct {
	kind     string
	epoch    uint64
	owner    string
	target   string
	op       string
	mode     tarnv1.PromotionMode
	final    uint64
	sealed   uint64
	proved   bool
	loss     bool
	ended    bool // the operation ended with an activation
	replicas map[string]*modelReplica
}

type model map[string]*modelShare

func domain(host, pool string) string {
	if host == "h4" && pool == "tank" {
		return "elsewhere"
	}
	return "d1"
}

const accepted Code = 0

func (m model) createShare(id, kind, host, pool string) Code {
	if s, ok := m[id]; ok {
		if s.kind != kind {
			return AlreadyExists
		}
		return accepted
	}
	r := &modelReplica{host: host, pool: pool, status: creating}
	if kind != "" {
		r.state = active
	}
	rid := replicaID(id, host, pool)
	m[id] = &modelShare{kind: kind, epoch: 1, owner: rid, replicas: map[string]*modelReplica{rid: r}}
	return accepted
}

func replicaID(share, host, pool string) string { return share + "/" + host + "/" + pool }

func (m model) createReplica(id, host, pool string) Code {
	s, ok := m[id]
	rid := replicaID(id, host, pool)
	switch {
	case !ok:
		return NotFound
	case s.replicas[rid] != nil:
		return accepted
	case s.kind == "" || s.replicas[s.owner].status != available:
		return FailedPrecondition
	case domain(host, pool) != domain(s.replicas[s.owner].host, s.replicas[s.owner].pool):
		return FailedPrecondition
	}
	s.replicas[rid] = &modelReplica{host: host, pool: pool, status: creating, state: outOfSync}
	return accepted
}

// report is a transition of status and state; false means dropped.
func (m model) report(id, rid string, st tarnv1.Status, rs tarnv1.ReplicaState) bool {
	s := m[id]
	if s == nil || s.replicas[rid] == nil {
		return false
	}
	r := s.replicas[rid]
	if st != 0 && (r.status == deleting || rid == s.target) {
		return false
	}
	if rs != 0 && (s.kind == "" || rid == s.owner || rs == active || r.status == deleting) {
		return false
	}
	after := r.status
	if st != 0 {
		after = st
	}
	if rs == inSync && r.state != inSync && after != available {
		return false
	}
	r.status = after
	if rs != 0 {
		r.state = rs
	}
	return true
}

func (m model) deleteReplica(id, rid string, force bool) Code {
	s := m[id]
	if s == nil || s.replicas[rid] == nil {
		return NotFound
	}
	if s.kind == "" || rid == s.target || rid == s.owner {
		return FailedPrecondition
	}
	if force {
		delete(s.replicas, rid)
	} else {
		s.replicas[rid].status = deleting
	}
	return accepted
}

func (m model) gone(id, rid string) bool {
	s := m[id]
	if s == nil || s.replicas[rid] == nil || s.replicas[rid].status != deleting {
		return false
	}
	delete(s.replicas, rid)
	if rid == s.owner {
		delete(m, id)
	}
	return true
}

func (m model) deleteShare(id string, force bool) Code {
	s := m[id]
	if s == nil {
		return NotFound
	}
	r := s.replicas[s.owner]
	resting := r.status == available || r.status == errored || r.status == deleting
	if len(s.replicas) > 1 || s.target != "" || (!force && !resting) {
		return FailedPrecondition
	}
	r.status = deleting
	if force {
		delete(m, id)
	}
	return accepted
}

func (m model) promote(id, rid, op string, mode tarnv1.PromotionMode, epoch uint64, allow bool) Code {
	s := m[id]
	if s == nil || s.replicas[rid] == nil {
		return NotFound
	}
	if s.op == op {
		return s.promoteAgain(rid, mode)
	}
	r := s.replicas[rid]
	switch {
	case s.kind == "" || s.target != "" || rid == s.owner:
		return FailedPrecondition
	case epoch != s.epoch:
		return Aborted
	case r.status != available && (!allow || r.status != errored), r.state != inSync && !allow:
		return FailedPrecondition
	}
	s.target, s.op, s.mode, s.final, s.sealed, s.proved, s.loss, s.ended = rid, op, mode, 0, 0, false, false, false
	r.status = changing
	return accepted
}

func (s *modelShare) promoteAgain(rid string, mode tarnv1.PromotionMode) Code {
	switch {
	case s.target == "":
		if s.ended && s.owner == rid {
			return accepted
		}
		return FailedPrecondition
	case s.target != rid:
		return FailedPrecondition
	case mode == planned && s.mode == forced:
		return FailedPrecondition
	case mode == forced && s.mode == planned && s.proved:
		return FailedPrecondition
	}
	s.mode = mode
	return accepted
}

func (m model) cancel(id, op string, unlessForced bool) Code {
	s := m[id]
	switch {
	case s == nil:
		return NotFound
	case s.op != op || (s.target == "" && s.ended):
		return FailedPrecondition
	case s.target == "":
		return accepted
	case s.mode == forced && (s.proved || unlessForced):
		return FailedPrecondition
	}
	s.replicas[s.target].status = available
	s.target, s.proved = "", false
	s.epoch++
	return accepted
}

// running checks what all commits of a promotion check.
func (m model) running(id, op string, epoch uint64) (*modelShare, Code) {
	s := m[id]
	switch {
	case s == nil:
		return nil, NotFound
	case s.target == "" || s.op != op:
		return nil, FailedPrecondition
	case s.epoch != epoch:
		return nil, Aborted
	}
	return s, accepted
}

func (m model) demote(id, op string, epoch, guid uint64) Code {
	s, code := m.running(id, op, epoch)
	if code != accepted {
		return code
	}
	if s.final != 0 && s.final != guid {
		return FailedPrecondition
	}
	if s.final == 0 {
		s.final, s.proved, s.loss = guid, true, false
	}
	return accepted
}

func (m model) seal(id, op string, epoch, guid uint64) Code {
	s, code := m.running(id, op, epoch)
	if code != accepted {
		return code
	}
	if s.mode != forced || (s.sealed != 0 && s.sealed != guid) {
		return FailedPrecondition
	}
	s.sealed = guid
	return accepted
}

// prove is by attestation: the strongest that needs nothing of the host.
func (m model) prove(id, op string, epoch, kept uint64) Code {
	s, code := m.running(id, op, epoch)
	switch {
	case code != accepted:
		return code
	case s.mode != forced || s.sealed == 0:
		return FailedPrecondition
	case s.sealed != kept:
		return InvalidArgument
	case s.final != 0:
		return FailedPrecondition
	}
	s.proved, s.loss = true, true
	return accepted
}

func (m model) activate(id, op string, epoch, guid uint64) Code {
	if s := m[id]; s != nil && s.target == "" && s.op == op && s.ended && s.epoch == epoch+1 {
		return accepted
	}
	s, code := m.running(id, op, epoch)
	if code != accepted {
		return code
	}
	clean := s.final == guid
	if !s.proved || (s.mode == planned && !clean) || (s.mode == forced && (s.sealed != guid || (!s.loss && !clean))) {
		return FailedPrecondition
	}
	s.replicas[s.owner].state = outOfSync
	s.replicas[s.target].state = active
	s.owner, s.target, s.ended = s.target, "", true
	s.epoch++
	return accepted
}

// step is one random command for both; it returns what the model expects.
func (m model) step(t *rapid.T) (verb any, want Code, applied bool) {
	id := rapid.SampledFrom([]string{"s1", "s1", "s1", "s2"}).Draw(t, "share")
	host := rapid.SampledFrom([]string{"h1", "h2", "h4"}).Draw(t, "host")
	pool := rapid.SampledFrom([]string{"tank", "dozer"}).Draw(t, "pool")
	rid := m.someReplica(t, id, replicaID(id, host, pool))
	op := rapid.SampledFrom([]string{"op1", "op2", "op3", "op4", "op5", "op6", "op7", "op8"}).Draw(t, "op")
	guid := rapid.SampledFrom([]uint64{1, 1, 1, 2}).Draw(t, "guid")
	epoch := uint64(1)
	if s := m[id]; s != nil {
		epoch = s.epoch
		if s.target != "" && rapid.SampledFrom([]bool{true, true, true, false}).Draw(t, "same op") {
			op = s.op
		}
	}
	epoch += uint64(rapid.SampledFrom([]int{0, 0, 0, 0, 1}).Draw(t, "ahead"))
	flag := rapid.Bool().Draw(t, "flag")
	mode := rapid.SampledFrom([]tarnv1.PromotionMode{planned, forced}).Draw(t, "mode")
	switch m.someVerb(t, id) {
	case 0:
		kind := rapid.SampledFrom([]string{"readable", "readable", "dr", ""}).Draw(t, "kind")
		c := newShare(id, kind)
		c.Replica = &tarnv1.Replica{Id: replicaID(id, host, pool), HostId: host, Pool: pool}
		return c, m.createShare(id, kind, host, pool), true
	case 1:
		return &raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: replicaID(id, host, pool), ShareId: id, HostId: host, Pool: pool}},
			m.createReplica(id, host, pool), true
	case 2, 3, 4:
		st := rapid.SampledFrom([]tarnv1.Status{available, 0, available, errored}).Draw(t, "status")
		rs := rapid.SampledFrom([]tarnv1.ReplicaState{inSync, 0, inSync, outOfSync, active}).Draw(t, "state")
		return &raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: rid, Status: st, ReplicaState: rs}}}, accepted, m.report(id, rid, st, rs)
	case 5:
		return &raftv1.DeleteReplica{Id: rid, Force: flag}, m.deleteReplica(id, rid, flag), true
	case 6:
		if flag {
			return &raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{{Id: rid, Gone: true}}}, accepted, m.gone(id, rid)
		}
		return &raftv1.DeleteShare{Id: id, Force: guid == 1}, m.deleteShare(id, guid == 1), true
	case 7:
		return &raftv1.PromoteReplica{Id: rid, OpId: op, Mode: mode, ExpectedEpoch: epoch, AllowOutOfSync: flag,
				Attestation: map[tarnv1.PromotionMode]string{forced: "an operator"}[mode]},
			m.promote(id, rid, op, mode, epoch, flag), true
	case 8:
		return &raftv1.CancelPromotion{ShareId: id, OpId: op, UnlessForced: flag}, m.cancel(id, op, flag), true
	case 9:
		return &raftv1.CommitDemotion{ShareId: id, OpId: op, Epoch: epoch, FinalGuid: guid}, m.demote(id, op, epoch, guid), true
	case 10:
		if s := m[id]; s == nil || s.sealed == 0 || flag && guid != s.sealed {
			return &raftv1.CommitSeal{ShareId: id, OpId: op, Epoch: epoch, HeadGuid: guid}, m.seal(id, op, epoch, guid), true
		}
		return &raftv1.CommitProof{ShareId: id, OpId: op, Epoch: epoch, Proof: tarnv1.FencingProof_FENCING_PROOF_OPERATOR_ATTESTED,
			Loss: &tarnv1.LossReport{KeptGuid: guid}}, m.prove(id, op, epoch, guid), true
	}
	return &raftv1.Activate{ShareId: id, OpId: op, Epoch: epoch, HeadGuid: guid}, m.activate(id, op, epoch, guid), true
}

// replicated starts with a share that has two replicas in_sync, in both worlds.
func (m model) replicated(n *node, id string) {
	n.t.Helper()
	c := newShare(id, "readable")
	c.Replica.Id = replicaID(id, "h1", "tank")
	n.do(c)
	m.createShare(id, "readable", "h1", "tank")
	n.available(c.Replica.Id)
	m.report(id, c.Replica.Id, available, 0)
	for _, pool := range []string{"tank", "dozer"} {
		rid := replicaID(id, "h2", pool)
		n.do(&raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: rid, ShareId: id, HostId: "h2", Pool: pool}})
		m.createReplica(id, "h2", pool)
		n.available(rid)
		n.setState(rid, inSync)
		m.report(id, rid, available, inSync)
	}
	m.compare(n.t, n.f.View())
}

// someVerb prefers what makes sense: random walks alone hardly ever finish a promotion.
func (m model) someVerb(t *rapid.T, id string) int {
	verbs := []int{2, 1, 3, 1, 4, 2, 0, 5, 6, 7}
	switch s := m[id]; {
	case s == nil:
		verbs = []int{0, 0, 0, 1, 7}
	case s.target != "" && s.mode == forced && !s.proved:
		// An owner that speaks up first leaves nothing else to be proved.
		verbs = []int{10, 11, 10, 10, 11, 10, 7, 10, 10, 11, 2, 10, 8, 6, 10, 1, 5, 9}
	case s.target != "":
		verbs = []int{9, 11, 10, 11, 10, 9, 11, 10, 7, 9, 11, 10, 2, 11, 8, 6, 1, 5}
	case len(s.replicas) > 1:
		verbs = []int{7, 2, 3, 7, 4, 7, 2, 3, 11, 8, 5, 6}
	}
	return rapid.SampledFrom(verbs).Draw(t, "verb")
}

// someReplica prefers one that exists.
func (m model) someReplica(t *rapid.T, id, otherwise string) string {
	s := m[id]
	if s == nil || rapid.IntRange(0, 5).Draw(t, "any") == 0 {
		return otherwise
	}
	var ids []string
	for rid := range s.replicas {
		ids = append(ids, rid)
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(t, "replica")
}

func (m model) compare(t tb, v *View) {
	t.Helper()
	got := map[string]string{}
	for s := range v.Shares() {
		f := s.GetFencing()
		got[s.GetId()] = fmt.Sprint(f.GetEpoch(), f.GetOwnerReplicaId(), f.GetTargetReplicaId())
	}
	for r := range v.Replicas() {
		got[r.GetId()] = fmt.Sprint(r.GetStatus(), r.GetReplicaState())
	}
	want := map[string]string{}
	for id, s := range m {
		want[id] = fmt.Sprint(s.epoch, s.owner, s.target)
		for rid, r := range s.replicas {
			want[rid] = fmt.Sprint(r.status, r.state)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("state %v\nmodel %v", got, want)
	}
}

// TestModel runs random histories against the model, command by command, and restores the
// machine from a snapshot at random points.
func TestModel(t *testing.T) {
	done := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		n, m := world(t), model{}
		m.replicated(n, "s1")
		for range rapid.IntRange(60, 120).Draw(t, "steps") {
			verb, want, applied := m.step(t)
			res := n.try(verb)
			code := accepted
			if res.Err != nil {
				code = res.Err.Code
			}
			if code != want || (res.Dropped == 0) != applied {
				t.Fatalf("%T %v: got %v (%v), dropped %d; the model says %v, applied %v", verb, verb, code, res.Err, res.Dropped, want, applied)
			}
			m.compare(t, n.f.View())
			if code == accepted && applied {
				done[fmt.Sprintf("%T", verb)]++
			}
			if rapid.IntRange(0, 30).Draw(t, "restore") == 0 {
				n.f = restored(t, dump(t, n.f.View()))
			}
		}
		checkInvariants(t, n.f.View())
	})
	if len(done) < 11 || done["*raftv1.Activate"] < 20 {
		t.Errorf("the random histories are shallow: %v", done)
	}
}
