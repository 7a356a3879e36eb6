package replicate

import (
	"context"
	"errors"
	"fmt"
	"path"

	"tarn/zfs"
)

// noRoom adds to the failure of a receive which quota may be behind it: ZFS says that there
// is no space where a dataset above the target has none left, and the pool may have plenty.
func (w *Worker) noRoom(ctx context.Context, target string, err error) error {
	if !errors.Is(err, zfs.ErrNoSpace) && !errors.Is(err, zfs.ErrQuota) {
		return err
	}
	for above := path.Dir(target); above != "."; above = path.Dir(above) {
		d, lookErr := w.cfg.Engine.Dataset(ctx, above)
		if lookErr == nil && d.Quota != 0 {
			return fmt.Errorf("%w; %s has a quota of %d bytes, not by tarn, and uses %d: raise it, or lift it with `zfs set quota=none %s`",
				err, above, d.Quota, d.Used, above)
		}
	}
	return err
}
