package replicate

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/agent/lease"
	tarnv1 "tarn/proto/tarn/v1"
)

// leases is the way of a request for a lease and of its answer.
func (m *machine) leases(w world, i int, emit func(world, deed)) {
	a, host := m.agents.get(w.agents[i]), uint8(i)
	r := &a.right
	at := func(state uint8, what deedKind) {
		r.at = state
		emit(m.with(w, i, a), deed{what: what, host: host})
	}
	if !a.up {
		return
	}
	switch r.at {
	case requestNone:
		if r.wants != 0 && (r.granted.epoch == 0 || r.granted.age > 0) {
			r.request = timer{epoch: r.wants}
			at(requestSent, deedAsk)
		}
		return
	case requestSent:
		if !m.opt.parts {
			m.answered(w, i, emit)
			return
		}
		if !m.rules.verify && w.deposed {
			out := a
			out.right.at = requestOutdated
			emit(m.with(w, i, out), deed{what: deedVerify, host: host, arg: 1})
		}
		at(requestVerified, deedVerify)
	case requestVerified:
		if m.opt.parts { // else this one waits for the leader to lose its office
			m.grant(w, i, emit)
		}
	case requestNoted:
		if r.answer = true; m.rules.noteLate {
			w.granted[i] = 0
		} else {
			r.answer = m.ctl.mayHold(w.cur, i, r.request.epoch)
		}
		at(requestAnswered, deedAnswer)
	case requestOutdated:
		r.answer = m.ctl.mayHold(w.lag, i, r.request.epoch)
		at(requestAnswered, deedAnswer)
	case requestAnswered:
		emit(m.with(w, i, m.receive(a, host)), deed{what: deedReceive, host: host})
	}
	m.lose(w, i, emit)
}

// answered is the leader's whole answer at once; or only the quorum's part of it, if
// the leader may lose its office before the rest.
func (m *machine) answered(w world, i int, emit func(world, deed)) {
	a, next := m.agents.get(w.agents[i]), w
	r := &a.right
	if m.rules.verify && w.spent.leaders < m.opt.leaders {
		r.at = requestVerified
		emit(m.with(w, i, a), deed{what: deedVerify, host: uint8(i)})
	}
	if !m.rules.verify && w.deposed {
		out := a
		out.right.at, out.right.answer = requestAnswered, m.ctl.mayHold(w.lag, i, r.request.epoch)
		emit(m.with(w, i, out), deed{what: deedVerify, host: uint8(i), arg: 1})
	}
	r.at, r.answer = requestAnswered, m.ctl.mayHold(w.cur, i, r.request.epoch)
	if r.answer {
		next.granted[i] = 0
	}
	emit(m.with(next, i, a), deed{what: deedAnswer, host: uint8(i)})
}

// grant is the leader's handler: a look ahead, the note, and then the answer.
func (m *machine) grant(w world, i int, emit func(world, deed)) {
	a, next := m.agents.get(w.agents[i]), w
	may := m.ctl.mayHold(w.cur, i, a.right.request.epoch)
	switch {
	case m.rules.noteLate && may:
		// The mutant answers from the state that it looked ahead at.
		a.right.at = requestNoted
	case may:
		a.right.at = requestNoted
		next.granted[i] = 0
	default:
		a.right.at, a.right.answer = requestAnswered, false
	}
	emit(m.with(next, i, a), deed{what: deedGrant, host: uint8(i)})
}

func (m *machine) lose(w world, i int, emit func(world, deed)) {
	a, host := m.agents.get(w.agents[i]), uint8(i)
	if m.opt.stray && a.right.stray != 0 && a.right.at != requestNone {
		stray := m.receiveStray(a, host)
		emit(m.with(w, i, stray), deed{what: deedStray, host: host})
	}
	if a.right.at == requestNone || w.spent.losses >= m.opt.losses {
		return
	}
	if m.opt.stray && a.right.at == requestAnswered && a.right.answer {
		a.right.stray = a.right.request.epoch
	}
	a.right.request, a.right.at, a.right.answer = timer{}, requestNone, false
	next := m.with(w, i, a)
	next.spent.losses++
	emit(next, deed{what: deedLose, host: host})
}

// receive lets the product judge an answer, arm its dead-man and take the lease.
func (m *machine) receive(a agent, host uint8) agent {
	said := &tarnv1.LeaseShare{ShareId: modelShare, ReplicaId: hostNames[host], Epoch: uint64(a.right.request.epoch)}
	answer := &tarnv1.RenewLeaseResponse{Nonce: 1, Duration: durationpb.New(leaseTicks * modelTick)}
	if a.right.answer {
		answer.Granted = append(answer.Granted, said)
	} else {
		answer.Revoked = append(answer.Revoked, said)
	}
	return m.take(a, host, answer)
}

func (m *machine) receiveStray(a agent, host uint8) agent {
	said := &tarnv1.LeaseShare{ShareId: modelShare, ReplicaId: hostNames[host], Epoch: uint64(a.right.stray)}
	a.right.stray = 0
	return m.take(a, host, &tarnv1.RenewLeaseResponse{Nonce: 2, Duration: durationpb.New(leaseTicks * modelTick), Granted: []*tarnv1.LeaseShare{said}})
}

// take ends a request with its answer.
func (m *machine) take(a agent, host uint8, answer *tarnv1.RenewLeaseResponse) agent {
	now, r := time.Hour, &a.right
	rights := r.rights(host, now)
	asked := m.rules.sent(lease.Asked{
		Nonce: 1, Sent: now - time.Duration(r.request.age)*modelTick,
		Shares: map[string]lease.Share{hostNames[host]: wantedShare(host, r.request.epoch)},
	}, now)
	slow := r.request.slow
	r.request, r.at, r.answer = timer{}, requestNone, false
	granted, until, err := m.rules.judge(asked, answer)
	if err != nil {
		return a
	}
	rights.Revoke(answer.GetRevoked(), asked)
	if !rights.Held(modelShare, hostNames[host], uint64(r.granted.epoch), now) {
		r.granted = timer{}
	}
	if len(granted) == 0 {
		return a
	}
	ends := timer{epoch: uint8(granted[0].Epoch), age: uint8((now + leaseTicks*modelTick - until) / modelTick), slow: slow}
	if m.rules.guard && (r.armed.epoch == 0 || ends.age < r.armed.age) {
		r.armed = ends // a later end replaces an earlier one, never the other way round
	}
	rights.Take(granted, asked, until)
	if rights.Held(modelShare, hostNames[host], granted[0].Epoch, now) && ends.age < leaseTicks {
		r.granted = ends
	}
	return a
}

func (r right) mayLag() bool {
	running := r.granted.epoch != 0 || r.armed.epoch != 0 || r.at != requestNone
	return running && !r.granted.slow && !r.armed.slow && !r.request.slow
}

func (t timer) aged(lags bool) timer {
	switch {
	case t.epoch == 0:
	case lags:
		t.slow = true
	default:
		t.age++
	}
	return t
}
