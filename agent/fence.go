package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarn/agent/export"
	"tarn/agent/lease"
	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// noFollow is UMOUNT_NOFOLLOW of umount2(2).
const noFollow = 8

// severTimeout bounds the time to take clients off a mountpoint.
const severTimeout = 5 * time.Second

// RunDeadman is the whole of the dead-man's process, which Config.DeadmanCommand
// starts: it fences datasets at the end of their lease when the agent, stopped or
// dead, cannot. dir is the agent's data directory, the last argument of the command.
func RunDeadman(dir string, log *slog.Logger) error {
	return lease.DeadmanMain(dir, func(t lease.Target) error { return fence(dir, t, log) }, log)
}

// fence takes a dataset out of everybody's reach, with nothing but what is on disk
// and what the kernel says: first what serves it to clients, then the file system.
func fence(dir string, t lease.Target, log *slog.Logger) error {
	switch t.Engine {
	case "":
		return errors.Join(severAll(dir, t.Dataset, nil), dirzfs.Fence(t.PoolDir, t.Dataset))
	case StorageZFS:
		return fenceZFS(dir, t.Dataset, log)
	}
	return fmt.Errorf("this build cannot fence datasets of engine %q: %w", t.Engine, zfs.ErrUnsupported)
}

// fenceZFS asks no tool of ZFS, which may hang with the pool. After nil nobody can
// write to the dataset: what was open on it is not open any more.
func fenceZFS(dir, dataset string, log *slog.Logger) error {
	mounted, err := mountsOf(dataset)
	if err != nil {
		return err
	}
	// Whatever comes of it, the file system has to go, too.
	severed := severAll(dir, dataset, mounted)
	for i := len(mounted) - 1; i >= 0; i-- { // the one on top first
		if err := detach(mounted[i], log); err != nil {
			return errors.Join(severed, fmt.Errorf("unmount %s: %w", mounted[i], err))
		}
	}
	return severed
}

// severAll takes clients off every mountpoint of a dataset: where it is mounted and
// where it was exported, which after an unmount by hand is not the same.
func severAll(dir, dataset string, mounted []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), severTimeout)
	defer cancel()
	remembered, err := export.Remembered(dir)
	errs := []error{err}
	places := map[string]bool{}
	for _, m := range mounted {
		places[m] = true
	}
	for _, e := range remembered {
		if path.Base(e.Mountpoint) == path.Base(dataset) {
			places[e.Mountpoint] = true
		}
	}
	for place := range places {
		errs = append(errs, export.Sever(ctx, dir, place))
	}
	return errors.Join(errs...)
}

// detach unmounts, and ends the processes that have something open below: their
// right to write is over. What cannot be unmounted is an error, to be tried again.
func detach(mountpoint string, log *slog.Logger) error {
	err := syscall.Unmount(mountpoint, noFollow)
	if !errors.Is(err, syscall.EBUSY) {
		return ignoreUnmounted(err)
	}
	for _, pid := range holding(mountpoint) {
		log.Warn("dead-man ends a process that keeps a share busy", "pid", pid, "mountpoint", mountpoint)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			log.Error("process could not be ended", "pid", pid, "err", err)
		}
	}
	return ignoreUnmounted(syscall.Unmount(mountpoint, noFollow))
}

// ignoreUnmounted drops what says that nothing is mounted there any more.
func ignoreUnmounted(err error) error {
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// holding are the processes that have something below a directory open or mapped, or
// work there; this one is not among them.
func holding(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && holds(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func holds(pid int, dir string) bool {
	proc := fmt.Sprintf("/proc/%d/", pid)
	links := []string{proc + "cwd", proc + "root"}
	for _, sub := range []string{"fd", "map_files"} {
		entries, _ := os.ReadDir(proc + sub) // it may have ended
		for _, e := range entries {
			links = append(links, proc+sub+"/"+e.Name())
		}
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && (target == dir || strings.HasPrefix(target, dir+"/")) {
			return true
		}
	}
	return false
}

// mountsOf are the places where a dataset is mounted in this mount namespace, the
// last mounted last.
func mountsOf(dataset string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var places []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		if place, ok := mountOf(scanner.Text(), dataset); ok {
			places = append(places, place)
		}
	}
	return places, scanner.Err()
}

// mountOf reads one line of mountinfo: "36 35 98:0 /root /mount/point opts tags - type source opts".
func mountOf(line, dataset string) (mountpoint string, ok bool) {
	before, after, found := strings.Cut(line, " - ")
	place, of := strings.Fields(before), strings.Fields(after)
	if !found || len(place) < 6 || len(of) < 2 || of[0] != "zfs" && of[0] != "fuse.zfs" || unescape(of[1]) != dataset {
		return "", false
	}
	return unescape(place[4]), true
}

// unescape undoes the octal escapes of mountinfo: \040 is a space.
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
