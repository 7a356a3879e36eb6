package dirzfs

import (
	"context"

	"tarn/zfs"
)

// LoadKey fails: nothing is encrypted here.
func (h *Host) LoadKey(_ context.Context, name, _ string) error {
	return &zfs.Error{Op: "load-key", Object: name, Class: zfs.ErrUnsupported, Text: "a directory pool cannot encrypt"}
}
