package agent

import (
	"time"

	"tarn/agent/lease"
	tarnv1 "tarn/proto/tarn/v1"
)

// Values of fence.class.
const (
	classNone     = "none"
	classHelper   = "helper"
	classKernel   = "kernel"
	classWatchdog = "watchdog"
)

func (f FenceConfig) defaults() FenceConfig {
	f.Class = or(f.Class, classHelper)
	switch f.Class {
	case classWatchdog:
		f.Watchdog = or(f.Watchdog, "/dev/watchdog")
		f.WatchdogTimeout = or(f.WatchdogTimeout, 2*time.Second)
	case classKernel:
		f.Nft = or(f.Nft, "/usr/sbin/nft")
		if len(f.Ports) == 0 {
			f.Ports = []int{2049}
		}
	}
	return f
}

// backing is what the dead-man's helper has behind it.
func (f FenceConfig) backing() lease.Backing {
	switch f.Class {
	case classWatchdog:
		return lease.Backing{Watchdog: &lease.WatchdogConfig{Device: f.Watchdog, Timeout: f.WatchdogTimeout}}
	case classKernel:
		return lease.Backing{Filter: &lease.FilterConfig{Nft: []string{f.Nft}, Ports: f.Ports}}
	}
	return lease.Backing{}
}

func (f FenceConfig) validate(v *validator, margin time.Duration) {
	switch f.Class {
	case classNone, classHelper, classKernel, classWatchdog:
	default:
		v.check(false, "fence.class is %q, watchdog, kernel, helper and none are allowed", f.Class)
	}
	v.check(f.Class == classWatchdog || f.Watchdog == "" && f.WatchdogTimeout == 0, "fence.watchdog and fence.watchdog_timeout are for class watchdog")
	v.check(f.Class == classKernel || len(f.Ports) == 0 && f.Nft == "", "fence.ports and fence.nft are for class kernel")
	b := f.backing()
	if b.Watchdog != nil {
		if err := b.Watchdog.Validate(); err != nil {
			v.check(false, "fence: %w", err)
		}
		v.check(2*f.WatchdogTimeout <= margin,
			"fence.watchdog_timeout is %s, at most half of lease.margin = %s leaves the agent time to stop by itself", f.WatchdogTimeout, margin)
	}
	if b.Filter != nil {
		if err := b.Filter.Validate(); err != nil {
			v.check(false, "fence: %w", err)
		}
	}
}

// fenceClass is what is to end a lease here.
func (a *Agent) fenceClass() tarnv1.FenceClass {
	if a.deadman == nil {
		return tarnv1.FenceClass_FENCE_CLASS_NONE
	}
	switch a.cfg.Fence.Class {
	case classWatchdog:
		return tarnv1.FenceClass_FENCE_CLASS_WATCHDOG
	case classKernel:
		return tarnv1.FenceClass_FENCE_CLASS_KERNEL
	case classHelper:
		return tarnv1.FenceClass_FENCE_CLASS_HELPER
	}
	return tarnv1.FenceClass_FENCE_CLASS_NONE
}

// fencedBy is what ends it now, and why that is less than configured: nothing while no
// helper is up, so that the silence of the host proves nothing; the helper alone while
// what is behind it does not work.
func (a *Agent) fencedBy() (tarnv1.FenceClass, string) {
	class := a.fenceClass()
	switch {
	case class == tarnv1.FenceClass_FENCE_CLASS_NONE:
		return class, ""
	case !a.deadman.Up():
		return tarnv1.FenceClass_FENCE_CLASS_NONE, "the dead-man's helper process is not up"
	case a.deadman.Trouble() != "":
		return min(class, tarnv1.FenceClass_FENCE_CLASS_HELPER), a.deadman.Trouble()
	}
	return class, ""
}
