package lease

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// shield asks for what only root gets: memory that stays, and the last place in
// the out-of-memory killer's list. Refusal weakens the helper under memory
// pressure only.
func shield() error {
	err := spareFromOOM()
	if lock := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); lock != nil {
		err = errors.Join(err, fmt.Errorf("lock memory: %w", lock))
	}
	return err
}
