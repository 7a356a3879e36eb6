package lease

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is the time since boot, suspend included. Deadlines are instants on
// this clock: processes of one host share it, and it never steps.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Cannot happen; and without a clock every lease must count as over.
		return math.MaxInt64
	}
	return time.Duration(ts.Nano())
}
