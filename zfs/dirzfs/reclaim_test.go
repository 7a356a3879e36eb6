package dirzfs_test

import (
	"fmt"
	"os"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// TestReclaimableIsWhatADestroyFrees: told beforehand, of any set of snapshots, and
// nothing has changed by the telling.
func TestReclaimableIsWhatADestroyFrees(t *testing.T) {
	h := open(t, dirzfs.Pool{Name: "p", Dir: t.TempDir(), Capacity: 1 << 30})
	mp := mounted(t, h, "p/x")
	free := func() int64 {
		pools, err := h.Pools(t.Context())
		ok(t, err)
		return pools[0].Free
	}
	for i := range 6 {
		// Each has a file of its own, and one that the next one has, too.
		ok(t, os.WriteFile(fmt.Sprintf("%s/%d", mp, i), pattern(uint64(i), 1<<20), 0o600))
		ok(t, os.WriteFile(mp+"/shared", pattern(uint64(100+i/2), 1<<20), 0o600))
		ok(t, h.Snapshot(t.Context(), fmt.Sprintf("p/x@%d", i)))
		ok(t, os.Remove(fmt.Sprintf("%s/%d", mp, i)))
	}
	ok(t, h.Snapshot(t.Context(), "p/x@last"))
	for _, set := range [][]string{{"0"}, {"1", "3"}, {"2"}, {"4", "5"}, {}} {
		before := free()
		told, err := h.Reclaimable(t.Context(), "p/x", set...)
		ok(t, err)
		if free() != before {
			t.Fatalf("asking about %v changed the pool", set)
		}
		ok(t, h.DestroySnapshots(t.Context(), "p/x", set...))
		if freed := free() - before; freed != told {
			t.Errorf("%v: told %d bytes, %d became free", set, told, freed)
		}
	}
	_, err := h.Reclaimable(t.Context(), "p/x", "none")
	class(t, err, zfs.ErrNotExist)
}
