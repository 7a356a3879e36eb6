package replicate

import (
	"context"
	"log/slog"
	"time"

	"tarn/agent/lease"
	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// agent is one host: its agent's memory, its dead-man and its disk.
type agent struct {
	up  bool
	asg uint16 // assignment that it follows
	// newer: its revision is above the one that a node which lags behind would tell.
	newer bool
	mem   memory
	right right
	disk  disk
}

// memory is what a Worker remembers between two looks at its disk.
type memory struct {
	asg                                 uint16 // as it was last acted on
	released, entering                  bool
	confirmed, modified, held, caughtUp bool
	export                              uint8 // one more than disk.exported; 0 is not known
	diverged                            uint8 // GUID and one; 0 is none
	late                                uint8 // a decision that is yet to be carried out
	recheck                             bool  // then everything has to be looked at anew
}

// right is a host's lease, with ages in ticks of its own clock since the request for
// it was sent. slow says that this clock lost a tick meanwhile.
type right struct {
	wants   uint8 // epoch
	granted timer
	armed   timer // of the dead-man
	request timer
	at      uint8 // where the request is
	answer  bool  // granted
	// stray is the answer to an earlier request, which a network might deliver now.
	stray uint8
}

type timer struct {
	epoch, age uint8
	slow       bool
}

// Where a request is.
const (
	requestNone uint8 = iota
	requestSent
	requestVerified // a quorum has confirmed the leader since it arrived
	requestNoted    // the grant is in the leader's table
	requestOutdated // confirmed, but the leader has lost its office since
	requestAnswered
)

// lateKinds are decisions that rest on the lease, or end one, and that a pause of the
// process may put off.
var lateKinds = []kind{doIdle, doWritable, doMount, doExport, doMark}

// work is what a worker makes of a moment.
type work struct {
	mem  memory // after looking, before acting
	does kind
	// outcomes of what it does: the first whole, the others cut by its death.
	outcomes []outcome
	report   uint16 // as of this look
	rests    bool   // nothing to do but to wait for others
	harmless bool
}

type outcome struct {
	mem  memory
	disk disk
	past uint16
}

type workKey struct {
	mem   memory
	disk  disk
	past  uint16
	host  uint8
	lease bool
}

// leaseWord is a Lease that says one thing.
type leaseWord bool

func (l leaseWord) Held(string, string, uint64) bool { return bool(l) }
func (l leaseWord) Changed() <-chan struct{}         { return nil }

// nobody is a Source and a HeadFeed that are not asked.
type nobody struct {
	Source
	HeadFeed
}

// worker makes the product's Worker as it would be with that memory and disk.
func (m *machine) worker(key workKey, b *box) *Worker {
	w, err := NewWorker(Config{
		ReplicaID: b.name, ShareID: modelShare, Pool: modelPool, Base: modelBase, Engine: b, Source: nobody{}, Feed: nobody{},
		Board: m.board, Cadence: m.cadence, Exports: b, Lease: leaseWord(key.lease), Publish: func(*tarnv1.ReplicaReport) {},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	w.assigned = m.ctl.assignments.get(key.mem.asg)
	w.s.a, w.s.l, w.s.backoff = w.assigned, w.l, func(kind) bool { return false }
	key.mem.restore(w)
	return w
}

func (mem memory) restore(w *Worker) {
	w.s.released, w.entering, w.s.confirmed, w.s.modified = mem.released, mem.entering, mem.confirmed, mem.modified
	w.s.wantPull, w.s.caughtUp, w.stale = true, mem.caughtUp, true
	if mem.export != 0 {
		w.s.export = &exportState{active: mem.export-1 != exportedNone, readOnly: mem.export-1 == exportedRO}
	}
	if mem.diverged != 0 {
		g := zfs.GUID(mem.diverged - 1)
		w.s.diverged = &g
	}
}

// keep reads back what restore writes.
func (mem memory) keep(w *Worker) memory {
	out := memory{
		asg: mem.asg, released: w.s.released, entering: w.entering, confirmed: w.s.confirmed, modified: w.s.modified, caughtUp: w.s.caughtUp,
		held: w.s.heldLast != 0 && w.s.heldLast == w.s.f.newest().GUID,
	}
	if e := w.s.export; e != nil {
		switch {
		case !e.active:
			out.export = 1 + exportedNone
		case e.readOnly:
			out.export = 1 + exportedRO
		default:
			out.export = 1 + exportedRW
		}
	}
	if w.s.diverged != nil {
		out.diverged = 1 + uint8(*w.s.diverged)
	}
	return out
}

// look gives the worker's next step for what it remembers and sees.
func (m *machine) look(a *agent, host uint8, past uint16) *work {
	key := workKey{mem: a.mem, disk: a.disk, past: past, host: host, lease: m.holds(a, host)}
	if done, known := m.works[key]; known {
		return done
	}
	done := m.think(key)
	m.works[key] = done
	return done
}

func (m *machine) box(key workKey, dieAt int) *box {
	return &box{disk: key.disk, past: m.pasts.get(key.past), name: hostNames[key.host], dieAt: dieAt}
}

// seen is a worker that has looked at its disk.
func (m *machine) seen(key workKey, b *box) *Worker {
	w := m.worker(key, b)
	if err := w.refresh(context.Background()); err != nil {
		panic(err)
	}
	if key.mem.held {
		w.s.heldLast = w.s.f.newest().GUID
	}
	return w
}

func (m *machine) think(key workKey) *work {
	w := m.seen(key, m.box(key, -1))
	act := m.rules.step(&w.s)
	out := &work{mem: key.mem.keep(w), does: act.kind}
	out.rests = act.kind == doIdle || act.kind == doRefuse || act.kind == doPull
	report := w.observation()
	if m.rules.acked(&w.s) {
		w.acknowledge(report)
	}
	m.rules.report(&w.s, report)
	out.report, out.harmless = m.ctl.report(report), m.rules.harmless(report)
	if out.rests {
		return out
	}
	out.outcomes = m.carryOut(key, act)
	return out
}

// carryOut executes an action whole, and cut before each of its changes but the first.
func (m *machine) carryOut(key workKey, act action) []outcome {
	var list []outcome
	for dieAt := -1; ; dieAt++ {
		if dieAt == 0 {
			continue
		}
		b := m.box(key, dieAt)
		w := m.seen(key, b)
		err := w.execute(context.Background(), act)
		switch {
		case b.full:
			return list // no room in the model: such runs end here
		case dieAt < 0 && err != nil:
			return list // it fails and is tried again
		case dieAt > 0 && err == nil:
			return list // it never came so far
		}
		mem := memory{}
		if dieAt < 0 {
			mem = key.mem.keep(w)
		}
		list = append(list, outcome{mem: mem, disk: b.disk, past: m.pastID(b.past)})
	}
}

// adopt lets the worker take in its agent's assignment.
func (m *machine) adopt(a *agent, host uint8, past uint16) {
	if a.mem.asg == a.asg || a.mem.late != 0 {
		return
	}
	key := adoptKey{mem: a.mem, next: a.asg, host: host}
	next, known := m.adopted[key]
	if !known {
		b := m.box(workKey{mem: a.mem, disk: a.disk, past: past, host: host}, -1)
		mem := a.mem
		if mem.asg == 0 {
			mem.asg = a.asg
		}
		w := m.worker(workKey{mem: mem, disk: a.disk, past: past, host: host}, b)
		if a.mem.asg == 0 {
			w.s.a = nil
		}
		w.assigned = m.ctl.assignments.get(a.asg)
		w.adopt()
		mem.asg = a.asg
		next = mem.keep(w)
		next.held = a.mem.held
		m.adopted[key] = next
	}
	a.mem = next
}

type adoptKey struct {
	mem  memory
	next uint16
	host uint8
}

// rights rebuilds the product's arithmetic from ages. The clock is at now.
func (r right) rights(host uint8, now time.Duration) *lease.Rights {
	out := lease.NewRights(0)
	if r.wants != 0 {
		out.Want([]lease.Share{wantedShare(host, r.wants)})
	}
	if r.granted.epoch != 0 {
		asked := lease.Asked{Sent: now - time.Duration(r.granted.age)*modelTick}
		out.Take([]lease.Share{wantedShare(host, r.granted.epoch)}, asked, asked.Sent+leaseTicks*modelTick)
	}
	out.Look(now)
	return out
}

func wantedShare(host, epoch uint8) lease.Share {
	return lease.Share{
		ShareID: modelShare, ReplicaID: hostNames[host], Epoch: uint64(epoch),
		Target: lease.Target{Dataset: layout{pool: modelPool, base: modelBase, replica: hostNames[host]}.dataset()},
	}
}

// holds asks the product if the worker may let clients write.
func (m *machine) holds(a *agent, host uint8) bool {
	if a.right.granted.epoch == 0 || a.mem.asg == 0 {
		return false
	}
	asg := m.ctl.assignments.get(a.mem.asg)
	if asg.GetRole() != tarnv1.Role_ROLE_ACTIVE {
		return false
	}
	key := heldKey{a.right, asg.GetEpoch(), host}
	held, known := m.helds[key]
	if !known {
		now := time.Hour
		held = a.right.rights(host, now).Held(modelShare, hostNames[host], asg.GetEpoch(), now)
		m.helds[key] = held
	}
	return held
}

type heldKey struct {
	right right
	epoch uint64
	host  uint8
}

// pull does one step of replication from the other host's disk.
func (m *machine) pull(a *agent, host uint8, from *agent, past uint16) (memory, disk, bool) {
	asg, source := m.ctl.assignments.get(a.mem.asg), m.ctl.assignments.get(from.mem.asg)
	grant, err := (&Worker{assigned: source}).Grant(hostNames[host])
	if err != nil || grant.Epoch != asg.GetEpoch() || !from.disk.main.there {
		return a.mem, a.disk, false
	}
	key := workKey{mem: a.mem, disk: a.disk, past: past, host: host}
	b := m.box(key, -1)
	there := &box{disk: from.disk, past: b.past, name: hostNames[1-host]}
	w := m.seen(key, b)
	r := m.transfer(b, there.versions(&there.disk.main), w.s.f.versions)
	w.pull = &running{cancel: func() {}}
	w.pulled(r)
	w.s.wantPull = true
	mem := key.mem.keep(w)
	mem.held = false
	if w.s.heldLast != 0 {
		mem.held = uint8(w.s.heldLast) == newest(b.disk.main.snaps)
	}
	return mem, b.disk, true
}

// transfer is a receive without -F.
func (m *machine) transfer(b *box, source, have []zfs.Version) (r pullResult) {
	base, relation := zfs.IncrementalBase(source, have)
	d := &b.disk.main
	switch relation {
	case zfs.RelationDiverged:
		if r.err = (&stream.DivergedError{Common: base.GUID}); m.rules.receiveForced {
			d.snaps &= bit(uint8(base.GUID))<<1 - 1
			return m.transfer(b, source, b.versions(d))
		}
	case zfs.RelationUnrelated, zfs.RelationEmpty:
		r.err = stream.ErrNoCommon
	case zfs.RelationUpToDate:
		r.step = stream.Step{Kind: stream.KindNone, To: base.GUID, Head: base.GUID}
	case zfs.RelationIncremental:
		to := nextStep(source, base)
		r.step = stream.Step{Kind: stream.KindIncremental, From: base.GUID, To: to.GUID, Head: to.GUID, Behind: 1}
		if d.dirty && !m.rules.receiveForced {
			r.err = &zfs.Error{Op: "receive", Object: b.name, Class: zfs.ErrModified}
			return r
		}
		d.dirty = false
		d.snaps |= bit(uint8(to.GUID))
		r.versions = b.versions(d)
	}
	return r
}

// nextStep is the next user's snapshot after base, or the newest of all.
func nextStep(source []zfs.Version, base zfs.Version) zfs.Version {
	for _, v := range source {
		if v.CreateTXG > base.CreateTXG && v.Name == userPrefix+modelSnapshot {
			return v
		}
	}
	return source[len(source)-1]
}
