package zfs

import (
	"context"
	"strings"
)

// Shared lists the filesystems at and below root that ZFS itself exports when they are
// mounted, with the properties that say so (sharenfs, sharesmb): those on which one is set,
// and root if it inherits one. One process (two on zfs-fuse).
func (h *Host) Shared(ctx context.Context, root string) (map[string][]string, error) {
	if err := h.allow("get", root); err != nil {
		return nil, err
	}
	targets, err := h.targets(ctx, root, true)
	if err != nil {
		return nil, err
	}
	args := append([]string{"get", "-Hp", "-o", "name,property,value,source"}, targets.flags...)
	out, err := h.run(ctx, "get", root, append(append(args, "sharenfs,sharesmb"), targets.names...)...)
	if err != nil && !othersVanished(err, root) {
		return nil, err
	}
	records, err := parseRecords(string(out))
	if err != nil {
		return nil, unreadable("get", root, err)
	}
	return sharedAmong(records, root), nil
}

func sharedAmong(records []record, root string) map[string][]string {
	shared := map[string][]string{}
	for _, r := range records {
		set := r.source == SourceLocal || r.source == SourceReceived || r.name == root
		if set && r.value != "off" && r.value != "-" && ValidateDataset(r.name) == nil && strings.HasPrefix(r.property, "share") {
			shared[r.name] = append(shared[r.name], r.property)
		}
	}
	return shared
}
