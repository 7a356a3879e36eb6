package zfs

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
)

// encryptionSince is the first version whose raw streams may come back to where they
// started without damage (openzfs commit 63a26454ba).
const encryptionSince = 202

// LoadKey gives ZFS the key of an encrypted dataset, which reads it from file (an
// absolute path, 32 bytes): the key itself passes through nobody else's hands. A key
// that is loaded already stays, whatever is in the file. ErrKey when the file is
// missing, is no key or is another dataset's.
func (h *Host) LoadKey(ctx context.Context, name, file string) error {
	if err := h.allow("load-key", name); err != nil {
		return err
	}
	if !filepath.IsAbs(file) || strings.ContainsAny(file, "\x00\n") {
		return &Error{Op: "load-key", Object: name, Class: ErrInvalid, Text: "the key file's path is not absolute"}
	}
	if !h.build.raw {
		return &Error{Op: "load-key", Object: name, Class: ErrUnsupported, Text: "this version has no encryption"}
	}
	_, err := h.run(ctx, "load-key", name, "load-key", "-L", "file://"+file, name)
	var e *Error
	switch {
	case !errors.As(err, &e) || strings.Contains(e.Text, "Key already loaded"):
		return nil
	case strings.Contains(e.Text, "Incorrect key"):
		e.Next = "put the key of " + name + " into " + file + ": copy it from a host that has it"
	case errors.Is(e, ErrKey):
		e.Next = "look at " + file + ": it has to be the 32 bytes of the key"
	}
	return e
}
