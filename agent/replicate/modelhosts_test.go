package replicate

import (
	"slices"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func cancelOf(op string) *raftv1.CancelPromotion {
	return &raftv1.CancelPromotion{ShareId: modelShare, OpId: op}
}

func (m *machine) promote(w world, target string, op uint8, mode tarnv1.PromotionMode) world {
	return m.ask(w, target, opName(op), mode, m.opt.ahead && mode == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED)
}

func (m *machine) ask(w world, target, op string, mode tarnv1.PromotionMode, prepare bool) world {
	w.cur = m.ctl.apply(w.cur, m.ctl.command(command(&raftv1.PromoteReplica{
		Id: target, OpId: op, Mode: mode, ExpectedEpoch: m.state(w).fencing.GetEpoch(), AllowOutOfSync: true, Consent: &tarnv1.Consent{}, CatchUp: prepare,
	})))
	return w
}

// prepared is what may become of a promotion that catches up first. When the leader thinks
// that it has is left open: it may begin at any time.
func (m *machine) prepared(w world, emit func(world, deed)) {
	p := m.state(w).fencing.GetPreparing()
	if p == nil || p.GetCancelled() {
		return
	}
	emit(m.ask(w, p.GetTargetReplicaId(), p.GetOpId(), tarnv1.PromotionMode_PROMOTION_MODE_PLANNED, false), deed{what: deedBegin})
	if w.spent.cancels < m.opt.cancels {
		next := w
		next.cur = m.ctl.apply(w.cur, m.ctl.command(command(cancelOf(p.GetOpId()))))
		next.spent.cancels++
		emit(next, deed{what: deedCancel})
	}
}

// users write through the export and ask for a snapshot.
func (m *machine) users(w world, emit func(world, deed)) {
	for i := range hostNames {
		a := m.agents.get(w.agents[i])
		if w.spent.writes >= m.opt.writes || !a.disk.serving() || a.disk.main.dirty {
			continue
		}
		a.disk.main.dirty = true
		next := m.with(w, i, a)
		next.spent.writes++
		emit(next, deed{what: deedWrite, host: uint8(i)})
	}
	if w.spent.users >= m.opt.users || m.state(w).fenced() {
		return
	}
	next := w
	next.cur = m.ctl.apply(w.cur, m.ctl.command(command(&raftv1.CreateSnapshot{
		Snapshot: &tarnv1.Snapshot{Id: modelSnapshot, ShareId: modelShare, Name: modelSnapshot}, InstanceIds: map[string]string{"a": "ia", "b": "ib"},
	})))
	next.spent.users++
	emit(next, deed{what: deedUserSnapshot})
}

// host is what one agent, its dead-man and its kernel do.
func (m *machine) host(w world, i int, emit func(world, deed)) {
	a := m.agents.get(w.agents[i])
	if !a.up {
		a.up = true
		emit(m.with(w, i, a), deed{what: deedStart, host: uint8(i)})
		m.failures(w, i, emit)
		return
	}
	m.assign(w, i, emit)
	if a.mem.asg != 0 {
		m.labour(w, i, emit)
		m.snapshots(w, i, emit)
	}
	m.failures(w, i, emit)
}

// failures end the agent, or the whole host.
func (m *machine) failures(w world, i int, emit func(world, deed)) {
	a := m.agents.get(w.agents[i])
	if a.up && w.spent.crashes < m.opt.crashes {
		next := m.with(w, i, a.died(a.disk))
		next.spent.crashes++
		emit(next, deed{what: deedCrash, host: uint8(i)})
	}
	if w.spent.boots < m.opt.boots {
		next := m.with(w, i, agent{disk: a.disk.boot()})
		next.spent.boots++
		emit(next, deed{what: deedBoot, host: uint8(i)})
	}
}

// died leaves what outlives an agent: the dead-man with its deadline, and the disk.
func (a agent) died(d disk) agent {
	return agent{right: right{armed: a.right.armed}, disk: d}
}

// assign gives the agent the assignment of a node, if it is not older than its own.
func (m *machine) assign(w world, i int, emit func(world, deed)) {
	if next, ok := m.assigned(w, i, w.cur, w.lag != 0 && w.lag != w.cur); ok {
		emit(next, deed{what: deedAssign, host: uint8(i)})
	}
	if w.lag == 0 || m.agents.get(w.agents[i]).newer && !m.rules.older {
		return
	}
	if next, ok := m.assigned(w, i, w.lag, false); ok {
		emit(next, deed{what: deedAssignOld, host: uint8(i)})
	}
}

func (m *machine) assigned(w world, i int, state uint16, newer bool) (world, bool) {
	a, asg := m.agents.get(w.agents[i]), m.ctl.states.get(state).assigned[i]
	if a.asg == asg {
		return w, false
	}
	a.asg, a.newer = asg, newer
	said := m.ctl.assignments.get(asg)
	a.right.wants = 0
	if said.GetRole() == tarnv1.Role_ROLE_ACTIVE {
		a.right.wants = uint8(said.GetEpoch())
	}
	if a.right.granted.epoch != a.right.wants {
		a.right.granted = timer{} // as Rights.Want has it
	}
	return m.with(w, i, a), true
}

// labour is the worker's: look, decide, do.
func (m *machine) labour(w world, i int, emit func(world, deed)) {
	a, host := m.agents.get(w.agents[i]), uint8(i)
	if a.mem.late != 0 {
		m.catchUp(w, i, emit)
		return
	}
	does := m.look(&a, host, w.past)
	if !m.opt.steps {
		m.burst(w, i, emit)
	}
	for n, o := range does.outcomes {
		if !m.opt.steps {
			break
		}
		next, after := w, a
		next.past = o.past
		if after.mem, after.disk = o.mem, o.disk; n > 0 {
			if w.spent.crashes >= m.opt.crashes {
				break
			}
			after = a.died(o.disk)
			next.spent.crashes++
		}
		emit(m.with(next, i, after), deed{what: deedWork, host: host, arg: uint16(n)})
	}
	if late := m.lateIndex(&a, does.does); m.opt.late && late != 0 {
		a.mem = does.mem
		a.mem.late = late
		emit(m.with(w, i, a), deed{what: deedDecide, host: host})
		return
	}
	if does.rests {
		m.atRest(w, i, does, emit)
	}
}

// burst does a whole round of the worker at once.
func (m *machine) burst(w world, i int, emit func(world, deed)) {
	next := w
	for range 20 {
		a := m.agents.get(next.agents[i])
		does := m.look(&a, uint8(i), next.past)
		if len(does.outcomes) == 0 {
			break
		}
		o := does.outcomes[0]
		a.mem, a.disk, next.past = o.mem, o.disk, o.past
		next = m.with(next, i, a)
	}
	if next != w {
		emit(next, deed{what: deedRound, host: uint8(i)})
	}
}

// lateIndex numbers decisions that may be carried out late.
func (m *machine) lateIndex(a *agent, k kind) uint8 {
	if k == doMark && m.ctl.assignments.get(a.mem.asg).GetRole() != tarnv1.Role_ROLE_ACTIVE {
		return 0 // rests on no lease
	}
	return uint8(max(0, slices.Index(lateKinds, k)))
}

// catchUp carries out what was decided before a pause.
func (m *machine) catchUp(w world, i int, emit func(world, deed)) {
	a := m.agents.get(w.agents[i])
	asg := m.ctl.assignments.get(a.mem.asg)
	act := action{kind: lateKinds[a.mem.late], readOnly: asg.GetRole() != tarnv1.Role_ROLE_ACTIVE}
	d := deed{what: deedLate, host: uint8(i), arg: uint16(a.mem.late)}
	recheck := a.mem.recheck
	a.mem.late, a.mem.recheck = 0, false
	key := workKey{mem: a.mem, disk: a.disk, past: w.past, host: uint8(i), lease: m.holds(&a, uint8(i))}
	if act.kind == doMark {
		act = m.seen(key, m.box(key, -1)).s.marksFor(rolePrimary, asg.GetEpoch(), "")
	}
	if done := m.carryOut(key, act); len(done) > 0 {
		a.mem, a.disk = done[0].mem, done[0].disk
	}
	if recheck {
		a.mem = memory{}
	}
	emit(m.with(w, i, a), d)
}

// atRest is what happens between two rounds of the worker: a report, a pull.
func (m *machine) atRest(w world, i int, does *work, emit func(world, deed)) {
	a, host := m.agents.get(w.agents[i]), uint8(i)
	if w.heard[i] != does.report && m.matters(w, does.report) {
		next := w
		next.heard[i] = does.report
		emit(next, deed{what: deedReport, host: host})
	}
	if does.harmless && a.right.armed.epoch != 0 && a.right.wants == 0 {
		settled := a
		settled.right.armed = timer{}
		emit(m.with(w, i, settled), deed{what: deedSettle, host: host})
	}
	from := m.agents.get(w.agents[1-i])
	if does.does != doPull || !from.up || from.mem.asg == 0 {
		return
	}
	key := placeKey{w.agents[i], w.agents[1-i], w.past, host}
	o, known := m.places[key]
	if !known {
		if mem, d, ok := m.pull(&a, host, &from, w.past); ok && (mem != a.mem || d != a.disk) {
			o = outcome{mem: mem, disk: d, past: w.past}
		}
		m.places[key] = o
	}
	if o.past != 0 {
		a.mem, a.disk = o.mem, o.disk
		emit(m.with(w, i, a), deed{what: deedPull, host: host})
	}
}

// matters reports that the leader may act on a report now.
func (m *machine) matters(w world, report uint16) bool {
	if m.opt.users > 0 {
		return true
	}
	is, r := m.state(w), m.ctl.reports.get(report)
	planned := is.fencing.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	target := r.GetReplicaId() == is.fencing.GetTargetReplicaId()
	return is.fenced() && (r.GetDemoteAck() != nil || r.GetSealAck() != nil || planned && target)
}

// snapshots are the cadence's: of what was written, and those that users want.
func (m *machine) snapshots(w world, i int, emit func(world, deed)) {
	a := m.agents.get(w.agents[i])
	if a.asg != a.mem.asg || !a.disk.main.there || !a.disk.main.dirty && m.opt.users == 0 {
		return
	}
	key := placeKey{w.agents[i], 0, w.past, uint8(i)}
	o, known := m.places[key]
	if !known {
		o = m.snapshot(a, key)
		m.places[key] = o
	}
	if o.past == 0 {
		return
	}
	a.disk = o.disk
	next := w
	next.past = o.past
	emit(m.with(next, i, a), deed{what: deedSnapshot, host: uint8(i)})
}

// placeKey is what a snapshot or a pull depends on.
type placeKey struct {
	agent, source uint32
	past          uint16
	host          uint8
}

// snapshot is the one that the cadence takes; past is 0 if it takes none.
func (m *machine) snapshot(a agent, at placeKey) (o outcome) {
	b := m.box(workKey{mem: a.mem, disk: a.disk, past: at.past, host: at.host}, -1)
	tracked, ok := m.seen(workKey{mem: a.mem, disk: a.disk, past: at.past, host: at.host}, b).tracked()
	if !ok {
		return o
	}
	d := &b.disk.main
	wanted := false
	for _, name := range tracked.Wanted {
		_, taken := (&facts{versions: b.versions(d)}).named(name)
		wanted = wanted || !taken
	}
	switch {
	case wanted:
		b.snapshot(d, born{kind: bornUser})
	case d.dirty:
		b.snapshot(d, born{kind: bornPlain, epoch: uint8(tracked.Epoch)})
	default:
		return o
	}
	if b.full {
		return o
	}
	return outcome{disk: b.disk, past: m.pastID(b.past)}
}
