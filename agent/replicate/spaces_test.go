package replicate

import (
	"testing"

	"tarn/zfs/zfstest/realzfs"
)

// ZFS allows spaces in the names of snapshots, which tarn never makes itself. What
// somebody else's such snapshot holds is data like any other.

func TestSnapshotsWithSpacesOnZFS(t *testing.T) {
	onReal(t, func(t *testing.T, on maker) {
		c, a, b := pairOn(t, on)
		a.write("one\n")
		c.until("in sync", inSync(a, b))
		// Nor does somebody else's dataset below stop the others.
		c.must(realzfs.Zfs("create", "-o", "canmount=off", a.root()+"/my own"))
		// Nothing was written since the newest snapshot, and still the copy lacks something.
		a.kill()
		a.write("two\n")
		c.must(realzfs.Zfs("snapshot", a.dataset()+"@before the upgrade"))
		a.start()
		c.until("what is in it has been sent", inSync(a, b))
		if n := len(b.report().GetDivergentCopies()); n != 0 {
			t.Errorf("%d divergent copies", n)
		}
		// One on the copy is outside of the history.
		c.must(realzfs.Zfs("snapshot", b.dataset()+"@look at this"))
		a.write("three\n")
		c.until("in sync again", inSync(a, b))
		a.clean()
		b.clean()
		// zfs-fuse calls it busy while the agents' lists pass over it.
		c.must(realzfs.DestroyAll(a.root() + "/my own"))
	})
}
