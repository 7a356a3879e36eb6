package zfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// maxTag is the longest tag of a hold in bytes.
const maxTag = 255

func (h *Host) allowHold(op, tag string, snapshots []string) error {
	if err := ValidateComponent(tag); err != nil || len(tag) > maxTag {
		return &Error{Op: op, Object: tag, Class: ErrInvalid, Text: fmt.Sprintf("tag of a hold: %v", err)}
	}
	for _, s := range snapshots {
		if _, _, err := h.allowSnapshot(op, s); err != nil {
			return err
		}
	}
	return nil
}

// Hold puts one tag on all of snapshots, in one process. A snapshot that has the tag
// already keeps it.
func (h *Host) Hold(ctx context.Context, tag string, snapshots ...string) error {
	if err := h.allowHold("hold", tag, snapshots); err != nil {
		return err
	}
	rest := snapshots
	for len(rest) > 0 {
		_, err := h.run(ctx, "hold", rest[0], append([]string{"hold", tag}, rest...)...)
		if !errors.Is(err, ErrExists) {
			return err
		}
		// All or none were held: without those that have the tag the others go through.
		var e *Error
		errors.As(err, &e)
		without := slices.DeleteFunc(slices.Clone(rest), func(s string) bool { return saysOf(e.Text, s, "tag already exists") })
		if len(without) == len(rest) {
			return err
		}
		rest = without
	}
	return nil
}

// saysOf tells whether a line of text says so of a quoted name.
func saysOf(text, name, what string) bool {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "'"+name+"'") && strings.Contains(line, what) {
			return true
		}
	}
	return false
}

// Release takes a tag off all of snapshots that have it, in one process.
func (h *Host) Release(ctx context.Context, tag string, snapshots ...string) error {
	if err := h.allowHold("release", tag, snapshots); err != nil || len(snapshots) == 0 {
		return err
	}
	_, err := h.run(ctx, "release", snapshots[0], append([]string{"release", tag}, snapshots...)...)
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	var other []string
	for line := range strings.Lines(e.Text) {
		if !strings.Contains(line, "no such tag on this dataset") {
			other = append(other, line)
		}
	}
	if len(other) == 0 {
		return nil
	}
	again := classify("release", snapshots[0], strings.Join(other, ""), "")
	if again.Class == ErrUnclassified || e.Class == ErrPoolUnavailable {
		return err
	}
	return again
}

// Holds lists the holds on a snapshot by tag. ErrUnsupported on zfs-fuse, which
// counts but does not name them (Version.UserRefs).
func (h *Host) Holds(ctx context.Context, snapshot string) ([]Hold, error) {
	if _, _, err := h.allowSnapshot("holds", snapshot); err != nil {
		return nil, err
	}
	if !h.build.holdsListed {
		return nil, &Error{Op: "holds", Object: snapshot, Class: ErrUnsupported, Text: "this version does not list holds"}
	}
	flags := "-H"
	if h.build.holdsExact {
		flags = "-Hp"
	}
	out, err := h.run(ctx, "holds", snapshot, "holds", flags, snapshot)
	if err != nil {
		return nil, err
	}
	list, err := parseHolds(string(out))
	if err != nil {
		return nil, unreadable("holds", snapshot, err)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Tag < list[j].Tag })
	return list, nil
}

// Bookmark keeps a snapshot's place in history without its data. It is idempotent for
// an equal GUID, ErrExists otherwise.
func (h *Host) Bookmark(ctx context.Context, snapshot, bookmark string) error {
	dataset, name, err := h.allowSnapshot("bookmark", snapshot)
	if err != nil {
		return err
	}
	if _, err := h.allowBookmark("bookmark", bookmark); err != nil {
		return err
	}
	if !h.build.bookmarks {
		return &Error{Op: "bookmark", Object: snapshot, Class: ErrUnsupported, Text: "this version has no bookmarks"}
	}
	_, err = h.run(ctx, "bookmark", snapshot, "bookmark", snapshot, bookmark)
	if !errors.Is(err, ErrExists) {
		return err
	}
	list, listErr := h.Versions(ctx, dataset)
	if listErr != nil {
		return listErr
	}
	var of, at GUID
	for _, v := range list {
		if v.Kind == KindSnapshot && v.Name == name {
			of = v.GUID
		}
		if v.FullName() == bookmark {
			at = v.GUID
		}
	}
	if of != 0 && of == at {
		return nil
	}
	return err
}

// DestroyBookmark removes one bookmark.
func (h *Host) DestroyBookmark(ctx context.Context, bookmark string) error {
	if _, err := h.allowBookmark("destroy", bookmark); err != nil {
		return err
	}
	if !h.build.bookmarks {
		return &Error{Op: "destroy", Object: bookmark, Class: ErrNotExist, Text: "this version has no bookmarks"}
	}
	_, err := h.run(ctx, "destroy", bookmark, "destroy", bookmark)
	return err
}
