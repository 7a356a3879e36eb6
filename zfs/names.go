package zfs

import (
	"fmt"
	"strings"
)

// maxNameLen is the longest full name, exclusive (reference 1.0).
const maxNameLen = 256

// ValidateDataset checks a dataset name: components of [A-Za-z0-9_.:-] joined by
// single slashes, none empty, "." or "..", no leading '-', less than 256 bytes
// together. It returns an error that wraps ErrInvalid.
func ValidateDataset(name string) error {
	if err := validateLength(name); err != nil {
		return err
	}
	for _, c := range strings.Split(name, "/") {
		if err := validateComponent(c); err != nil {
			return fmt.Errorf("dataset %q: %w", name, err)
		}
	}
	return nil
}

// ValidateSnapshot checks "dataset@name" and returns its parts. The name after
// the @ obeys the rules of ValidateSnapshotName.
func ValidateSnapshot(full string) (dataset, name string, err error) {
	return validateVersion(full, "@")
}

// ValidateBookmark checks "dataset#name" and returns its parts.
func ValidateBookmark(full string) (dataset, name string, err error) {
	return validateVersion(full, "#")
}

func validateVersion(full, sep string) (dataset, name string, err error) {
	if err := validateLength(full); err != nil {
		return "", "", err
	}
	dataset, name, ok := strings.Cut(full, sep)
	if !ok {
		return "", "", fmt.Errorf("%w: %q has no %s", ErrInvalid, full, sep)
	}
	if err := ValidateDataset(dataset); err != nil {
		return "", "", err
	}
	if err := validateSnapshotName(name); err != nil {
		return "", "", fmt.Errorf("%q: %w", full, err)
	}
	return dataset, name, nil
}

// ValidateSnapshotName checks what follows @ or #: one component, which may have spaces
// too. tarn gives no such names, but other people do, and ZFS counts what was written
// since their snapshots: who does not see one takes data for replicated that are not.
func ValidateSnapshotName(name string) error {
	if err := validateLength(name); err != nil {
		return err
	}
	return validateSnapshotName(name)
}

func validateSnapshotName(name string) error {
	return validateComponent(strings.ReplaceAll(name, " ", "_"))
}

// ValidateComponent checks one part of a name, a pool for one.
func ValidateComponent(c string) error {
	if err := validateLength(c); err != nil {
		return err
	}
	return validateComponent(c)
}

func validateLength(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty name", ErrInvalid)
	case len(name) >= maxNameLen:
		return fmt.Errorf("%w: name of %d bytes, must be below %d", ErrInvalid, len(name), maxNameLen)
	}
	return nil
}

func validateComponent(c string) error {
	switch {
	case c == "":
		return fmt.Errorf("%w: empty name component", ErrInvalid)
	case c == "." || c == "..":
		return fmt.Errorf("%w: name component %q", ErrInvalid, c)
	case c[0] == '-':
		return fmt.Errorf("%w: name component %q starts with '-'", ErrInvalid, c)
	}
	for i := range len(c) {
		if !nameByte(c[i]) {
			return fmt.Errorf("%w: name component %q holds %q, allowed are A-Z a-z 0-9 _ . : -", ErrInvalid, c, c[i])
		}
	}
	return nil
}

func nameByte(b byte) bool {
	switch {
	case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9':
		return true
	}
	return b == '_' || b == '.' || b == ':' || b == '-'
}

// ValidateUserProperty checks the name and value of a user property: lower case
// with a colon, at most 256 bytes; the value at most 8 KiB without NUL.
func ValidateUserProperty(name, value string) error {
	if !strings.Contains(name, ":") || len(name) > 256 || name[0] == '-' {
		return fmt.Errorf("%w: property %.300q is neither native nor a user property (with a colon, at most 256 bytes)", ErrInvalid, name)
	}
	for i := range len(name) {
		b := name[i]
		if !nameByte(b) && b != '+' || b >= 'A' && b <= 'Z' {
			return fmt.Errorf("%w: property %q holds %q", ErrInvalid, name, b)
		}
	}
	if len(value) > 8<<10 || strings.ContainsRune(value, 0) {
		return fmt.Errorf("%w: value of property %q: %d bytes, at most 8192 without NUL", ErrInvalid, name, len(value))
	}
	return nil
}
