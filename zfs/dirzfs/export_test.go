package dirzfs

// OpenStepped opens with a function that is called at each named step.
func OpenStepped(cfg Config, step func(point string)) (*Host, error) {
	cfg.step = step
	return Open(cfg)
}

// Closed tells whether Close was called.
func (h *Host) Closed() bool {
	for _, p := range h.pools {
		return p.closed.Load()
	}
	return false
}
