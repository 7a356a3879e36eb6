package lease

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"time"
)

// WatchdogConfig is a watchdog that resets the host unless it is fed.
type WatchdogConfig struct {
	// Device is its file, such as /dev/watchdog.
	Device string `json:"device"`
	// Timeout without food after which it bites: whole seconds, 1 or more.
	Timeout time.Duration `json:"timeout"`
}

// Validate checks that the path is absolute and the timeout one that watchdogs know.
func (c WatchdogConfig) Validate() error {
	if !filepath.IsAbs(c.Device) || filepath.Clean(c.Device) != c.Device {
		return fmt.Errorf("watchdog %q is not a clean absolute path", c.Device)
	}
	if c.Timeout < time.Second || c.Timeout%time.Second != 0 || c.Timeout > time.Minute {
		return fmt.Errorf("watchdog timeout is %s, 1s to 1m in whole seconds are allowed", c.Timeout)
	}
	return nil
}

// dog is an open watchdog. Opening arms it.
type dog interface {
	// Feed puts the bite off by the timeout.
	Feed() error
	// Release disarms it if calm, and otherwise leaves it running for whoever opens it next.
	Release(calm bool) error
}

// openFunc opens a watchdog with the given timeout; what it takes instead must not be longer.
type openFunc func(WatchdogConfig) (dog, error)

// watchdog feeds a dog while every right to write has longer to go than the dog waits:
// if the helper stops, dies or cannot fence, the host is reset by the end of the first
// right. It is armed only while a right is held.
type watchdog struct {
	config WatchdogConfig
	open   openFunc
	logger *slog.Logger
	dog    dog // nil: not armed
	// stray is until when the dog of an earlier helper may still run that this one has not
	// taken over: it came too late to feed it.
	stray time.Duration
}

func newWatchdog(config WatchdogConfig, open openFunc, logger *slog.Logger) *watchdog {
	return &watchdog{config: config, open: open, logger: logger}
}

// feedings are how often it is fed in each timeout.
const feedings = 5

// Guard implements Backstop.
func (w *watchdog) Guard(now, first, _ time.Duration, armed bool) (time.Duration, error) {
	if !armed {
		if err := w.catch(now); err != nil {
			return w.config.Timeout / feedings, err
		}
		w.release(true)
		return 0, w.check()
	}
	// The last meal is digested before the first right ends.
	if now+w.config.Timeout > first {
		if w.dog == nil {
			w.stray = now + w.config.Timeout
		}
		return w.config.Timeout / feedings, nil
	}
	if w.dog == nil {
		d, err := w.open(w.config)
		if err != nil {
			return w.config.Timeout / feedings, fmt.Errorf("arm watchdog: %w", err)
		}
		w.logger.Info("watchdog armed", "device", w.config.Device, "timeout", w.config.Timeout)
		w.dog, w.stray = d, 0
	}
	if err := w.dog.Feed(); err != nil {
		return w.config.Timeout / feedings, fmt.Errorf("feed watchdog: %w", err)
	}
	return w.config.Timeout / feedings, nil
}

// catch takes over the dog of an earlier helper, which has to be called off: all that it was
// to watch over, and this helper was given, is fenced. A helper that was given nothing does
// not: it does not know what was to be fenced.
func (w *watchdog) catch(now time.Duration) error {
	if w.dog != nil || now >= w.stray {
		return nil
	}
	d, err := w.open(w.config)
	if err != nil {
		return fmt.Errorf("call off the watchdog of an earlier helper: %w", err)
	}
	w.dog, w.stray = d, 0
	return nil
}

// Lead implements Backstop.
func (w *watchdog) Lead() time.Duration { return w.config.Timeout }

// Leave implements Backstop. With rights left the dog is not called off: a successor
// takes it over within its timeout, or it bites.
func (w *watchdog) Leave(clean bool) { w.release(clean) }

func (w *watchdog) release(calm bool) {
	if w.dog == nil {
		return
	}
	if err := w.dog.Release(calm); err != nil {
		w.logger.Error("watchdog was not disarmed", "device", w.config.Device, "err", err)
	}
	w.dog = nil
}

// check says whether it could be armed, as far as that can be told without doing so.
func (w *watchdog) check() error { return checkDog(w.config) }
