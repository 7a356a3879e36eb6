package replicate

import (
	"errors"
	"slices"
	"testing"

	"tarn/agent/stream/memzfs"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestYieldedSnapshotsAreNoUsers: what a removed share leaves to shares that were made of
// its snapshots is no user's snapshot there, of whichever it was, and wherever the process
// died on the way.
func TestYieldedSnapshotsAreNoUsers(t *testing.T) {
	fs := memzfs.New(1, testPool)
	w := bare(fs, "me", tarnv1.Role_ROLE_DELETING)
	ds, died := w.l.dataset(), errors.New("died")
	check(t, fs.Create(t.Context(), ds, nil, true))
	for _, id := range []string{"1", "2"} {
		check(t, fs.Snapshot(t.Context(), ds+"@"+userPrefix+id))
		check(t, fs.Clone(t.Context(), ds+"@"+userPrefix+id, testRoot+"/clone"+id, nil))
	}
	fs.After = func(_ int, op, _ string) error {
		if op == "rename" || op == "promote" {
			return died
		}
		return nil
	}
	err := died
	for lives := 0; errors.Is(err, died); lives++ {
		if err = w.dropSnapshots(t.Context(), ds); lives > 10 {
			t.Fatal("it does not end")
		}
	}
	check(t, err)
	fs.After = nil
	check(t, fs.Destroy(t.Context(), ds))
	var left []string
	for _, clone := range []string{"/clone1", "/clone2"} {
		_, list, _ := fs.Peek(testRoot + clone)
		left = append(left, names(list)...)
	}
	slices.Sort(left)
	if !slices.Equal(left, []string{retiredPrefix + "1", retiredPrefix + "2"}) {
		t.Errorf("the clones have %v", left)
	}
}
