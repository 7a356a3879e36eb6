package dirzfs_test

import (
	"fmt"
	"sync"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// TestHoldsOfManyCallers: holds that share a commit are each kept, and one that
// cannot be taken fails alone.
func TestHoldsOfManyCallers(t *testing.T) {
	h := open(t, dirzfs.Pool{Name: "p", Dir: t.TempDir()})
	mounted(t, h, "p/x")
	ok(t, h.Snapshot(t.Context(), "p/x@1"))
	const callers = 40
	errs := make([]error, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			names := []string{"p/x@1"}
			if i%4 == 0 {
				names = append(names, "p/x@missing")
			}
			errs[i] = h.Hold(t.Context(), fmt.Sprintf("tag-%02d", i), names...)
		})
	}
	all.Wait()
	for i, err := range errs {
		if i%4 == 0 {
			class(t, err, zfs.ErrNotExist)
		} else {
			ok(t, err)
		}
	}
	holds, err := h.Holds(t.Context(), "p/x@1")
	ok(t, err)
	if len(holds) != callers-callers/4 {
		t.Errorf("%d holds: %v", len(holds), holds)
	}
}
