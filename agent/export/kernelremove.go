package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// removal is one mountpoint that waits to be taken away.
type removal struct {
	mountpoint string
	puts       uint64 // into the table, before
	done       chan error
}

// Remove takes a mountpoint away from every client and ends the state that NFSv4
// clients have in it, so that it can be unmounted. One that is not exported is no
// error. Removals that wait for each other are done together: each flush of the
// kernel's caches puts off the next, see settle.
func (k *Kernel) Remove(ctx context.Context, mountpoint string) error {
	puts, err := k.remove(ctx, mountpoint)
	if err == nil {
		// It may wait for the file system, for ever: nobody else is to wait for that.
		err = k.unlock(mountpoint)
	}
	if err == nil {
		err = k.forget(mountpoint, puts)
	}
	if err != nil {
		return fmt.Errorf("remove export %s: %w", mountpoint, err)
	}
	k.settle(ctx, settlePatience, mountpoint)
	return nil
}

func (k *Kernel) remove(ctx context.Context, mountpoint string) (puts uint64, err error) {
	r := &removal{mountpoint: mountpoint, done: make(chan error, 1)}
	k.queueing.Lock()
	k.queue = append(k.queue, r)
	k.queueing.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queueing.Lock()
	batch := k.queue
	k.queue = nil
	k.queueing.Unlock()
	k.removeAll(ctx, batch)
	err = <-r.done
	return r.puts, err
}

func (k *Kernel) removeAll(ctx context.Context, batch []*removal) {
	var mountpoints []string
	for _, r := range batch {
		mountpoints = append(mountpoints, r.mountpoint)
	}
	failed := k.withdraw(ctx, mountpoints...)
	for _, r := range batch {
		r.puts = k.table.puts[r.mountpoint]
		r.done <- failed[r.mountpoint]
	}
}

// forget takes a mountpoint out of the table.
func (k *Kernel) forget(mountpoint string, puts uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.table.removeSince(mountpoint, puts)
}

// sever is Remove without the table. It returns what could not be taken away.
func (k *Kernel) sever(ctx context.Context, mountpoints ...string) map[string]error {
	failed := k.withdraw(ctx, mountpoints...)
	for _, m := range mountpoints {
		if failed[m] == nil {
			failed[m] = k.unlock(m)
		}
	}
	return failed
}

// withdraw takes mountpoints away from clients, and leaves the state that they have there. It
// waits for no file system, and calls exportfs once, however many they are: each call waits
// for those before it. It returns what could not be taken away.
func (k *Kernel) withdraw(ctx context.Context, mountpoints ...string) map[string]error {
	failed := map[string]error{}
	before, err := k.etab()
	var gone, clear []string
	for _, m := range mountpoints {
		if failed[m] = errors.Join(err, k.dropFile(m)); failed[m] == nil {
			gone, clear = append(gone, before.of(m)...), append(clear, m)
		}
	}
	slices.Sort(gone)
	err = k.exportfsEach(ctx, []string{"-u"}, gone)
	if err != nil && ctx.Err() == nil {
		k.oneByOne(ctx, clear, failed)
		return failed
	}
	after, unread := k.etab()
	for _, m := range clear {
		if failed[m] = errors.Join(err, unread); failed[m] == nil {
			failed[m] = k.verify(after, m, nil)
		}
	}
	return failed
}

// oneByOne is for mountpoints of which exportfs did not like one: the others do not wait for
// that one. Whether it flushed at its end is not known, so it does at the end of this.
func (k *Kernel) oneByOne(ctx context.Context, mountpoints []string, failed map[string]error) {
	left, err := k.etab()
	for _, m := range mountpoints {
		if clients := left.of(m); err == nil && len(clients) > 0 {
			failed[m] = k.exportfsEach(ctx, []string{"-u"}, clients)
		}
	}
	err = errors.Join(err, k.exportfs(ctx, []string{"-f"}))
	after, unread := k.etab()
	for _, m := range mountpoints {
		if failed[m] = errors.Join(failed[m], err, unread); failed[m] == nil {
			failed[m] = k.verify(after, m, nil)
		}
	}
}

