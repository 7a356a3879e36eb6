// Package observe is the leader's soft state: what agents last reported, when
// hosts were last heard of, when a lease could last have been granted, and how
// long a promotion may wait. None of it is in the Raft log; a new leader starts
// with nothing, asks for full reports and gives every host a grace.
//
// It imports proto/tarn/v1 only. It reads no clock: every method takes now,
// which must carry Go's monotonic reading (time.Now) and never be used on
// another machine. A machine that was frozen for a while has counted less time than went
// by. For the end of leases that is the safe side; everything else is forgotten then,
// if the boot clock or the wall clock tells (pause.go).
//
// It promises to be safe for concurrent use, and that a Snapshot never changes.
package observe
