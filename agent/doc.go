// Package agent is what runs on a storage host.
//
// It hides how a host takes part in the cluster: it registers its pools, pulls
// its assignments, keeps one replicate.Worker per assigned replica, reports what
// they observe, holds the lease without which nothing is writable, serves
// streams to other agents, gossips, and shows metrics. Everything is
// level-triggered: the whole set of assignments is compared with what runs.
//
// It may import its own sub-packages, zfs, controlplane/client and
// controlplane/identity, metrics and proto, never the control plane itself.
//
// It promises that a host that starts serves nothing for writing until it has a
// lease, that nothing unassigned is ever destroyed, and that Run returns with no
// share writable.
package agent
