package zfs

import (
	"context"
	"errors"
	"sort"
)

// Versions lists snapshots and bookmarks of one filesystem by createtxg. Callers that
// ask at the same time share a process. Names that ValidateSnapshot refuses are left out.
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

// Named gives the snapshots of these full names in their order, the zero Version for one
// that is not there. It costs the same however many snapshots a filesystem has, and
// callers that ask at the same time share a process.
func (h *Host) Named(ctx context.Context, names ...string) ([]Version, error) {
	for _, full := range names {
		if _, _, err := h.allowSnapshot("get", full); err != nil {
			return nil, err
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	var found []Version
	for _, part := range chunks(names, commandLimit) {
		list, errs, err := h.named.do(ctx, part...)
		if err != nil {
			return nil, &Error{Op: "get", Object: names[0], Class: err}
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		found = append(found, list...)
	}
	return found, nil
}

// readNamed looks names up with one process. Where one of them is missing, which fails
// all, it looks in each half.
func (h *Host) readNamed(ctx context.Context, names []string) ([]Version, []error) {
	found, errs := make([]Version, len(names)), make([]error, len(names))
	list, err := h.readVersions(ctx, nil, names)
	switch {
	case err == nil:
		at := make(map[string]Version, len(list))
		for _, v := range list {
			at[v.FullName()] = v
		}
		for i, full := range names {
			found[i] = at[full]
		}
	case !errors.Is(err, ErrNotExist):
		for i := range errs {
			errs[i] = err
		}
	case len(names) > 1:
		half := len(names) / 2
		a, aErrs := h.readNamed(ctx, names[:half])
		b, bErrs := h.readNamed(ctx, names[half:])
		return append(a, b...), append(aErrs, bErrs...)
	}
	return found, errs
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
	list, err := h.readVersions(ctx, append([]string{"-r"}, depth...), roots)
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

// readVersions gives the versions that the arguments name; depth is -r and what goes
// with it, or nothing for snapshots by name.
func (h *Host) readVersions(ctx context.Context, depth, roots []string) (list []Version, err error) {
	if h.build.listExact {
		args := append([]string{"list", "-Hp"}, depth...)
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
	args := append([]string{"get", "-Hp"}, depth...)
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
