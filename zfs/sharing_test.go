package zfs_test

import (
	"maps"
	"slices"
	"testing"

	"tarn/zfs/zfstest/realzfs"
)

// TestSharedIsFound asks a real ZFS, nothing of which is mounted.
func TestSharedIsFound(t *testing.T) {
	p := realzfs.NewPool(t, 128)
	h := open(t, p)
	root := p.Name + "/base"
	if err := h.Create(t.Context(), root, map[string]string{"sharenfs": "off"}, false); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{root + "/well", root + "/open"} {
		if err := h.Create(t.Context(), name, nil, false); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := h.Shared(t.Context(), root); err != nil || len(got) > 0 {
		t.Errorf("nothing is shared: %v, %v", got, err)
	}
	if err := h.Set(t.Context(), root+"/open", map[string]string{"sharenfs": "ro=@192.0.2.0/24"}); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{root + "/open": {"sharenfs"}}
	got, err := h.Shared(t.Context(), root)
	if err != nil || !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("shared are %v, %v; want %v", got, err, want)
	}
	if _, err := h.Shared(t.Context(), root+"/none"); err == nil {
		t.Error("what does not exist shares nothing")
	}
}
