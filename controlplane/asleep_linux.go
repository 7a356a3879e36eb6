package controlplane

import (
	"time"

	"golang.org/x/sys/unix"
)

// asleep is how long the system has been suspended since it was started: what the boot
// clock counts and the monotonic clock does not. Rather a little less: whoever is stopped
// between reading one and the other was not suspended.
func asleep() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0 // Cannot happen. The wall clock still tells.
	}
	return time.Duration(boot.Nano() - mono.Nano())
}
