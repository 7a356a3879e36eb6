package reconcile

import (
	"time"

	"tarn/raftfsm"
)

// Nodes can be configured with leases of other lengths, at the least while a new
// configuration goes round, and grants are not in the log (reliability 3.3): whoever leads
// next could wait too briefly for what was granted before. So the log says how long is to
// be waited: no leader grants before that is at least its own LeaseWait, every leader waits
// the longer of the two, and lowers the log's to its own once it has led for as long as
// that was, when nothing of earlier leaders can be left.

// Wait is how long after a possible grant an owner may still write, by whichever leader
// it was granted.
func (p Policy) Wait(v *raftfsm.View) time.Duration { return max(p.LeaseWait, v.LeaseWait()) }

// MayGrant reports that later leaders wait long enough for what this one grants. v has to
// be read in a leadership that was proved after the request came.
func (p Policy) MayGrant(v *raftfsm.View) bool {
	return v.CommandVersion() < raftfsm.LeaseVersion || v.LeaseWait() >= p.LeaseWait
}

// WaitDue tells a leader, which has led its term for the given time, whether the log has to
// say its own LeaseWait from now on. If later, after is how long until then; 0 for a change
// of the state only.
func (p Policy) WaitDue(v *raftfsm.View, led time.Duration) (due bool, after time.Duration) {
	logged := v.LeaseWait()
	switch {
	case v.CommandVersion() < raftfsm.LeaseVersion, logged == p.LeaseWait:
		return false, 0
	case logged < p.LeaseWait || led >= logged:
		return true, 0
	}
	return false, logged - led
}
