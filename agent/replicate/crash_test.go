package replicate

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

var errDied = errors.New("the process died")

// dieAt lets the host's storage refuse everything from its n-th operation on, as
// if the process had died there: before the operation, or after its effect.
func (h *testHost) dieAt(n int, after bool) *atomic.Bool {
	dead := new(atomic.Bool)
	first := h.mortal().Calls() + n
	before := func(call int, _, _ string) error {
		if call >= first && (!after || dead.Load()) {
			dead.Store(true)
		}
		if dead.Load() {
			return errDied
		}
		return nil
	}
	var then func(int, string, string) error
	if after {
		then = func(call int, _, _ string) error {
			if call >= first {
				dead.Store(true)
				return errDied
			}
			return nil
		}
	}
	h.mortal().SetHooks(before, then)
	return dead
}

// mortal is the host's storage, which has to be one that can fail anywhere.
func (h *testHost) mortal() mortal { return h.fs.(mortal) }

// reborn ends the dead process and starts another one on the same storage.
func (h *testHost) reborn() {
	h.kill()
	h.mortal().SetHooks(nil, nil)
	h.start()
}

// reads waits until a dataset has a text. On zfs-fuse a receive mounts it anew: for a
// moment there is nothing to be read.
func (c *cluster) reads(h *testHost, dataset, want string) {
	c.t.Helper()
	c.until(fmt.Sprintf("%s has %q", dataset, want), func() bool {
		got, err := h.fs.Read(dataset)
		return err == nil && got == want
	})
}

// recover waits until the host died or done holds, then restarts it.
func (c *cluster) recover(h *testHost, dead func() bool, done func() bool) {
	c.t.Helper()
	c.until("scenario done or process dead", func() bool { return dead() || done() })
	h.reborn()
}

// TestCrashesOfAPlannedMove kills the process of the old owner at every storage
// operation of its demotion and of its new life as a secondary; with real files at
// every third of them.
func TestCrashesOfAPlannedMove(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: every crash point takes a run of its own")
	}
	t.Run("memory", func(t *testing.T) { crashesOfAPlannedMove(t, inMemory, 1, 1) })
	t.Run("dirzfs", func(t *testing.T) { crashesOfAPlannedMove(t, onHookedDirectory, 2, 3) })
	t.Run("zfs", func(t *testing.T) {
		realzfs.Require(t)
		crashesOfAPlannedMove(t, onHookedPools(t), 1, realStride())
	})
}

// realStride is how many crash points lie between two that are tried on real pools,
// where each costs seconds, and many on an emulated kernel. TARN_SLOW=1 tries them all.
func realStride() int {
	switch {
	case os.Getenv("TARN_SLOW") != "":
		return 1
	case realzfs.Kernel():
		return 17
	}
	return 5
}

func crashesOfAPlannedMove(t *testing.T, on maker, first, stride int) {
	for _, after := range []bool{false, true} {
		for n := first; ; n += stride {
			c, a, b := pairOn(t, on)
			a.write("data\n")
			c.until("in sync", inSync(a, b))
			dead := a.dieAt(n, after)
			f := a.assignment(tarnv1.Role_ROLE_FENCED, 1)
			f.OpId, f.Peers = "op", a.peers()
			a.assign(f)
			acked := func() bool { return a.report().GetDemoteAck().GetOpId() == "op" }
			c.recover(a, dead.Load, acked)
			base := c.demote(a, b, 1)
			c.activate(b, a, 2, base)
			b.write("more\n")
			c.until("old owner follows", inSync(b, a))
			c.reads(a, a.dataset(), "data\nmore\n")
			if len(a.report().GetDivergentCopies()) != 0 {
				t.Fatalf("crash at %d: %v", n, a.report().GetDivergentCopies())
			}
			a.clean()
			a.kill()
			b.kill()
			if !dead.Load() {
				t.Logf("after=%v: crash points %d, %d ... below %d", after, first, first+stride, n)
				break
			}
		}
	}
}

