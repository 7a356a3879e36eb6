package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"testing"

	"tarn/zfs"
)

// openPools has pools some datasets of which ZFS exports.
type openPools struct {
	shared map[string]map[string][]string // by root
	away   string
	set    []string
}

func (o *openPools) Shared(_ context.Context, root string) (map[string][]string, error) {
	if root == o.away {
		return nil, zfs.ErrPoolUnavailable
	}
	return o.shared[root], nil
}

var errSet = errors.New("read-only pool")

func (o *openPools) Set(_ context.Context, name string, props map[string]string) error {
	for _, p := range slices.Sorted(maps.Keys(props)) {
		o.set = append(o.set, name+" "+p+"="+props[p])
	}
	if name == "b/tarn/stuck" {
		return errSet
	}
	return nil
}

// TestExportsOfZFSItselfAreSwitchedOff: those that somebody switches on later, too.
func TestExportsOfZFSItselfAreSwitchedOff(t *testing.T) {
	o := &openPools{away: "c/tarn", shared: map[string]map[string][]string{
		"a/tarn": {"a/tarn/r": {"sharenfs", "sharesmb"}}, "b/tarn": {"b/tarn/stuck": {"sharenfs"}},
	}}
	s := &sharing{storage: o, roots: []string{"c/tarn", "a/tarn", "b/tarn"}, log: slog.New(slog.DiscardHandler)}
	if err := s.look(t.Context()); !errors.Is(err, errSet) || errors.Is(err, zfs.ErrPoolUnavailable) {
		t.Error(err)
	}
	if want := []string{"a/tarn/r sharenfs=off", "a/tarn/r sharesmb=off", "b/tarn/stuck sharenfs=off"}; !slices.Equal(o.set, want) {
		t.Errorf("set %q, want %q", o.set, want)
	}
}
