package replicate

import (
	"fmt"

	"tarn/agent/stream"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// leaseTicks is D_a. A clock may lose one tick while a lease runs, so that the leader
// has to wait leaseTicks and one: D_c.
const leaseTicks = 2

// world is the whole cluster at one moment, as a value that can be compared.
type world struct {
	agents [2]uint32 // numbers of agent
	past   uint16    // number of history
	cur    uint16    // what the log has decided
	// lag is what a node knows that is behind, 0 for none; deposed: it led until then
	// and does not know that it no longer does.
	lag     uint16
	deposed bool
	// plan is a command that the leader is about to propose.
	plan  uint16
	heard [2]uint16 // last reports
	// since counts ticks of this leadership, granted those since the last grant noted
	// for each host; both end at D_c, which also stands for none.
	since   uint8
	granted [2]uint8
	spent   scope
}

// scope bounds what may go wrong, and how often. Its counts are what is allowed, and
// in a world what has happened.
type scope struct {
	planned, forced, cancels, leaders, lags, crashes, boots, writes, users, losses, attests uint8
}

// switches of a scope that are no counts.
type options struct {
	scope
	kind  string // of the share: readable or dr
	steps bool   // other things may happen between two actions of a worker
	parts bool   // and between the parts of the leader's answer to a request for a lease
	drift bool   // clocks may lose a tick
	late  bool   // processes may pause between deciding and doing
	plans bool   // other commands may come between the leader's look and its proposal
	apart bool   // host b's replica is not in sync, so that users rely on host a alone
	ahead bool   // planned promotions are prepared first
	stray bool   // answers may arrive for other requests
	class tarnv1.FenceClass
	// unguarded: no dead-man watches, and the hosts say so by their class.
	unguarded bool
	ops       uint8 // promotions in all
	limit     int   // of states; 0 for none
}

// deed is one transition.
type deed struct {
	what deedKind
	host uint8
	arg  uint16
}

// machine gives the transitions of one model.
type machine struct {
	opt     options
	rules   *rules
	ctl     *control
	pasts   numberedValues[history, uint16]
	agents  numberedValues[agent, uint32]
	works   map[workKey]*work
	adopted map[adoptKey]memory
	helds   map[heldKey]bool
	places  map[placeKey]outcome
	board   *stream.Board
	cadence *Cadence
	wait    uint8 // D_c in ticks
}

// numberedValues is numbered for values that can be compared.
type numberedValues[T comparable, N uint16 | uint32] struct {
	ids map[T]N
	all []T
}

func (n *numberedValues[T, N]) number(v T) N {
	if n.ids == nil {
		n.ids = map[T]N{}
	}
	id, known := n.ids[v]
	if !known {
		if uint64(N(len(n.all)+1)) != uint64(len(n.all)+1) {
			panic(fmt.Sprintf("the model has more than %d values of %T", len(n.all), v))
		}
		n.all = append(n.all, v)
		id = N(len(n.all))
		n.ids[v] = id
	}
	return id
}

func (n *numberedValues[T, N]) get(id N) T { return n.all[id-1] }

func (m *machine) pastID(h history) uint16 { return m.pasts.number(h) }

// begin is the world at the start: host a serves, host b follows.
func (m *machine) begin() world {
	past := history{{kind: bornPlain, epoch: 1}}
	first := m.ctl.first(m.opt.kind, m.opt.class, m.opt.apart)
	w := world{cur: first, past: m.pastID(past), since: m.wait, granted: [2]uint8{0, m.wait}}
	own := dataset{there: true, mounted: true, role: 1, epoch: 1, snaps: 1}
	copied := dataset{there: true, readOnly: true, role: 2, epoch: 1, snaps: 1}
	box := &box{}
	for i, d := range []*dataset{&own, &copied} {
		was := *d
		box.set(d, m.rules.resting(marks{share: modelShare, replica: hostNames[i], role: roleNames[d.role], epoch: 1}))
		d.readOnly = was.readOnly // the one that serves is at rest no more
	}
	a := agent{up: true, disk: disk{main: own, exported: exportedRW}, right: right{
		wants: 1, granted: timer{epoch: 1}, armed: timer{epoch: 1},
	}}
	b := agent{up: true, disk: disk{main: copied}}
	if !m.rules.guard {
		a.right.armed = timer{}
	}
	for i, x := range []*agent{&a, &b} {
		x.asg = m.ctl.states.get(first).assigned[i]
		m.adopt(x, uint8(i), w.past)
		x.mem.entering = false
		x.mem.released = i == 1
		x.mem.export = 1 + x.disk.exported
		x.mem.confirmed = i == 1
		w.agents[i] = m.agents.number(*x)
	}
	return m.plain(w)
}

func (m *machine) state(w world) *decided { return m.ctl.states.get(w.cur) }

func (m *machine) with(w world, host int, a agent) world {
	m.adopt(&a, uint8(host), w.past)
	if a.up && a.mem.asg != 0 && a.mem.late == 0 {
		if seen := m.look(&a, uint8(host), w.past); seen.rests {
			a.mem = seen.mem
		}
	}
	w.agents[host] = m.agents.number(a)
	return w
}

// plain forgets what cannot matter any more. Only what is least of an owner's last
// possible grants counts, and of reports only what a running promotion waits for.
// Where that is not exact a world may do more than it could, never less.
func (m *machine) plain(w world) world {
	is := m.state(w)
	owner := is.owner()
	w.granted[1-owner] = m.wait
	if w.granted[owner] < w.since {
		w.since = m.wait
	} else {
		w.granted[owner] = m.wait
	}
	forcing := is.fenced() && is.fencing.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_FORCED
	if !forcing && w.spent.forced >= m.opt.forced {
		w.since, w.granted[owner] = m.wait, m.wait
	}
	if !is.fenced() && m.opt.users == 0 {
		w.heard = [2]uint16{}
	}
	if w.lag != 0 && m.rules.verify && !m.rules.older && m.outrun(w) {
		w = m.behind(w)
		w.lag = 0
	}
	return w
}

// outrun reports that nobody can be misled any more by the node that is behind.
func (m *machine) outrun(w world) bool {
	if w.spent.crashes < m.opt.crashes || w.spent.boots < m.opt.boots {
		return false
	}
	for i := range hostNames {
		a := m.agents.get(w.agents[i])
		if !a.up || !a.newer || a.right.at == requestOutdated {
			return false
		}
	}
	return true
}

// owner is the host of the replica that may write, or was the last that could.
func (d *decided) owner() int { return hostOf(d.fencing.GetOwnerReplicaId()) }

func (d *decided) fenced() bool {
	return d.fencing.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING
}

func hostOf(replica string) int {
	if replica == hostNames[0] {
		return 0
	}
	return 1
}

// next gives every world that may follow. emit is told how.
func (m *machine) next(w world, tell func(world, deed)) {
	emit := func(to world, d deed) {
		if to = m.plain(to); to != w {
			tell(to, d)
		}
	}
	m.ticks(w, emit)
	m.operators(w, emit)
	m.leader(w, emit)
	for i := range hostNames {
		m.host(w, i, emit)
		m.leases(w, i, emit)
	}
}

// ticks lets time go by, on clocks that may be slow.
func (m *machine) ticks(w world, emit func(world, deed)) {
	for slow := uint16(0); slow < 4; slow++ {
		next := w
		next.since = min(w.since+1, m.wait)
		ok := true
		for i := range hostNames {
			next.granted[i] = min(w.granted[i]+1, m.wait)
			a := m.agents.get(w.agents[i])
			lags := slow>>i&1 == 1
			if lags && (!m.opt.drift || !a.right.mayLag()) {
				ok = false
				break
			}
			next = m.with(next, i, a.aged(lags))
		}
		if ok && next != w {
			emit(next, deed{what: deedTick, arg: slow})
		}
	}
}

// aged lets a tick go by on one host. The dead-man is there in time: what it may need
// longer is part of D_c.
func (a agent) aged(lags bool) agent {
	r := &a.right
	r.granted, r.armed, r.request = r.granted.aged(lags), r.armed.aged(lags), r.request.aged(lags)
	if r.granted.age >= leaseTicks {
		r.granted = timer{}
	}
	if r.request.age >= leaseTicks {
		r.request, r.at, r.answer = timer{}, requestNone, false
	}
	if r.armed.age >= leaseTicks {
		r.armed = timer{}
		a.disk = a.disk.fence()
		if a.mem.recheck = true; a.mem.late == 0 {
			a.mem = memory{} // told to look at everything anew
		}
	}
	return a
}

// operators are the calls of the API.
func (m *machine) operators(w world, emit func(world, deed)) {
	is, f := m.state(w), m.state(w).fencing
	begun := w.spent.planned + w.spent.forced
	if !is.fenced() && begun < m.opt.ops {
		if w.spent.planned < m.opt.planned {
			next := m.promote(w, hostNames[1-is.owner()], begun+1, tarnv1.PromotionMode_PROMOTION_MODE_PLANNED)
			next.spent.planned++
			emit(next, deed{what: deedPlanned})
		}
		if w.spent.forced < m.opt.forced {
			next := m.promote(w, hostNames[1-is.owner()], begun+1, tarnv1.PromotionMode_PROMOTION_MODE_FORCED)
			next.spent.forced++
			emit(next, deed{what: deedForced})
		}
	}
	if is.fenced() {
		if f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED && w.spent.forced < m.opt.forced {
			next := m.promote(w, f.GetTargetReplicaId(), opNumber(f.GetOpId()), tarnv1.PromotionMode_PROMOTION_MODE_FORCED)
			next.spent.forced++
			emit(next, deed{what: deedForced})
		}
		if w.spent.cancels < m.opt.cancels {
			next := w
			next.cur = m.ctl.apply(w.cur, m.ctl.command(command(cancelOf(f.GetOpId()))))
			next.spent.cancels++
			emit(next, deed{what: deedCancel})
		}
	}
	m.prepared(w, emit)
	m.users(w, emit)
	m.attest(w, emit)
}

// attest is an operator who looks before he speaks.
func (m *machine) attest(w world, emit func(world, deed)) {
	is := m.state(w)
	a := m.agents.get(w.agents[is.owner()])
	off := !a.up && !a.disk.main.mounted && a.disk.exported == exportedNone
	if w.spent.attests >= m.opt.attests || !is.fenced() || !off && !m.rules.blind ||
		is.fencing.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_FORCED {
		return
	}
	next := w
	next.cur = m.ctl.apply(w.cur, m.ctl.command(command(&raftv1.PromoteReplica{
		Id: is.fencing.GetTargetReplicaId(), OpId: is.fencing.GetOpId(), Mode: is.fencing.GetMode(),
		ExpectedEpoch: is.fencing.GetEpoch(), AllowOutOfSync: true, Consent: &tarnv1.Consent{}, Attestation: "it is switched off",
	})))
	next.spent.attests++
	emit(next, deed{what: deedAttest})
}

// leader is what the leader does by itself, and the end of its office.
func (m *machine) leader(w world, emit func(world, deed)) {
	if w.plan != 0 {
		next := w
		next.cur, next.plan = m.ctl.apply(w.cur, w.plan), 0
		emit(next, deed{what: deedCommit, arg: w.plan})
	} else {
		m.plans(w, emit)
	}
	if w.spent.leaders < m.opt.leaders {
		m.election(w, emit)
	}
	if w.spent.lags < m.opt.lags && w.lag == 0 {
		next := m.behind(w)
		next.spent.lags++
		emit(next, deed{what: deedLag})
	}
}

func (m *machine) plans(w world, emit func(world, deed)) {
	key := planKey{state: w.cur, heard: w.heard, since: w.since, granted: w.granted}
	if !m.state(w).fenced() && m.opt.users == 0 {
		return
	}
	for _, cmd := range m.ctl.step(key) {
		next := w
		if m.opt.plans {
			next.plan = cmd
			emit(next, deed{what: deedPlan, arg: cmd})
			continue
		}
		next.cur = m.ctl.apply(w.cur, cmd)
		if next != w {
			emit(next, deed{what: deedCommit, arg: cmd})
		}
	}
}

// behind lets a node know no more than is decided now.
func (m *machine) behind(w world) world {
	w.lag, w.deposed = w.cur, false
	for i := range hostNames {
		a := m.agents.get(w.agents[i])
		a.newer = false
		w.agents[i] = m.agents.number(a)
	}
	return w
}

// election gives office to a node that knows of no grant. Reports may arrive late, at
// the new leader: one kind of election keeps them.
func (m *machine) election(w world, emit func(world, deed)) {
	next := m.behind(w)
	next.deposed, next.plan = true, 0
	next.granted = [2]uint8{m.wait, m.wait}
	next.since = m.rules.lead(w.since)
	next.spent.leaders++
	for i := range hostNames {
		a := m.agents.get(next.agents[i])
		if a.right.at == requestVerified || a.right.at == requestNoted {
			a.right.at = requestOutdated
		}
		next.agents[i] = m.agents.number(a)
	}
	emit(next, deed{what: deedElection})
	if next.heard != [2]uint16{} {
		next.heard = [2]uint16{}
		emit(next, deed{what: deedElectionDeaf})
	}
}
