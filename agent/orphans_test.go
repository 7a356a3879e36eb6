package agent

import (
	"context"
	"log/slog"
	"testing"

	"tarn/agent/replicate"
	"tarn/agent/stream/memzfs"
)

// removals notes which mountpoints were taken away from clients.
type removals struct {
	replicate.Exporter
	paths []string
}

func (r *removals) Remove(_ context.Context, mountpoint string) error {
	r.paths = append(r.paths, mountpoint)
	return nil
}

// A dataset that is assigned while orphans are being hidden has a worker, which may have
// exported it: it would not notice that this was taken back.
func TestSweepLeavesWhatIsAssignedMeanwhile(t *testing.T) {
	fs := memzfs.New(1, "tank")
	for _, id := range []string{"early", "late"} {
		err := fs.Create(t.Context(), "tank/tarn/"+id, map[string]string{markReplica: id}, true)
		if err != nil {
			t.Fatal(err)
		}
	}
	exports := &removals{}
	o := &orphans{
		storage: fs, exports: exports, roots: map[string]string{"tank": "tank/tarn"}, revision: func() uint64 { return 1 }, log: slog.New(slog.DiscardHandler),
		assigned: func() map[string]bool { return nil },
		taken:    func(dataset string) bool { return len(exports.paths) > 0 && dataset == "tank/tarn/late" },
	}
	if err := o.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(exports.paths) != 1 || exports.paths[0] != "/tank/tarn/early" {
		t.Errorf("taken away: %v", exports.paths)
	}
}
