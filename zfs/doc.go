// Package zfs holds the vocabulary of ZFS as tarn uses it: typed names, GUIDs,
// datasets, snapshots, streams, capabilities and classified errors; and Host, which
// drives the real zfs(8) and zpool(8) commands of the machine.
//
// Two engines speak it with the same methods and semantics: Host here, and package
// dirzfs, which keeps the same promises on plain directories. zfstest.Conformance is
// the description that both have to pass.
//
// Host starts one process per call, without a shell, with the C locale, a deadline and
// bounded output; it takes only validated names, and never runs a forced or recursive
// destroy, rollback or receive. What the installed version and the pools can do is
// probed; zfs-fuse (pool version 23) to OpenZFS 2.4 are known, see Capabilities.
// Filesystems only: volumes (zvols) are listed nowhere and never touched.
//
// The package imports the standard library only and knows nothing of the
// cluster. Identity is always the GUID, order is always createtxg (never a name,
// never a clock); a createtxg means nothing outside its pool.
package zfs
