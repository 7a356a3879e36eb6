package fsmtest

import (
	"crypto/sha256"
	"testing"

	"tarn/raftfsm"
)

// Guard fails the test at its end if any record reachable from the view was changed
// meanwhile. It hashes the whole view twice, so keep the state small.
func Guard(t testing.TB, v *raftfsm.View) {
	t.Helper()
	before := Sum(t, v)
	t.Cleanup(func() {
		if Sum(t, v) != before {
			t.Errorf("a record of the view at index %d was changed; records are shared, change a clone", v.Index())
		}
	})
}

// Sum hashes everything in the view.
func Sum(t testing.TB, v *raftfsm.View) [sha256.Size]byte {
	t.Helper()
	h := sha256.New()
	if _, err := v.WriteTo(h); err != nil {
		t.Fatalf("hash view: %v", err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
