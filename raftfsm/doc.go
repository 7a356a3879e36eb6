// Package raftfsm is the replicated state of a tarn cluster: what the Raft log
// decides about shares, replicas, snapshots, access rules, quotas and hosts.
//
// It is pure. Apply is a function of the state and the log entry: no clock, no
// randomness, no I/O, no goroutine, no output that depends on map order. The
// proposer stamps times and ids. It may import protobuf messages, the types of
// hashicorp/raft and a copy-on-write B-tree, nothing else.
//
// It promises that a refused command changes nothing, that every state it
// publishes keeps the invariants of replication (one active replica, one replica
// per pool, one domain, epochs that only rise), and that a View is immutable.
package raftfsm
