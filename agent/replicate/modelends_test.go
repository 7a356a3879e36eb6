package replicate

import (
	"fmt"

	tarnv1 "tarn/proto/tarn/v1"
)

// I12: from wherever the model has got to, a promotion ends if from then on what can
// be done is done. A forced one must not need its former owner, and no more time than
// the lease takes to run out. And until a loss has been declared, whoever does not agree
// to it can have the former owner back.

// helpful are the deeds of a schedule that is fair, in the order in which they are
// tried; time goes by when there is no other.
var helpful = []deedKind{
	deedBegin, deedCommit, deedPlan, deedStart, deedAssign, deedLate, deedWork, deedRound, deedReceive, deedAnswer, deedGrant, deedVerify, deedAsk,
	deedPull, deedReport, deedSettle,
}

// patience bounds the deeds of one promotion.
const patience = 200

// ends drives a running promotion to its end, and tells why it has none.
func (m *machine) ends(w world) error {
	f := m.state(w).fencing
	if err := m.serves(w, hostOf(f.GetTargetReplicaId()), f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_FORCED); err != nil || f.GetLoss() != nil {
		return err
	}
	back := w
	if back.cur = m.ctl.apply(w.cur, m.ctl.command(command(cancelOf(f.GetOpId())))); m.state(back).fenced() {
		return fmt.Errorf("I12 Liveness: nothing is declared lost, and it cannot be cancelled: %s", m.picture(w))
	}
	return m.serves(back, m.state(w).owner(), false)
}

// serves drives a share until the host serves it; a forced promotion may not take longer
// than the lease.
func (m *machine) serves(w world, target int, forced bool) error {
	ticks := 0
	for range patience {
		a := m.agents.get(w.agents[target])
		if !m.state(w).fenced() && a.disk.serving() {
			return nil
		}
		next, d, ok := m.help(w, target, forced)
		if !ok {
			return fmt.Errorf("I12 Liveness: nothing more can be done: %s", m.picture(w))
		}
		if d.what == deedTick {
			if ticks++; forced && ticks > int(m.wait)+1 {
				return fmt.Errorf("I12 Liveness: a forced promotion takes more than %d ticks: %s", ticks-1, m.picture(w))
			}
		}
		w = next
	}
	return fmt.Errorf("I12 Liveness: no end after %d deeds: %s", patience, m.picture(w))
}

// help does the next useful thing.
func (m *machine) help(w world, target int, forced bool) (best world, chosen deed, ok bool) {
	rank := len(helpful) + 1
	m.next(w, func(to world, d deed) {
		if r := m.rank(w, d, target, forced); r < rank {
			best, chosen, ok, rank = to, d, true, r
		}
	})
	return best, chosen, ok
}

func (m *machine) rank(w world, d deed, target int, forced bool) int {
	none := len(helpful) + 1
	if d.what == deedTick && d.arg == 0 {
		return len(helpful)
	}
	// The owner of a forced failover is not counted on; a new owner that asks for its
	// lease all the time does nothing else.
	about := d.what != deedCommit && d.what != deedPlan && d.what != deedBegin
	if about && forced && int(d.host) != target || d.arg > 0 && (d.what == deedWork || d.what == deedVerify) {
		return none
	}
	if a := m.agents.get(w.agents[d.host]); d.what == deedAsk && (m.state(w).fenced() || a.right.granted.epoch != 0) {
		return none
	}
	for i, k := range helpful {
		if k == d.what {
			return i
		}
	}
	return none
}
