package dev

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// zfs-fuse keeps its socket and its cache in fixed places, so that there can be one
// daemon per mount namespace. Each host of a playground gets one of its own: its
// file systems are mounted there and nowhere else, and all that is left of it is
// gone when its last process ends, whatever killed it.

// daemonDirs are what each zfs-fuse needs for itself.
func daemonDirs() []string { return []string{"/var/run/zfs", "/var/lib/zfs", "/var/lock/zfs"} }

// apart runs start on a thread in a new mount namespace, of which the processes that
// it starts are the first. It is made ready for a zfs-fuse.
func apart(start func() error) error {
	for _, dir := range daemonDirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a place for zfs-fuse: %w", err)
		}
	}
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("keep mounts private: %w", err)
		}
		for _, dir := range daemonDirs() {
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
				return fmt.Errorf("make a place for zfs-fuse: %s: %w", dir, err)
			}
		}
		return start()
	})
}

// beside runs start on a thread in the mount namespace of a process.
func beside(pid int, start func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return fmt.Errorf("find mount namespace: %w", err)
	}
	err = onThread(func() error {
		// A thread that shares its working directory with others cannot change namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("join mount namespace: %w", err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("join mount namespace: %w", err)
		}
		return start()
	})
	return errors.Join(err, ns.Close())
}

// onThread runs f on a thread of its own, which ends with it: what f did to the
// thread concerns nobody else.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: that is what ends the thread
		done <- f()
	}()
	return <-done
}

// seenFrom is the path under which this process sees what another one has at path.
func seenFrom(pid int, path string) string {
	return fmt.Sprintf("/proc/%d/root%s", pid, path)
}
