package zfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
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
	// fuseRetry is how often a slot is looked for while other processes have them all.
	fuseRetry = 20 * time.Millisecond
)

// slots bound how many of one thing run at once on this machine. The nil slots have
// no bound. Safe for concurrent use.
type slots struct {
	name string
	idle chan int
}

func newSlots(name string) *slots {
	s := &slots{name: name, idle: make(chan int, fuseStreams)}
	for i := range fuseStreams {
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
