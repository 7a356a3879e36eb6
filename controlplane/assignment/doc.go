// Package assignment derives what each storage host is to do from the state of
// the cluster: one Assignment per replica on the host.
//
// It is pure and hides the rules that turn shares, fencing, snapshots and access
// rules into roles, sources, exports and sizes. It may import raftfsm (its View),
// controlplane/schedule (the meaning of extra specs), proto/tarn/v1 and a UUID.
//
// It promises: at most one replica of a share is ACTIVE, none while a promotion
// is in phase FENCING; secondaries of dr shares are given no access rules and
// those of readable shares read-only ones; the same view gives the same answer,
// in the same order.
package assignment
