package replicate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"tarn/zfs"
)

// carriedProps are what an administrator may have set on a copy itself, and what tarn has
// no opinion on: how data are written there, and what is seen of them. Not what limits,
// reserves, exports or mounts. In groups, as some engines and versions lack some of them.
func carriedProps() [][]string {
	return [][]string{{zfs.PropATime}, {"compression", "recordsize", "exec", "snapdir"}, {"xattr"}, {"acltype"}}
}

// carried are the properties that a dataset put aside has of its own, for what takes its
// place. Those that this agent may not read are left out, and told.
func (w *Worker) carried(ctx context.Context, from string) (map[string]string, error) {
	own := map[string]string{}
	for _, group := range carriedProps() {
		found, err := getKnown(ctx, w.cfg.Engine, from, group...)
		if errors.Is(err, zfs.ErrPermission) {
			w.log.Warn("properties of data put aside are not carried over: set them by hand", "dataset", from, "properties", group, "err", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		for name, p := range found {
			if p.Source == zfs.SourceLocal {
				own[name] = p.Value
			}
		}
	}
	return own, nil
}

// carrying runs what takes props, with those that from has of its own, too. If they are
// refused, it does without them, and tells.
func (w *Worker) carrying(ctx context.Context, from string, props map[string]string, run func(props map[string]string) error) error {
	all, err := w.carried(ctx, from)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return run(props)
	}
	names := slices.Sorted(maps.Keys(all))
	maps.Copy(all, props)
	err = run(all)
	for _, class := range []error{zfs.ErrInvalid, zfs.ErrUnsupported, zfs.ErrPermission} {
		if errors.Is(err, class) {
			w.log.Warn("properties of data put aside are not carried over: set them by hand", "dataset", from, "properties", strings.Join(names, ","), "err", err)
			return run(props)
		}
	}
	return err
}
