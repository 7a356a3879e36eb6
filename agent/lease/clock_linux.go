package lease

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is the time since boot, suspend included. Deadlines are instants on
// this clock: processes of one host share it, and it never steps.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// The call cannot fail with these arguments; without a clock no lease is safe.
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(ts.Nano())
}
