// Package controlplane is one control-plane node: it opens the log, the state
// machine, the API and the gossip ring, serves them all on one TLS port, and does
// the leader's work while this node leads.
//
// It hides the order in which these start, depend on each other and stop. New
// makes an inert Node; Run owns every goroutine.
//
// It may import every package below controlplane, raftfsm, metrics and
// agent/gossip (as an observer: a hint, never a proof). Never zfs or agent.
//
// It promises that a node whose state machine or log cannot be trusted stops with
// an error instead of answering.
package controlplane
