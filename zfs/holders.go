package zfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holders lists the processes, as "pid 7 (comm)", that have something below a
// mountpoint open, or as working or root directory, as far as /proc shows them. The
// kernel's own users, an NFS server for one, are not among them.
func holders(mountpoint string) []string {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range procs {
		if pid, err := strconv.Atoi(e.Name()); err == nil && holds(filepath.Join("/proc", e.Name()), mountpoint) {
			list = append(list, fmt.Sprintf("pid %d (%s)", pid, comm(pid)))
		}
	}
	return list
}

func comm(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "gone"
	}
	return string(bytes.TrimSpace(b))
}

func holds(proc, mountpoint string) bool {
	links := []string{filepath.Join(proc, "cwd"), filepath.Join(proc, "root")}
	fds, _ := os.ReadDir(filepath.Join(proc, "fd")) // the process may be ending
	for _, fd := range fds {
		links = append(links, filepath.Join(proc, "fd", fd.Name()))
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		rest, inside := strings.CutPrefix(target, mountpoint)
		if err == nil && inside && (rest == "" || rest[0] == '/' || strings.HasPrefix(rest, " (deleted)")) {
			return true
		}
	}
	return false
}

// poolActive tells whether the kernel module has a pool imported, without a process;
// false also when that cannot be seen.
func poolActive(pool string) bool {
	_, err := os.Stat("/proc/spl/kstat/zfs/" + pool)
	return err == nil
}
