package nfs3

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// nobody is the user and group of those who are squashed.
const nobody = 65534

// who is a caller as the client names it.
type who struct {
	uid, gid uint32
	gids     []uint32
}

// Squash says which users of a client become nobody.
type Squash int

// The values of Squash. The zero value is SquashRoot.
const (
	SquashRoot Squash = iota
	SquashNone
	SquashAll
)

func (s Squash) apply(w who) who {
	if s == SquashAll || s == SquashRoot && w.uid == 0 {
		return who{uid: nobody, gid: nobody}
	}
	if s == SquashRoot {
		w.gids = slices.DeleteFunc(slices.Clone(w.gids), func(g uint32) bool { return g == 0 })
		if w.gid == 0 {
			w.gid = nobody
		}
	}
	return w
}

var errIdentity = errors.New("identity of the thread could not be changed")

// do runs work as w. Only root can; another agent's files are all its own, and so
// is what its clients do.
func (w who) do(work func() error) (err error) {
	if os.Geteuid() != 0 {
		return work()
	}
	runtime.LockOSThread()
	if err := w.assume(); err != nil {
		// The thread ends with its goroutine: nobody else gets it.
		return fmt.Errorf("%w: %w", errIdentity, err)
	}
	defer func() {
		if restore := (who{}).assume(); restore != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", errIdentity, restore))
			return
		}
		runtime.UnlockOSThread()
	}()
	return work()
}

// lifted runs work as the server itself in the midst of do: what it owes its clients
// whatever their rights are, and nothing else.
func (w who) lifted(work func() error) (err error) {
	if os.Geteuid() != 0 {
		return work()
	}
	if err := (who{}).assume(); err != nil {
		return fmt.Errorf("%w: %w", errIdentity, err)
	}
	defer func() {
		if again := w.assume(); again != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", errIdentity, again))
		}
	}()
	return work()
}

// assume changes what the kernel checks files against, for this thread only: the
// library's own functions would change all of them.
func (w who) assume() error {
	if w.uid == 0 {
		// Back first, or there is no right to change the groups.
		if _, _, e := unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0); e != 0 {
			return e
		}
	}
	groups := make([]uint32, max(len(w.gids), 1))
	copy(groups, w.gids)
	if err := setGroups(groups[:len(w.gids)]); err != nil {
		return err
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSGID, uintptr(w.gid), 0, 0)
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, uintptr(w.uid), 0, 0)
	// Neither says whether it worked, but a change to nonsense says what is.
	uid, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0)
	gid, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, ^uintptr(0), 0, 0)
	if uint32(uid) != w.uid || uint32(gid) != w.gid {
		return unix.EPERM
	}
	return nil
}

// may computes what the mode bits let w do with a file: read 4, write 2, execute 1.
func (w who) may(st *unix.Statx_t) uint32 {
	if os.Geteuid() != 0 {
		w = who{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
		if groups, err := os.Getgroups(); err == nil {
			for _, g := range groups {
				w.gids = append(w.gids, uint32(g))
			}
		}
	}
	mode := uint32(st.Mode)
	switch {
	case w.uid == 0:
		if mode&0o111 == 0 && mode&unix.S_IFMT != unix.S_IFDIR {
			return 6
		}
		return 7
	case w.uid == st.Uid:
		return mode >> 6 & 7
	case w.gid == st.Gid || slices.Contains(w.gids, st.Gid):
		return mode >> 3 & 7
	}
	return mode & 7
}
