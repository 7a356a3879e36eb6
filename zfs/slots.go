package zfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// zfs-fuse serves every command of the machine with eight threads (IOCTLQUEUE_WORKERS
// in its cmd_listener.c), and a stream keeps one at each end for as long as it lasts:
// eight receives whose sends wait for a thread never end. Three of each leave two for
// everything else. All agents of a machine share the limit through locks on files
// beside the daemon's socket.
const (
	fuseStreams = 3
	fuseRunDir  = "/var/run/zfs"
	// fuseMounts: two mounts at a time write their names over each other in the pipe that
	// tells zfs-fuse's listener of them, which then waits for the rest of a name of a
	// gigabyte, and with it every filesystem of the machine (seen on 0.7.0).
	fuseMounts = 1
	// fuseRetry is how often a slot is looked for while other processes have them all.
	fuseRetry = 20 * time.Millisecond
)

// slots bound how many of one thing run at once on this machine. The nil slots have
// no bound. Safe for concurrent use.
type slots struct {
	name string
	idle chan int
}

func newSlots(name string, n int) *slots {
	s := &slots{name: name, idle: make(chan int, n)}
	for i := range n {
		s.idle <- i
	}
	return s
}

// take waits for a slot. The function that it returns gives the slot back.
func (s *slots) take(ctx context.Context) (give func(), err error) {
	if s == nil {
		return func() {}, nil
	}
	for {
		select {
		case i := <-s.idle:
			if unlock, ok := s.lock(i); ok {
				return func() { unlock(); s.idle <- i }, nil
			}
			s.idle <- i
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		retry := time.NewTimer(fuseRetry)
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			return nil, ctx.Err()
		}
	}
}

// lock keeps other processes out of slot i; false when one is in it. Where no file
// can be made the bound is this process's alone.
func (s *slots) lock(i int) (unlock func(), ok bool) {
	f, err := os.OpenFile(filepath.Join(fuseRunDir, "tarn-"+s.name+"-"+strconv.Itoa(i)), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return func() {}, true
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		_ = f.Close()
		return nil, false
	}
	return func() { _ = f.Close() }, true
}

// Alone is called before zfs(8) runs with these arguments, by whoever starts it. Where
// zfs-fuse needs that, it waits until no other command of this machine mounts something,
// and settles what the command is going to unmount, for at most a second per filesystem,
// or unmounts what has to be unmounted for it.
// Everywhere else it does nothing. after has to be called when the command has ended.
func Alone(ctx context.Context, args []string) (after func(), err error) {
	if _, kernel := os.Stat("/dev/zfs"); kernel == nil || !mountsSomething(args) {
		return func() {}, nil
	}
	after, err = newSlots("mount", fuseMounts).take(ctx)
	switch {
	case err != nil:
	case movesMounts(args):
		settleBelow(args[2:])
	case renamesDataset(args):
		unmountBelow(args[1])
	}
	return after, err
}

// alone marks the context of commands whose caller has called Alone for all of them: they
// wait for no turn either, as those that have one may wait for this caller.
type alone struct{}

func isAlone(ctx context.Context) bool { return ctx.Value(alone{}) != nil }

func renamesDataset(args []string) bool {
	return len(args) == 3 && args[0] == "rename" && !strings.Contains(args[1], "@")
}

func mountsSomething(args []string) bool {
	if len(args) < 2 {
		return false
	}
	switch args[0] {
	case "mount", "create", "clone", "rename":
		return true
	}
	return movesMounts(args)
}
