package zfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// settleDeadline bounds the wait for a daemon that may be dead.
	settleDeadline = time.Second
	// settleAsks is how often the daemon is asked when the kernel cannot tell how much it
	// still has to read: each answer proves that some more was read.
	settleAsks = 8
	// letGoTick is how often a fenced filesystem is looked at; less than settleTime.
	letGoTick = time.Second / 2

	openPath = 0o10000000 // O_PATH of Linux
)

// hold keeps a filesystem of zfs-fuse from ending before its daemon has read all that the
// kernel has for it.
//
// A file is closed for its process long before the daemon is told, and the end of the
// last mount drops what the daemon was not told. It counts the file as open then, tries
// to end the filesystem again and again, and holds the lock meanwhile under which it
// reads the requests of all its filesystems: every mount of the machine hangs until the
// daemon is killed. Seen on 0.7.0 after one in ten unmounts that follow a close at once,
// on a busy machine after nearly each.
//
// The hold is a second mount of the filesystem: after the unmount nothing new can come,
// settle waits for what has come, and then the end of the hold is the end of the
// filesystem. Linux before 5.2 has no such mount: settle comes before the unmount there,
// and a file that is closed between the two does the harm. For the kernel's ZFS it does
// nothing.
type hold struct {
	of   mount
	file *os.File // nil: none
}

func holdMount(m mount) hold {
	if !m.fuse {
		return hold{}
	}
	f, err := cloneMount(m.dir)
	if err != nil {
		settle(m, m.dir)
		return hold{}
	}
	return hold{m, f}
}

// letGo takes at most settleDeadline.
func (h hold) letGo() {
	if h.file == nil {
		return
	}
	settle(h.of, fmt.Sprintf("/proc/self/fd/%d", h.file.Fd()))
	_ = h.file.Close() // nothing was written through it
}

// untilUnused lets go when nobody uses the filesystem any more, which was detached. The
// end of this process ends the wait, too: a fence is no reason to wait for others.
func (h hold) untilUnused() {
	tick := time.NewTicker(letGoTick)
	defer tick.Stop()
	for len(deviceHolders(h.of.device)) > 0 {
		<-tick.C
	}
	h.letGo()
}

// settle waits until the daemon has read all that the kernel has for a filesystem. dir is
// anything in it.
func settle(m mount, dir string) {
	done := make(chan struct{})
	go func() { // a daemon that is dead keeps it, and nothing else
		defer close(done)
		for range settleAsks {
			if err := ask(dir); err != nil {
				return
			}
			if n, known := unread(m.device); known && n == 0 {
				return
			}
		}
	}()
	late := time.NewTimer(settleDeadline)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
}

// ask makes the daemon answer a question of its own filesystem, which the kernel does not
// answer from memory. Questions are read in their order.
func ask(dir string) error {
	var st syscall.Statfs_t
	return syscall.Statfs(dir, &st)
}

// unread is how many requests the daemon has not answered (the file "waiting" of the FUSE
// control filesystem), where that is mounted.
func unread(device string) (n int, known bool) {
	_, minor, _ := strings.Cut(device, ":")
	text, err := os.ReadFile(filepath.Join("/sys/fs/fuse/connections", minor, "waiting"))
	if err != nil {
		return 0, false
	}
	_, err = fmt.Sscan(string(text), &n)
	return n, err == nil
}

// settleBelow settles datasets and what is below them, for a command that unmounts them
// itself, without a hold.
func settleBelow(datasets []string) {
	for _, m := range fuseMountsBelow(datasets...) {
		settle(m, m.dir)
	}
}

// unmountBelow unmounts a dataset and what is below it, for a command that cannot have it
// mounted: an agent that looks after its mounts may have been quicker than the command.
// What is in use stays, and the command tells.
func unmountBelow(dataset string) {
	for _, m := range slices.Backward(fuseMountsBelow(dataset)) {
		_ = unmount(m)
	}
}

// fuseMountsBelow are the mounts of datasets and of what is below them; none where the
// mounts cannot be read.
func fuseMountsBelow(datasets ...string) []mount {
	all, err := mounts()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(m mount) bool {
		of := func(name string) bool { return m.dataset == name || strings.HasPrefix(m.dataset, name+"/") }
		return !m.fuse || !slices.ContainsFunc(datasets, of)
	})
}

// movesMounts tells whether a command changes a mountpoint, so that zfs(8) unmounts and
// mounts.
func movesMounts(args []string) bool {
	if len(args) < 3 || args[0] != "set" && args[0] != "inherit" {
		return false
	}
	prop, _, _ := strings.Cut(args[1], "=")
	return prop == PropMountpoint || prop == PropCanMount
}

// isHold tells whether a link of /proc/PID/fd is a hold: it keeps no file open.
func isHold(link string) bool {
	proc, number := filepath.Dir(filepath.Dir(link)), filepath.Base(link)
	if filepath.Base(filepath.Dir(link)) != "fd" {
		return false
	}
	info, err := os.ReadFile(filepath.Join(proc, "fdinfo", number))
	if err != nil || !pathOnly(string(info)) {
		return false
	}
	ours, err1 := os.Stat("/proc/self/exe")
	theirs, err2 := os.Stat(filepath.Join(proc, "exe"))
	return err1 == nil && err2 == nil && os.SameFile(ours, theirs)
}

// pathOnly reads O_PATH out of /proc/PID/fdinfo/N (proc_pid_fdinfo(5)).
func pathOnly(info string) bool {
	for line := range strings.Lines(info) {
		if octal, ok := strings.CutPrefix(line, "flags:"); ok {
			var flags uint64
			_, err := fmt.Sscanf(strings.TrimSpace(octal), "%o", &flags)
			return err == nil && flags&openPath != 0
		}
	}
	return false
}
