// Package client is the way into the control plane for agents, the command line
// and tests: one Connect client per service over one mTLS transport.
//
// It hides which node leads. A call that reached a follower goes on to the leader
// the follower names; one whose outcome is unknown is repeated under the same key
// until its context ends: the cluster does it once, and answers as the first time.
//
// It is a leaf: proto, Connect and the standard library only.
//
// It promises that every attempt has a deadline, that no goroutine outlives a
// call, and that errors which a repetition cannot cure come back at once.
package client
