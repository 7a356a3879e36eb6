// Package lease is the agent's side of the right to serve writes, and the
// dead-man that enforces the end of that right.
//
// A Keeper renews one lease for all shares of the host and answers one question:
// may this replica be writable under this epoch now? A lease counts from when
// its request was sent, on a clock that goes on during suspend; a margin before
// its end the Keeper says no, so that the agent can unmount by itself. At the end
// the dead-man, a process of its own that outlives a killed or stopped agent,
// unmounts regardless. No lease is used before the dead-man has confirmed its end.
//
// Of tarn the package imports proto and durable only. Its rules are those of the reliability
// reference, sections 3.3 to 3.5; wall clocks decide nothing here.
package lease
