package dirzfs

// OpenStepped opens with a function that is called at each named step, and commits
// receives every 1 MiB.
func OpenStepped(cfg Config, step func(point string)) (*Host, error) {
	cfg.step = step
	cfg.window = 1 << 20
	return Open(cfg)
}

// Closed tells whether Close was called.
func (h *Host) Closed() bool {
	for _, p := range h.pools {
		return p.closed.Load()
	}
	return false
}
