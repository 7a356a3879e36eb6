// Package memzfs is a storage engine in memory, for tests of the agents: strict
// about what ZFS refuses, quick, and able to die before or after any operation.
//
// It hides how little a filesystem has to be for replication to work on it: the
// content of a dataset is one run of bytes. It may import zfs only. It promises
// the semantics of zfstest.Host for the methods it has, and no durability: it
// stands for a pool that outlives the process under test.
package memzfs
