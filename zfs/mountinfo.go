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
	options              string // of this mount: "rw,nosuid,relatime"
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

// parseMounts reads the ZFS lines of /proc/PID/mountinfo (proc_pid_mountinfo(5)). With
// fusermount(1) everybody may mount what calls itself fuse.zfs and any dataset: only the
// user id is the kernel's own word, and zfs-fuse is root's.
func parseMounts(text string) []mount {
	var list []mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(kind) < 2 || kind[0] != "zfs" && kind[0] != "fuse.zfs" {
			continue
		}
		if kind[0] == "fuse.zfs" && (len(kind) < 3 || !slices.Contains(strings.Split(kind[2], ","), "user_id=0")) {
			continue
		}
		list = append(list, mount{options: fields[5], dataset: unescape(kind[1]), dir: unescape(fields[4]), device: fields[2], fuse: kind[0] == "fuse.zfs"})
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
