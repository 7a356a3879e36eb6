package dirzfs

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
)

// classes are what an inner error may wrap, the more telling ones first.
func classes() []error {
	return []error{
		zfs.ErrInvalid, zfs.ErrTokenInvalid, zfs.ErrStreamCorrupt, zfs.ErrStreamTruncated, zfs.ErrNotResumable,
		zfs.ErrResumable, zfs.ErrDiverged, zfs.ErrModified, zfs.ErrBaseMissing, zfs.ErrNotLatest, zfs.ErrHeld,
		zfs.ErrHasClones, zfs.ErrHasSnapshots, zfs.ErrQuota, zfs.ErrNoSpace, zfs.ErrReadOnly, zfs.ErrNotMounted,
		zfs.ErrUnsupported, zfs.ErrPermission, zfs.ErrExists, zfs.ErrNotExist, zfs.ErrBusy, zfs.ErrPoolUnavailable,
	}
}

// fail turns any error into a *zfs.Error; nil stays nil and a context's end stays
// recognisable.
func fail(op, object string, err error) error {
	if err == nil {
		return nil
	}
	var done *zfs.Error
	if errors.As(err, &done) {
		return err
	}
	text := err.Error()
	if len(text) > 4<<10 {
		text = text[:4<<10]
	}
	return &zfs.Error{Op: op, Object: object, Class: classOf(err), Text: text}
}

func classOf(err error) error {
	for _, c := range classes() {
		if errors.Is(err, c) {
			return c
		}
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC):
		return zfs.ErrNoSpace
	case errors.Is(err, syscall.EDQUOT):
		return zfs.ErrQuota
	case errors.Is(err, fs.ErrPermission):
		return zfs.ErrPermission
	case errors.Is(err, store.ErrMissing), errors.Is(err, tree.ErrMalformed), errors.Is(err, store.ErrCorrupt):
		return zfs.ErrPoolUnavailable
	}
	return zfs.ErrPoolUnavailable // an I/O error: nothing the caller asked wrongly
}
