package raftfsm

import (
	"maps"
	"slices"
	"unicode/utf8"
)

// Bounds of Manila's text fields (manila semantics 1, 1.1).
const (
	maxName          = 255
	maxDescription   = 255
	maxMetadataKey   = 255
	maxMetadataValue = 1023
)

func checkNames(name, description string) *Error {
	if len(name) > maxName {
		return refuse(InvalidArgument, "name", "has %d bytes, %d are allowed", len(name), maxName)
	}
	if len(description) > maxDescription {
		return refuse(InvalidArgument, "description", "has %d bytes, %d are allowed", len(description), maxDescription)
	}
	return nil
}

func checkMetadata(m map[string]string) *Error {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if n := utf8.RuneCountInString(k); n < 1 || n > maxMetadataKey {
			return refuse(InvalidArgument, "metadata", "a key has %d characters, 1 to %d are allowed", n, maxMetadataKey)
		}
		if n := utf8.RuneCountInString(m[k]); n < 1 || n > maxMetadataValue {
			return refuse(InvalidArgument, "metadata["+k+"]", "has %d characters, 1 to %d are allowed", n, maxMetadataValue)
		}
	}
	return nil
}

// editMetadata returns old with changes: a copy, nil when nothing is left.
func editMetadata(old, set map[string]string, unset []string, replace bool) (map[string]string, *Error) {
	if err := checkMetadata(set); err != nil {
		return nil, err
	}
	next := map[string]string{}
	if !replace {
		maps.Copy(next, old)
	}
	for _, k := range unset {
		delete(next, k)
	}
	maps.Copy(next, set)
	if len(next) == 0 {
		return nil, nil
	}
	return next, nil
}
