//go:build !linux

package zfs

import (
	"fmt"
	"os"
)

// Elsewhere pipes keep their size, and a stream's end shows when it is read.

func growPipe(*os.File) {}

func awaitReadable(*os.File) bool { return true }

func atEnd(*os.File) bool { return false }

func spliceAll(_, _ *os.File) (done bool, err error) { return false, nil }

func remount(string, bool) error { return nil }

func detachMount(m mount) (busy bool, err error) {
	return false, fmt.Errorf("detach %s: this system cannot", m.dir)
}

func unmount(m mount) error { return fmt.Errorf("unmount %s: this system cannot", m.dir) }

func cloneMount(dir string) (*os.File, error) {
	return nil, fmt.Errorf("open %s: this system cannot", dir)
}
