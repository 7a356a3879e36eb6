package identity

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/google/uuid"
)

func openRevocations(t *testing.T, path string) *Revocations {
	t.Helper()
	r, err := OpenRevocations(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRevocationsStay: over a restart, and whatever is said later.
func TestRevocationsStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revoked")
	r := openRevocations(t, path)
	a, b, other := uuid.NewString(), uuid.NewString(), uuid.NewString()
	if r.Known() || r.Digest() != nil || r.Check(a) != nil {
		t.Error("before anything was heard somebody is refused")
	}
	if fresh, err := r.Take(nil, []byte("none")); err != nil || fresh != nil || !r.Known() || !openRevocations(t, path).Known() {
		t.Errorf("nobody is revoked: %v, %v, known %v", fresh, err, r.Known())
	}
	if fresh, err := r.Take([]string{a, "no certificate has this", b}, []byte("two")); err != nil || !slices.Equal(fresh, []string{a, b}) {
		t.Errorf("new are %v, %v", fresh, err)
	}
	if fresh, err := r.Take([]string{b}, []byte("older")); err != nil || fresh != nil || string(r.Digest()) != "older" {
		t.Errorf("an older list: %v, %v, %q", fresh, err, r.Digest())
	}
	for name, r := range map[string]*Revocations{"now": r, "after a restart": openRevocations(t, path)} {
		if !errors.Is(r.Check(a), ErrRevoked) || !errors.Is(r.Check(b), ErrIdentity) || r.Check(other) != nil || !r.Known() {
			t.Errorf("%s: %v, %v, %v", name, r.Check(a), r.Check(b), r.Check(other))
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info.Mode(), err)
	}
}

// TestRevocationsHoldUnwritten: a full or broken disk does not let anybody in, and the
// list is asked for until it is on the disk.
func TestRevocationsHoldUnwritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	path := filepath.Join(dir, "revoked")
	r, id := openRevocations(t, path), uuid.NewString()
	if fresh, err := r.Take([]string{id}, []byte("one")); err == nil || len(fresh) != 1 || r.Check(id) == nil || r.Digest() != nil {
		t.Errorf("without a directory: %v, %v, %v, %q", fresh, err, r.Check(id), r.Digest())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if fresh, err := r.Take([]string{id}, []byte("one")); err != nil || fresh != nil || openRevocations(t, path).Check(id) == nil {
		t.Errorf("again: %v, %v", fresh, err)
	}
}

// TestDamagedRevocationsAreNotEmpty: no cut of the file is taken for a shorter list.
func TestDamagedRevocationsAreNotEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revoked")
	whole := revocationsText(map[string]struct{}{uuid.NewString(): {}, uuid.NewString(): {}})
	for cut := range whole {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenRevocations(path); err == nil {
			t.Fatalf("the first %d of %d bytes are a list", cut, len(whole))
		}
	}
}

func FuzzRevocations(f *testing.F) {
	f.Add(revocationsText(nil))
	f.Add(revocationsText(map[string]struct{}{"7f2c8a4e-0f0c-4f5e-9d3a-000000000001": {}}))
	f.Add([]byte("tarn revocations 1\nend 0"))
	f.Fuzz(func(t *testing.T, text []byte) {
		ids, err := parseRevocations(text)
		if err != nil {
			return
		}
		if again, err := parseRevocations(revocationsText(ids)); err != nil || !reflect.DeepEqual(again, ids) {
			t.Errorf("%q: %v, %v", text, again, err)
		}
	})
}