func (k *Kernel) dropFile(mountpoint string) error {
	if err := checkMountpoint(mountpoint); err != nil {
		return err
	}
	if err := os.Remove(k.file(mountpoint)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// argumentBytes bounds what one exportfs is told: the kernel gives a command line a quarter
// of the stack, 2 MiB, less the environment.
const argumentBytes = 512 << 10

// exportfsEach calls exportfs with flags and as many of args at a time as it can be told.
func (k *Kernel) exportfsEach(ctx context.Context, flags, args []string) error {
	var errs []error
	for len(args) > 0 {
		n, size := 1, len(args[0])
		for n < len(args) && size+len(args[n]) < argumentBytes {
			size += len(args[n])
			n++
		}
		errs = append(errs, k.exportfs(ctx, append(slices.Clone(flags), args[:n]...)))
		args = args[n:]
	}
	return errors.Join(errs...)
}

// unlock ends the locks and the NFSv4 state of a file system. The kernel acts on
// the whole of it, hence only on one that is mounted at mountpoint itself.
func (k *Kernel) unlock(mountpoint string) error {
	if mounted(mountpoint) != nil || k.serving() != nil {
		return nil // nobody has anything there
	}
	f, err := os.OpenFile(filepath.Join(k.config.Proc, "unlock_filesystem"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("end the state of clients: %w", err)
	}
	_, err = f.WriteString(mountpoint + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("end the state of clients: %w", err)
	}
	return nil
}

// How long settle waits for the kernel at most, and how often it looks.
const (
	settlePatience = 10 * time.Second
	settleLook     = 50 * time.Millisecond
)

// settle sees to it that the kernel's caches forget a mountpoint, which they keep
// from being unmounted. exportfs flushes them at its end, but the kernel counts
// flushes in seconds: the second one of a second is dated a second later, and
// until then nothing is let go. So after a burst of changes (zfs mount and zfs
// unmount call exportfs too, the latter twice when it fails) it is better to wait
// than to try. Clients are refused all the same.
func (k *Kernel) settle(ctx context.Context, patience time.Duration, mountpoint string) {
	k.settleEach(ctx, patience, []string{mountpoint}, func(string) {})
}

// settleEach is settle for several mountpoints; free is called for each as soon as the
// kernel has forgotten it, or the time is over.
func (k *Kernel) settleEach(ctx context.Context, patience time.Duration, mountpoints []string, free func(mountpoint string)) {
	over, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(settleLook)
	defer ticker.Stop()
	left := slices.Clone(mountpoints)
	look := func() bool {
		known := k.cached()
		left = slices.DeleteFunc(left, func(m string) bool {
			if !known[m] {
				free(m)
			}
			return !known[m]
		})
		return len(left) == 0
	}
	for !look() {
		// What fails is tried again: the caller finds out by unmounting.
		if k.flushable() && k.exportfs(ctx, []string{"-f"}) == nil && look() {
			return
		}
		select {
		case <-over.Done(): // what has begun by then may end
			for _, m := range left {
				free(m)
			}
			return
		case <-ticker.C:
		}
	}
}

// cached are the paths that the kernel still knows.
func (k *Kernel) cached() map[string]bool {
	known := map[string]bool{}
	for _, cache := range []string{"nfsd.fh", "nfsd.export"} {
		data, err := os.ReadFile(filepath.Join(k.config.Caches, cache, "content"))
		if err != nil {
			continue // no server, no cache
		}
		for line := range strings.Lines(string(data)) {
			for _, field := range strings.Fields(line) {
				if field[0] == '/' {
					known[unescape(field)] = true
				}
			}
		}
	}
	return known
}

// flushable tells whether the last flush is in the past, so that another one works
// at once.
func (k *Kernel) flushable() bool {
	data, err := os.ReadFile(filepath.Join(k.config.Caches, "nfsd.export", "flush"))
	if err != nil {
		return false
	}
	at, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return err == nil && at < time.Now().Unix()
}

// Run returns when ctx ends: the kernel serves by itself.
func (k *Kernel) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
