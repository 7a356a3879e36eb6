package replicate

import (
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// exported makes everything look as it does while the pool is not imported.
func (h *testHost) exportPool() {
	h.mem.SetHooks(func(_ int, op, object string) error {
		return &zfs.Error{Op: op, Object: object, Class: zfs.ErrNotExist, Text: "dataset does not exist"}
	}, nil)
}

// TestExportedPoolIsNoMissingDataset: what cannot be seen is neither gone, nor made
// anew, nor pulled again from its beginning.
func TestExportedPoolIsNoMissingDataset(t *testing.T) {
	c, a, b := pair(t)
	c.until("in sync", inSync(a, b))
	guid := b.head()
	b.exportPool()
	b.kill()
	b.start()
	unavailable := func() bool {
		return b.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_POOL_UNAVAILABLE
	}
	c.until("the missing pool is told", unavailable)
	b.assign(b.assignment(tarnv1.Role_ROLE_DELETING, 1))
	c.until("told in the next role, too", func() bool { return b.report().GetObservedRole() == tarnv1.Role_ROLE_DELETING && unavailable() })
	if b.report().GetGone() {
		t.Error("a dataset of an exported pool was reported as removed")
	}
	b.assign(b.secondary(1, a))
	b.mem.SetHooks(nil, nil)
	c.until("in sync when the pool is back", inSync(a, b))
	if _, held := b.held(guid); !held {
		t.Error("everything was sent again")
	}
}

// held finds a snapshot of the dataset by GUID.
func (h *testHost) held(guid uint64) (zfs.Version, bool) {
	f := facts{versions: h.snapshots(h.dataset())}
	return f.holding(zfs.GUID(guid))
}
