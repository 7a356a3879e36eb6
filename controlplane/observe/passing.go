package observe

import "time"

// pass is a host on its way to another machine.
type pass struct {
	// sessions have been proposed; flying is that one's outcome is awaited, open that
	// one's is not known.
	sessions     map[string]bool
	flying, open bool
}

// Pass begins to hand a host over to another machine, whose session is about to be
// proposed: from now on nothing is granted to the host. It returns false, and changes
// nothing, unless wait (D_c) has passed at now since the last possible grant, or while
// another session's outcome is awaited.
//
// settle says how it went: done, or known not to have been done; or neither, after which
// nothing is granted until Registered says so, or this leadership ends: the log that the
// next leader begins with has what became of the session.
func (l *Leases) Pass(hostID, session string, wait time.Duration, now time.Time) (settle func(done, known bool), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, p := later(l.last[hostID], l.since), l.passing[hostID]
	if last.IsZero() || now.Sub(last) < wait || p != nil && p.flying {
		return nil, false
	}
	if p == nil {
		p = &pass{sessions: make(map[string]bool)}
		l.passing[hostID] = p
	}
	p.flying, p.sessions[session] = true, true
	return func(done, known bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		p.flying, p.open = false, p.open || !known
		if l.passing[hostID] == p && (done || !p.open) {
			delete(l.passing, hostID)
		}
	}, true
}

// Registered says that the log has the session as the host's: by a proposal of this
// moment, before which whatever was proposed earlier is decided, or else by one whose
// outcome was not known.
func (l *Leases) Registered(hostID, session string, proposed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.passing[hostID]; p != nil && !p.flying && (proposed || p.sessions[session]) {
		delete(l.passing, hostID)
	}
}
