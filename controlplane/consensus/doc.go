// Package consensus is the replicated log: it turns bytes into committed,
// ordered entries that every control-plane node applies.
//
// It hides hashicorp/raft and its storage, transport, logging, membership and
// known faults. It knows nothing of what the entries mean: the state machine
// and the leader's work are handed in.
//
// It may import controlplane/identity; raftfsm is seen only as a raft.FSM.
//
// It promises: an acknowledged proposal is committed; an unknown outcome is
// called unknown; a read index is linearizable; the leader's work runs on one
// node at a time per term, after everything committed before it is applied.
package consensus
