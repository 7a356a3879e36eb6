// Package realzfs gives tests real ZFS pools: on the kernel module where it is loaded,
// else on a zfs-fuse daemon that it starts for the test binary alone, in a mount
// namespace of its own, so that nothing of it is seen outside or left behind.
//
//	func TestMain(m *testing.M) { os.Exit(realzfs.Main(m)) }
//
//	func TestSomething(t *testing.T) {
//		pool := realzfs.NewPool(t, 512)
//		...
//	}
//
// It needs root, and the Debian package zfs-fuse or the kernel module with
// zfsutils-linux. Tests say why when they have to be skipped; with TARN_REQUIRE_ALL=1
// root's tests fail instead. Imported by tests only; imports zfs.
package realzfs
