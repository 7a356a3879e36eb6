package dirzfs

import "context"

// Shared is none: this engine exports nothing itself.
func (h *Host) Shared(context.Context, string) (map[string][]string, error) { return nil, nil }