// TestCrashesOfARejoin kills the process of a former owner at every storage
// operation of putting its own history aside and following the new one.
func TestCrashesOfARejoin(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: every crash point takes a run of its own")
	}
	t.Run("memory", func(t *testing.T) { crashesOfARejoin(t, inMemory, 1, 1) })
	t.Run("zfs", func(t *testing.T) {
		realzfs.Require(t)
		crashesOfARejoin(t, onHookedPools(t), 2, realStride())
	})
}

func crashesOfARejoin(t *testing.T, on maker, first, stride int) {
	for _, after := range []bool{false, true} {
		for n := first; ; n += stride {
			c, a, b := forked(t, on)
			dead := a.dieAt(n, after)
			a.start()
			c.recover(a, dead.Load, inSync(b, a))
			c.until("follows the new lineage", inSync(b, a))
			c.reads(a, a.dataset(), "kept\nnew\n")
			c.until("copy recorded", func() bool { return len(a.report().GetDivergentCopies()) == 1 })
			c.reads(a, a.report().GetDivergentCopies()[0].GetDataset(), "kept\nlost\ndirty\n")
			a.clean()
			a.kill()
			b.kill()
			if !dead.Load() {
				t.Logf("after=%v: crash points %d, %d ... below %d", after, first, first+stride, n)
				break
			}
		}
	}
}

// forked is a share whose old owner, not running, has data that the new one lacks.
func forked(t *testing.T, on maker) (c *cluster, a, b *testHost) {
	c, a, b = pairOn(t, on)
	a.write("kept\n")
	c.until("in sync", inSync(a, b))
	b.kill()
	kept := b.head()
	a.write("lost\n")
	c.until("lost data in a snapshot", func() bool { return a.report().GetHeadGuid() != kept })
	a.write("dirty\n")
	a.kill()
	b.start()
	a.lease.set(0)
	b.lease.set(2)
	as := b.active(2)
	as.Lineage = []*tarnv1.LineageEntry{{Epoch: 2, OwnerReplicaId: b.replica, BaseGuid: kept}}
	b.assign(as)
	c.until("new active is writable", func() bool { return b.report().GetWritable() })
	b.write("new\n")
	a.want = a.secondary(2, b)
	return c, a, b
}

// TestCrashesOfAFirstReplica kills the receiving process at every storage
// operation of a full receive with a cut stream.
func TestCrashesOfAFirstReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: every crash point takes a run of its own")
	}
	t.Run("memory", func(t *testing.T) { crashesOfAFirstReplica(t, inMemory, 1, 1, 90) })
	t.Run("zfs", func(t *testing.T) {
		realzfs.Require(t)
		crashesOfAFirstReplica(t, onHookedPools(t), 3, realStride(), 5000)
	})
}

func crashesOfAFirstReplica(t *testing.T, on maker, first, stride int, cut int64) {
	for _, after := range []bool{false, true} {
		for n := first; ; n += stride {
			c := newClusterOn(t, on, 2)
			a, b := c.hosts[0], c.hosts[1]
			a.lease.set(1)
			a.assign(a.active(1))
			a.start()
			c.until("active is writable", func() bool { return a.report().GetWritable() })
			a.write("some data\n")
			c.until("in a snapshot", func() bool {
				return len(a.snapshots(a.dataset())) > 1 || a.report().GetHeadGuid() != 0 && a.report().GetDirtyBytes() == 0
			})
			a.cut.plan(cut)
			b.assign(b.secondary(1, a))
			dead := b.dieAt(n, after)
			b.start()
			c.recover(b, dead.Load, inSync(a, b))
			c.until("replica complete", inSync(a, b))
			b.clean()
			if _, err := b.fs.Dataset(t.Context(), b.root()+"/"+stagingDir+"/"+b.replica); !errors.Is(err, zfs.ErrNotExist) {
				t.Fatalf("crash at %d: staging: %v", n, err)
			}
			a.kill()
			b.kill()
			if !dead.Load() {
				t.Logf("after=%v: crash points %d, %d ... below %d", after, first, first+stride, n)
				break
			}
		}
	}
}
