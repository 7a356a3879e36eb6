package zfs

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// mount is one mounted ZFS filesystem of a mount namespace.
type mount struct {
	dataset, dir, device string // device is "major:minor"
	fuse                 bool   // a daemon serves it, not the kernel
}

// mounts lists the ZFS mounts of this process' namespace, in their order. It reads what
// the kernel says and runs no process.
func mounts() ([]mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(string(text)), nil
}

func mountsOf(dataset string) ([]mount, error) {
	all, err := mounts()
	return slices.DeleteFunc(all, func(m mount) bool { return m.dataset != dataset }), err
}

func deviceMounted(device string) (bool, error) {
	all, err := mounts()
	return slices.ContainsFunc(all, func(m mount) bool { return m.device == device }), err
}

// parseMounts reads the ZFS lines of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
func parseMounts(text string) []mount {
	var list []mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 2 || kind[0] != "zfs" && kind[0] != "fuse.zfs" {
			continue
		}
		list = append(list, mount{dataset: unescape(kind[1]), dir: unescape(fields[4]), device: fields[2], fuse: kind[0] == "fuse.zfs"})
	}
	return list
}

// unescape undoes the \040 that stands for a space and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
