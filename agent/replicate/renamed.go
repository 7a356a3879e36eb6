package replicate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"tarn/zfs"
)

// renamedAway is why a replica without its dataset neither starts anew nor goes on: the
// dataset has another name.
type renamedAway struct{ now, name string }

// Error implements error.
func (r renamedAway) Error() string {
	return fmt.Sprintf("the replica's dataset was renamed to %s: rename it back with `zfs rename %s %s`, "+
		"or, to go on without it, take tarn's mark off with `zfs inherit %s %s`", r.now, r.now, r.name, markReplica, r.now)
}

// whereabouts is the name in the same pool of a dataset that is not under its own, by its
// marks; "" if there is none. A pool is looked through when the dataset was there before:
// once, and again for as long as it is found.
func (w *Worker) whereabouts(ctx context.Context, l layout) (string, error) {
	if !w.seek {
		return "", nil
	}
	list, err := w.cfg.Engine.Datasets(ctx, l.pool)
	if err != nil && !errors.Is(err, zfs.ErrNotExist) {
		return "", fmt.Errorf("look for a renamed dataset: %w", err)
	}
	w.seek = false
	for _, d := range list {
		if strayed(d, l) {
			w.seek = true
			return d.Name, nil
		}
	}
	return "", nil
}

// strayed tells a replica's own dataset under another name from what else carries its
// marks: what is on its way, and what was put aside.
func strayed(d zfs.Dataset, l layout) bool {
	m := marksOf(d)
	dir := path.Dir(d.Name)
	return d.Name != l.dataset() && m.replica == l.replica && m.share == l.share && m.role != roleDivergent && m.role != "" &&
		!strings.HasPrefix(dir+"/", l.divergents()+"/") && !strings.HasPrefix(dir+"/", path.Dir(l.staging())+"/")
}
