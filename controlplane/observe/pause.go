package observe

import "time"

// slack is how much time may pass beside the monotonic clock: clocks are read one
// after the other, and adjusted by little all the time.
const slack = time.Second

// pauses finds out that time went by which the monotonic clock does not know of: it stands
// still while a machine is suspended, and with most hypervisors while a machine is frozen.
// The first shows in the system's own account, the second when the wall clock is put right.
type pauses struct {
	looked time.Time
	asleep time.Duration
}

// look returns how much time that was since the last look, or, negative, by how much the
// wall clock was put back; 0 if it is not worth a word. asleep is how long the system has
// been suspended since it was started.
func (p *pauses) look(now time.Time, asleep time.Duration) time.Duration {
	counted, wall := now.Sub(p.looked), now.Round(0).Sub(p.looked.Round(0))
	first := p.looked.IsZero()
	lost := max(0, asleep-p.asleep)
	p.looked, p.asleep = now, max(asleep, p.asleep)
	return judgePause(first, counted, wall, lost)
}

// judgePause: counted and wall are the same time by the monotonic and by the wall clock.
func judgePause(first bool, counted, wall, asleep time.Duration) time.Duration {
	switch step := wall - counted; {
	case first:
		return 0
	case asleep > slack:
		return asleep
	case step > slack || step < -slack:
		return step
	}
	return 0
}

// wakened forgets what was heard, as at the beginning of a leadership, if time went by
// unnoticed: reports would seem younger than they are, and what a failover loses less.
// What hosts were granted is not forgotten: a wait that was counted too short only goes on
// for longer. The caller has the lock.
func (s *State) wakened(now time.Time) {
	lost := s.unnoticed(now)
	if lost == 0 || s.since.IsZero() {
		return
	}
	s.reset(now)
	s.wake()
	if s.cfg.Wakened != nil {
		s.cfg.Wakened(lost)
	}
}

func (s *State) unnoticed(now time.Time) time.Duration {
	var asleep time.Duration
	if s.cfg.Asleep != nil {
		asleep = s.cfg.Asleep()
	}
	return s.pauses.look(now, asleep)
}
