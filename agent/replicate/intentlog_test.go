package replicate

import (
	"sync/atomic"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestDemotionAfterACrash: what an owner promised to be on disk before its host crashed is
// in the intent log until the dataset is mounted. A demotion that is waiting for the host
// when it comes back brings it along.
func TestDemotionAfterACrash(t *testing.T) {
	c, a, b := pair(t)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	a.kill()
	c.must(a.fs.Unmount(t.Context(), a.dataset(), false)) // as a boot leaves it
	var mounts atomic.Int32
	a.mem.SetHooks(nil, func(_ int, op, object string) error {
		if op != "mount" || object != a.dataset() {
			return nil
		}
		ds, _, _ := a.fs.Peek(object)
		if _, exported := a.exports.state(ds.Mountpoint); exported || !ds.ReadOnly {
			t.Errorf("mounted while exported %v, read-only %v", exported, ds.ReadOnly)
		}
		if mounts.Add(1) > 1 {
			return nil
		}
		return a.fs.Write(object, "synced\n", true)
	})
	a.lease.set(0)
	f := a.assignment(tarnv1.Role_ROLE_FENCED, 1)
	f.OpId, f.Peers = "op", a.peers()
	a.assign(f)
	a.start()
	base := c.demote(a, b, 1)
	if got, err := b.fs.Read(b.dataset()); err != nil || got != "one\nsynced\n" {
		t.Errorf("the target has %q, %v", got, err)
	}
	a.kill() // a second life has nothing to read any more
	a.start()
	c.until("acknowledged again", func() bool { return a.report().GetDemoteAck().GetHeadGuid() == uint64(base) })
	if n := mounts.Load(); n != 1 {
		t.Errorf("mounted %d times", n)
	}
}
