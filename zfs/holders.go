package zfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// holders lists the processes, as "pid 7 (comm)", that have something below a
// mountpoint open, or as working or root directory, as far as /proc shows them. The
// kernel's own users, an NFS server for one, are not among them.
func holders(mountpoint string) []string {
	return processes(func(link string) bool {
		target, err := os.Readlink(link)
		rest, inside := strings.CutPrefix(target, mountpoint)
		return err == nil && inside && (rest == "" || rest[0] == '/' || strings.HasPrefix(rest, " (deleted)"))
	})
}

// deviceHolders does so for a filesystem of a device number "major:minor", wherever it
// is or was mounted. Mapped files are seen as well, what Fence holds itself is not.
func deviceHolders(device string) []string {
	return processes(func(link string) bool {
		info, err := os.Stat(link)
		if err != nil {
			return false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		return ok && deviceName(uint64(st.Dev)) == device && !isHold(link)
	})
}

// deviceName is how mountinfo writes a device number.
func deviceName(dev uint64) string {
	major := dev>>8&0xfff | dev>>32&^0xfff
	minor := dev&0xff | dev>>12&^0xff
	return fmt.Sprintf("%d:%d", major, minor)
}

// processes lists those of which a link to something in use matches.
func processes(match func(link string) bool) []string {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if slices.ContainsFunc(inUse(filepath.Join("/proc", e.Name())), match) {
			list = append(list, fmt.Sprintf("pid %d (%s)", pid, comm(pid)))
		}
	}
	return list
}

// inUse are the links to what a process has open, mapped, or as a directory of its own.
func inUse(proc string) []string {
	links := []string{filepath.Join(proc, "cwd"), filepath.Join(proc, "root")}
	for _, dir := range []string{"fd", "map_files"} {
		names, _ := os.ReadDir(filepath.Join(proc, dir)) // the process may be ending
		for _, n := range names {
			links = append(links, filepath.Join(proc, dir, n.Name()))
		}
	}
	return links
}

func comm(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "gone"
	}
	return string(bytes.TrimSpace(b))
}

// poolActive tells whether the kernel module has a pool imported, without a process;
// false also when that cannot be seen.
func poolActive(pool string) bool {
	_, err := os.Stat("/proc/spl/kstat/zfs/" + pool)
	return err == nil
}
