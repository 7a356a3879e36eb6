package zfs

import (
	"context"
	"strconv"
	"strings"
)

// Reclaimable is the bytes that destroying exactly these snapshots of one filesystem
// would free, by a dry run: nothing is changed. ErrUnsupported where the version has
// none, and for more names than one command takes; held or cloned snapshots are
// errors as for a destroy.
func (h *Host) Reclaimable(ctx context.Context, dataset string, names ...string) (int64, error) {
	for _, n := range names {
		if _, _, err := h.allowSnapshot("destroy", dataset+"@"+n); err != nil {
			return 0, err
		}
	}
	if len(names) == 0 {
		return 0, h.allow("destroy", dataset)
	}
	if !h.build.commaDestroy || len(chunks(names, argumentLimit)) > 1 {
		return 0, &Error{Op: "destroy", Object: dataset, Class: ErrUnsupported, Text: "no dry run of this"}
	}
	out, err := h.run(ctx, "destroy", dataset+"@"+names[0], "destroy", "-nvp", dataset+"@"+strings.Join(names, ","))
	if err != nil {
		return 0, err
	}
	return parseReclaim(dataset, string(out))
}

// parseReclaim finds the sum in what destroy -nvp prints: a line per snapshot, then
// "reclaim" and a number, separated by a tab.
func parseReclaim(dataset, text string) (int64, error) {
	for line := range strings.Lines(text) {
		if digits, ok := strings.CutPrefix(strings.TrimSpace(line), "reclaim\t"); ok {
			if n, err := strconv.ParseInt(digits, 10, 64); err == nil && n >= 0 {
				return n, nil
			}
		}
	}
	return 0, &Error{Op: "destroy", Object: dataset, Class: ErrUnsupported, Text: "the dry run tells no sum"}
}
