//go:build unix && !linux

package lease

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is the monotonic clock of the system. Where it stands still during
// suspend, the pause check of the Keeper is what remains.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		// Cannot happen; and without a clock every lease must count as over.
		return math.MaxInt64
	}
	return time.Duration(ts.Nano())
}
