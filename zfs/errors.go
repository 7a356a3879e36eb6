package zfs

import (
	"errors"
	"fmt"
)

// Classes of failure, the same for both engines; test with errors.Is. They come
// from the texts of zfs(8) (classify.go), or from dirzfs directly.
var (
	ErrInvalid         = errors.New("invalid argument")
	ErrNotExist        = errors.New("dataset does not exist")
	ErrExists          = errors.New("already exists")
	ErrBusy            = errors.New("dataset is busy")
	ErrHeld            = errors.New("snapshot is held")
	ErrHasClones       = errors.New("has dependent clones")
	ErrHasSnapshots    = errors.New("has snapshots or children")
	ErrNoSpace         = errors.New("out of space")
	ErrQuota           = errors.New("quota exceeded")
	ErrDiverged        = errors.New("most recent snapshot does not match the incremental source")
	ErrModified        = errors.New("destination has been modified since its most recent snapshot")
	ErrNotLatest       = errors.New("more recent snapshots or bookmarks exist")
	ErrResumable       = errors.New("contains partially-complete state")
	ErrNotResumable    = errors.New("no resumable receive state")
	ErrStreamTruncated = errors.New("incomplete stream")
	ErrStreamCorrupt   = errors.New("checksum mismatch or invalid stream")
	ErrStreamRefused   = errors.New("stream refused before it was received")
	ErrStreamFlags     = errors.New("stream flags differ from those of the earlier streams")
	ErrTokenInvalid    = errors.New("resume token is corrupt or stale")
	ErrBaseMissing     = errors.New("incremental source does not exist")
	ErrPoolUnavailable = errors.New("pool is unavailable or suspended")
	ErrPermission      = errors.New("permission denied")
	ErrUnsupported     = errors.New("not supported by this engine or version")
	ErrReadOnly        = errors.New("dataset is read-only")
	ErrNotMounted      = errors.New("not mounted")
	ErrKey             = errors.New("encryption key is not available or does not fit")
	ErrHung            = errors.New("command did not end in time")
	ErrStalled         = errors.New("receive takes nothing more")
	ErrToolMissing     = errors.New("zfs tools cannot be run")
	ErrUnclassified    = errors.New("failed")
)

// Error is a failed operation: what was asked of what, its class, the engine's own
// words and, where there is one, the operator's next step.
type Error struct {
	Op     string // verb as in zfs(8): "receive", "snapshot", ...
	Object string // dataset, snapshot or pool
	Class  error  // one of the Err values above, or the error of an ended context
	Text   string // detail, bounded to 4 KiB; may be empty
	Next   string // what to do about it; may be empty
}

// Error says "zfs receive pool/a@b: out of space: detail; next: what to do".
func (e *Error) Error() string {
	s := fmt.Sprintf("zfs %s %s: %v", e.Op, e.Object, e.Class)
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Next != "" {
		s += "; next: " + e.Next
	}
	return s
}

// Unwrap gives the class.
func (e *Error) Unwrap() error { return e.Class }
