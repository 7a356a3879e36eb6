// Package chaos breaks a cluster of real processes in every way that one machine can
// be made to, and checks that no promise was broken with it: make chaos.
//
// Hosts are network namespaces whose every packet passes through the test (package
// fabric), with small disks of their own; a schedule of faults is drawn from a seed,
// and is the same for the same seed. Clients write over NFS to every replica of every
// share all the time, wherever that is confirmed, and remember what was confirmed.
// After each schedule the faults end, the cluster has to become whole by itself, and
// what happened is held against what may happen.
package chaos
