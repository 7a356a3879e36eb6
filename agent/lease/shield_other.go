//go:build unix && !linux

package lease

import "errors"

func shield() error {
	return errors.Join(spareFromOOM(), errors.New("memory is not locked on this system"))
}
