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
	done       chan error
}

// Remove takes a mountpoint away from every client and ends the state that NFSv4
// clients have in it, so that it can be unmounted. One that is not exported is no
// error. Removals that wait for each other are done together: each flush of the
// kernel's caches puts off the next, see settle.
func (k *Kernel) Remove(ctx context.Context, mountpoint string) error {
	if err := k.remove(ctx, mountpoint); err != nil {
		return fmt.Errorf("remove export %s: %w", mountpoint, err)
	}
	k.settle(ctx, settlePatience, mountpoint)
	return nil
}

func (k *Kernel) remove(ctx context.Context, mountpoint string) error {
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
	return <-r.done
}

func (k *Kernel) removeAll(ctx context.Context, batch []*removal) {
	var mountpoints []string
	for _, r := range batch {
		mountpoints = append(mountpoints, r.mountpoint)
	}
	failed := k.sever(ctx, mountpoints...)
	err := k.table.change(func(rows map[string]Export) {
		for _, m := range mountpoints {
			if failed[m] == nil {
				delete(rows, m)
			}
		}
	})
	for _, r := range batch {
		r.done <- errors.Join(failed[r.mountpoint], err)
	}
}

// sever is Remove without the table. It returns what could not be taken away.
func (k *Kernel) sever(ctx context.Context, mountpoints ...string) map[string]error {
	failed := map[string]error{}
	var gone, clear []string
	for _, m := range mountpoints {
		clients, err := k.severFile(m)
		if err != nil {
			failed[m] = err
			continue
		}
		gone, clear = append(gone, clients...), append(clear, m)
	}
	var err error
	if len(gone) > 0 {
		slices.Sort(gone)
		err = k.exportfs(ctx, append([]string{"-u"}, gone...))
	}
	for _, m := range clear {
		if failed[m] = errors.Join(err, k.verify(m, nil)); failed[m] == nil {
			failed[m] = k.unlock(m)
		}
	}
	return failed
}

// severFile removes an export's file and lists the clients that have to go.
func (k *Kernel) severFile(mountpoint string) ([]string, error) {
	if err := checkMountpoint(mountpoint); err != nil {
		return nil, err
	}
	if err := os.Remove(k.file(mountpoint)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	have, err := k.inForce(mountpoint)
	if err != nil {
		return nil, err
	}
	var gone []string
	for client := range have {
		gone = append(gone, exportArgument(client, mountpoint))
	}
	return gone, nil
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
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(settleLook)
	defer ticker.Stop()
	for k.cached(mountpoint) {
		// What fails is tried again: the caller finds out by unmounting.
		if k.flushable() && k.exportfs(ctx, []string{"-f"}) == nil && !k.cached(mountpoint) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-deadline.C:
			return
		case <-ticker.C:
		}
	}
}

// cached tells whether the kernel still knows a mountpoint.
func (k *Kernel) cached(mountpoint string) bool {
	for _, cache := range []string{"nfsd.fh", "nfsd.export"} {
		data, err := os.ReadFile(filepath.Join(k.config.Caches, cache, "content"))
		if err != nil {
			continue // no server, no cache
		}
		for line := range strings.Lines(string(data)) {
			if slices.ContainsFunc(strings.Fields(line), func(field string) bool { return unescape(field) == mountpoint }) {
				return true
			}
		}
	}
	return false
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
