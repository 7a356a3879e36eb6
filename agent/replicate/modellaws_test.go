package replicate

import (
	"fmt"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

// laws are the invariants of reliability 3.10, on one world and on one step between
// two. The state machine's own are control.judge's.

// lawful checks one world.
func (m *machine) lawful(w world) error {
	if m.ctl.broken != nil {
		return m.ctl.broken
	}
	hosts := [2]agent{m.agents.get(w.agents[0]), m.agents.get(w.agents[1])}
	if hosts[0].disk.serving() && hosts[1].disk.serving() {
		return fmt.Errorf("I1 SingleWriter: both hosts serve the share for writing")
	}
	is := m.state(w)
	for i, a := range hosts {
		if err := m.lawfulHost(is, i, a); err != nil {
			return err
		}
	}
	if x, y := hosts[0].disk.main, hosts[1].disk.main; x.there && y.there && (x.snaps|bit(x.origin))&(y.snaps|bit(y.origin)) == 0 {
		return fmt.Errorf("I8 CommonKept: the replicas have no snapshot in common")
	}
	return nil
}

func (m *machine) lawfulHost(is *decided, i int, a agent) error {
	d := a.disk.main
	if a.disk.serving() && !granted(is.fencing, hostNames[i], uint64(d.epoch)) {
		return fmt.Errorf("I2 EpochMonotone: host %s serves under epoch %d, which the log never gave it", hostNames[i], d.epoch)
	}
	reached := a.disk.exported != exportedNone && d.mounted
	if reached && a.disk.exported == exportedRW && roleNames[d.role] != rolePrimary {
		return fmt.Errorf("I11 ReplicaReadOnly: the %s on host %s is exported for writing", roleNames[d.role], hostNames[i])
	}
	if reached && m.opt.kind == "dr" && roleNames[d.role] != rolePrimary {
		return fmt.Errorf("I11 ReplicaReadOnly: a replica of type dr is exported on host %s", hostNames[i])
	}
	if guid := is.acked; guid != 0 && is.ackedOn[i] && !a.disk.holds(guid) {
		return fmt.Errorf("I4 AckedHeld: host %s is said to hold the user's snapshot %d, and does not", hostNames[i], guid)
	}
	return nil
}

// holds reports a snapshot that is on the disk, wherever.
func (d disk) holds(guid uint8) bool {
	for _, ds := range append(d.asides[:], d.main) {
		if ds.there && ds.snaps&bit(guid) != 0 {
			return true
		}
	}
	return false
}

func granted(f *tarnv1.Fencing, replica string, epoch uint64) bool {
	for _, l := range f.GetLineage() {
		if l.GetEpoch() == epoch && l.GetOwnerReplicaId() == replica {
			return true
		}
	}
	return false
}

// lawfulStep checks what one step did.
func (m *machine) lawfulStep(from, to world, d deed) error {
	past := m.pasts.get(to.past)
	for i := range hostNames {
		if from.agents[i] == to.agents[i] {
			continue
		}
		was, is := m.agents.get(from.agents[i]), m.agents.get(to.agents[i])
		if is.disk.main.there && was.disk.main.there && is.disk.main.epoch < was.disk.main.epoch {
			return fmt.Errorf("I2 EpochMonotone: the mark on host %s falls from epoch %d to %d", hostNames[i], was.disk.main.epoch, is.disk.main.epoch)
		}
		if lost := was.disk.has(past) &^ is.disk.has(past); lost != 0 {
			return fmt.Errorf("I7 DivergencePreserved: host %s loses snapshots %s", hostNames[i], set(lost))
		}
		if was.disk.dirt() > is.disk.dirt() && from.past == to.past {
			return fmt.Errorf("I7 DivergencePreserved: host %s loses what was written after its last snapshot", hostNames[i])
		}
		if d.what == deedPull {
			if err := m.lawfulPull(to, i, was, is); err != nil {
				return err
			}
		}
	}
	if from.cur != to.cur {
		return m.lawfulDecision(from, to)
	}
	return nil
}

func (m *machine) lawfulPull(w world, i int, was, is agent) error {
	if was.disk.main.snaps == is.disk.main.snaps {
		return nil
	}
	f := m.state(w).fencing
	if m.state(w).fenced() && f.GetSealed() && hostOf(f.GetTargetReplicaId()) == i {
		return fmt.Errorf("I9 Sealed: host %s receives after its seal for %s", hostNames[i], f.GetOpId())
	}
	if epoch := m.ctl.assignments.get(was.mem.asg).GetEpoch(); epoch < uint64(was.disk.main.epoch) {
		return fmt.Errorf("I9 Sealed: host %s receives for epoch %d below its %d", hostNames[i], epoch, was.disk.main.epoch)
	}
	return nil
}

// lawfulDecision checks the moment at which the owner changes.
func (m *machine) lawfulDecision(from, to world) error {
	was, is := m.state(from), m.state(to)
	if was.owner() == is.owner() {
		return nil
	}
	base := uint8(is.fencing.GetLineage()[len(is.fencing.GetLineage())-1].GetBaseGuid())
	past := m.pasts.get(to.past)
	content := past.content(base)
	if was.fencing.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED {
		former := m.agents.get(to.agents[was.owner()]).disk
		if former.main.there && (former.main.dirty || past.content(former.main.base())&^content != 0) {
			return fmt.Errorf("I6 PlannedZeroLoss: host %s has writes that snapshot %d lacks", hostNames[was.owner()], base)
		}
	}
	if acked := was.acked; acked != 0 && content&bit(acked) == 0 && !declared(is.fencing, uint64(acked)) {
		return fmt.Errorf("I5 LossDeclared: the user's snapshot %d is not in the history that goes on from %d, nor in the loss report", acked, base)
	}
	if !m.agents.get(to.agents[is.owner()]).disk.holds(base) {
		return fmt.Errorf("I5 LossDeclared: the new owner does not hold %d, which its epoch starts from", base)
	}
	return nil
}

func declared(f *tarnv1.Fencing, guid uint64) bool {
	for _, l := range f.GetLoss().GetLostSnapshots() {
		if l.GetGuid() == guid && f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_FORCED {
			return true
		}
	}
	return false
}

func set(snaps uint8) string {
	var list []string
	for g := uint8(1); g <= maxGUID; g++ {
		if snaps&bit(g) != 0 {
			list = append(list, fmt.Sprint(g))
		}
	}
	return "{" + strings.Join(list, " ") + "}"
}
