//go:build unix && !linux

package lease

import "errors"

var errDog = errors.New("this build cannot use watchdogs on this system")

func openDog(WatchdogConfig) (dog, error) { return nil, errDog }

func checkDog(WatchdogConfig) error { return errDog }
