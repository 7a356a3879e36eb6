package zfs

import (
	"context"
	"sort"
)

// Versions lists snapshots and bookmarks of one filesystem by createtxg. Callers that
// ask at the same time share a process. Names that ValidateSnapshot refuses (with
// spaces) are left out.
func (h *Host) Versions(ctx context.Context, dataset string) ([]Version, error) {
	if err := h.allow("list", dataset); err != nil {
		return nil, err
	}
	answers, errs, err := h.listings.do(ctx, dataset)
	if err != nil {
		return nil, &Error{Op: "list", Object: dataset, Class: err}
	}
	return answers[0], errs[0]
}

// VersionsBelow does so for root and all below it, in one process.
func (h *Host) VersionsBelow(ctx context.Context, root string) (map[string][]Version, error) {
	if err := h.allow("list", root); err != nil {
		return nil, err
	}
	return h.listVersions(ctx, nil, root)
}

// listTogether lists several filesystems with one process; when that fails, because
// one of them is gone, each with its own.
func (h *Host) listTogether(ctx context.Context, datasets []string) ([][]Version, []error) {
	lists, errs := make([][]Version, len(datasets)), make([]error, len(datasets))
	all, err := h.listVersions(ctx, []string{"-d", "1"}, datasets...)
	for i, ds := range datasets {
		switch {
		case err == nil:
			lists[i] = all[ds]
		case len(datasets) == 1:
			errs[i] = err
		default:
			one, err := h.listVersions(ctx, []string{"-d", "1"}, ds)
			lists[i], errs[i] = one[ds], err
		}
	}
	return lists, errs
}

// listVersions gives the versions of roots and what is below them, as far as depth
// says, by filesystem and createtxg.
func (h *Host) listVersions(ctx context.Context, depth []string, roots ...string) (map[string][]Version, error) {
	list, err := h.readVersions(ctx, depth, roots)
	if err != nil {
		return nil, err
	}
	sort.SliceStable(list, func(i, j int) bool {
		if list[i].CreateTXG != list[j].CreateTXG {
			return list[i].CreateTXG < list[j].CreateTXG
		}
		return list[i].Kind < list[j].Kind
	})
	all := map[string][]Version{}
	for _, v := range list {
		all[v.Dataset] = append(all[v.Dataset], v)
	}
	return all, nil
}

func (h *Host) readVersions(ctx context.Context, depth, roots []string) (list []Version, err error) {
	if h.build.listExact {
		args := append([]string{"list", "-Hp", "-r"}, depth...)
		args = append(args, "-t", "snapshot,bookmark", "-o", "name,guid,createtxg,creation,userrefs")
		out, err := h.run(ctx, "list", roots[0], append(args, roots...)...)
		if err != nil {
			return nil, err
		}
		if list, err = parseVersions(string(out)); err != nil {
			return nil, unreadable("list", roots[0], err)
		}
		return list, nil
	}
	args := append([]string{"get", "-Hp", "-r"}, depth...)
	args = append(args, "-o", "name,property,value,source", "guid,createtxg,creation,userrefs")
	out, err := h.run(ctx, "get", roots[0], append(args, roots...)...)
	if err != nil {
		return nil, err
	}
	records, err := parseRecords(string(out))
	if err == nil {
		list, err = versionsOf(records)
	}
	if err != nil {
		return nil, unreadable("get", roots[0], err)
	}
	return list, nil
}
