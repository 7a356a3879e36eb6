package agent

import (
	"context"
	"fmt"
	"time"

	"tarn/agent/replicate"
	"tarn/zfs"
)

// Reclaimable implements replicate.Reclaimer where the engine does.
func (m measured) Reclaimable(ctx context.Context, dataset string, names ...string) (int64, error) {
	r, ok := m.Storage.(replicate.Reclaimer)
	if !ok {
		return 0, fmt.Errorf("tell what a destroy frees: %w", zfs.ErrUnsupported)
	}
	begun := time.Now()
	n, err := r.Reclaimable(ctx, dataset, names...)
	m.done("reclaimable", begun, err)
	return n, err
}
