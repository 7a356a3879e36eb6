//go:build unix && !linux

package lease

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is the monotonic clock of the system. Where it stands still during
// suspend, the pause check of the Keeper is what remains.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_MONOTONIC: %v", err))
	}
	return time.Duration(ts.Nano())
}
