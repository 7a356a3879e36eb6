// Package zfs holds the vocabulary of ZFS as tarn uses it: typed names, GUIDs,
// datasets, snapshots, streams, capabilities and classified errors.
//
// Two engines speak it with the same methods and semantics: Host in this package
// drives the real zfs(8) and zpool(8) commands, package dirzfs keeps the same
// promises on plain directories. zfstest.Conformance is the description that both
// have to pass.
//
// The package imports the standard library only and knows nothing of the
// cluster. Identity is always the GUID, order is always createtxg (never a name,
// never a clock); a createtxg means nothing outside its pool.
package zfs
