package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"tarn/zfs"
)

// hurtPools answers for two pools, one of which may be away.
type hurtPools struct {
	damage map[string][]zfs.Damage
	away   map[string]bool
}

func (h *hurtPools) Damage(_ context.Context, pool string) ([]zfs.Damage, error) {
	if h.away[pool] {
		return nil, zfs.ErrPoolUnavailable
	}
	return h.damage[pool], nil
}

func TestDamagesAreRemembered(t *testing.T) {
	h := &hurtPools{away: map[string]bool{}, damage: map[string][]zfs.Damage{
		"a": {{Dataset: "a/tarn/r", Place: "/f"}, {Dataset: "a/tarn/r", Snapshot: "s", Place: "/g"}},
		"b": {{Dataset: "b/tarn/r", Place: "<0x0>"}},
	}}
	d := &damages{storage: h, pools: []string{"a", "b"}, log: slog.New(slog.DiscardHandler)}
	if err := d.of("a/tarn/r"); err != nil {
		t.Errorf("before the first look: %v", err)
	}
	d.look(t.Context())
	first := d.of("a/tarn/r")
	if first == nil || !strings.Contains(first.Error(), "2 places") || !strings.Contains(first.Error(), "zpool status -v a") {
		t.Errorf("found %v", first)
	}
	h.away["b"] = true
	d.look(t.Context())
	if got := d.of("a/tarn/r"); !errors.Is(got, first) {
		t.Errorf("the same trouble became %v", got)
	}
	if d.of("b/tarn/r") == nil {
		t.Error("a pool that is away is thought well")
	}
	h.away["b"], h.damage["b"] = false, nil
	d.look(t.Context())
	if err := d.of("b/tarn/r"); err != nil {
		t.Errorf("healed, and still %v", err)
	}
}
