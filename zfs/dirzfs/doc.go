// Package dirzfs keeps the promises of package zfs on plain directories, for hosts
// without ZFS: real files in <pool>/mnt, snapshots as content-addressed trees in
// <pool>/packs and <pool>/meta.db, streams with GUIDs, checksums and resume tokens.
//
// It differs from ZFS where a directory cannot do better. A snapshot is exact per
// file, not over all files, unless the dataset is unmounted; a file that never
// stops changing is taken as it was read, and logged. Live writes cannot be
// stopped at the quota: snapshot and receive refuse instead. readonly=on clears
// write bits, which does not bind root. What programs store through a mapping is seen where
// pages are written to a disk, so not on a tmpfs. It may import zfs, bbolt and x/sys.
package dirzfs
