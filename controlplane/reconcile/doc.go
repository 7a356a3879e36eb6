// Package reconcile turns what agents report into decisions. Step is pure: from
// a view of the replicated state and a snapshot of the reports it derives the
// commands that bring the two together. Loop runs Step on the leader.
//
// It hides when a replica counts as in_sync, how a promotion advances, what a
// failover lost, how a host is drained and how often a fact may be written
// down. It may import raftfsm (its View), controlplane/schedule, observe and
// assignment, and the proto packages.
//
// It promises: nothing to do gives no command, so the log grows with decisions
// and not with time; any step may be lost or repeated; a new owner is proposed
// only after the proof that reliability 3.4 asks for.
package reconcile
