package nfs3

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setGroups replaces the supplementary groups of this thread.
func setGroups(groups []uint32) error {
	var first *uint32
	if len(groups) > 0 {
		first = &groups[0]
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)), 0); e != 0 {
		return e
	}
	return nil
}
