package dirzfs

import "tarn/zfs"

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

// ForgetBoot makes an open pool seem to have been used last before the machine's last
// start, and Signatures counts what it trusts of a dataset's files.
func (h *Host) ForgetBoot(pool string) error {
	return h.pools[pool].update(func(m meta) error { return m.tx.Bucket(bucketPool).Put(bootKey, []byte("another")) })
}

func (h *Host) Signatures(pool string, of zfs.GUID) (n int, err error) {
	err = h.pools[pool].view(func(m meta) error {
		if b := subBucket(m.tx, bucketIndex, of); b != nil {
			n = b.Stats().KeyN
		}
		return nil
	})
	return n, err
}
