package replicate

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs/zfstest/realzfs"
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

// promise writes what a client is told to be on disk.
func (h *testHost) promise(text string) {
	h.c.t.Helper()
	ds, err := h.fs.Dataset(h.c.t.Context(), h.dataset())
	check(h.c.t, err)
	f, err := os.OpenFile(filepath.Join(ds.Mountpoint, testFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(h.c.t, err)
	_, err = f.WriteString(text)
	check(h.c.t, err)
	check(h.c.t, f.Sync())
	check(h.c.t, f.Close())
}

// crashed is an owner whose host has lost power and is back. "synced" was promised to be on
// disk, and is in the intent log of its pool only; unsent is on the disk, and in no
// snapshot. (On old versions a snapshot ends the log, and what makes it anew waits for the
// disk itself: there only what comes after unsent is in the log alone.)
func crashed(t *testing.T, on maker, unsent string) (c *cluster, a, b *testHost) {
	t.Helper()
	c, a, b = pairOn(t, on)
	a.promise("one\n") // the dataset's first makes its log, and so is on the disk itself
	c.until("in sync", inSync(a, b))
	a.kill()
	a.promise(unsent)
	pool := pooled(a.fs).pool
	check(t, pooled(a.fs).Sync(t.Context(), pool.Name))
	a.promise("synced\n")
	image, err := realzfs.Freeze(pool)
	check(t, err)
	check(t, realzfs.Crash(pool, image))
	a.lease.set(0)
	return c, a, b
}

// TestDemotionAfterARealCrash: the log's content reaches the target.
func TestDemotionAfterARealCrash(t *testing.T) { onReal(t, demotionAfterCrash) }

func demotionAfterCrash(t *testing.T, on maker) {
	c, a, b := crashed(t, on, "")
	f := a.assignment(tarnv1.Role_ROLE_FENCED, 1)
	f.OpId, f.Peers = "op", a.peers()
	a.assign(f)
	a.start()
	c.demote(a, b, 1)
	if got, err := b.fs.Read(b.dataset()); err != nil || got != "one\nsynced\n" {
		t.Errorf("the target has %q, %v", got, err)
	}
}

// TestOwnerAfterARealCrash: nobody took over, and the owner goes on with all that it had.
func TestOwnerAfterARealCrash(t *testing.T) { onReal(t, ownerAfterCrash) }

func ownerAfterCrash(t *testing.T, on maker) {
	c, a, b := crashed(t, on, "unsent\n")
	a.start() // its lease comes when it has talked to the leader
	c.until("told without a lease", func() bool { return a.report() != nil && !a.report().GetWritable() })
	a.lease.set(1)
	a.worker.Look()
	c.until("in sync again", inSync(a, b))
	if got, err := b.fs.Read(b.dataset()); err != nil || got != "one\nunsent\nsynced\n" {
		t.Errorf("the copy has %q, %v", got, err)
	}
}

// TestRejoinAfterARealCrash: another has taken over by force. What the log has is part of
// what the former owner had alone, and is kept with it.
func TestRejoinAfterARealCrash(t *testing.T) {
	for name, unsent := range map[string]string{"promised": "", "unsent": "unsent\n"} {
		t.Run(name, func(t *testing.T) {
			onReal(t, func(t *testing.T, on maker) { rejoinAfterCrash(t, on, unsent) })
		})
	}
}

func rejoinAfterCrash(t *testing.T, on maker, unsent string) {
	c, a, b := crashed(t, on, unsent)
	b.lease.set(2)
	b.assign(b.active(2))
	follows := a.secondary(2, b)
	follows.ReplicationType = tarnv1.ReplicationType_REPLICATION_TYPE_DR // nothing else mounts it
	a.assign(follows)
	a.start()
	c.until("the former owner follows", func() bool { return inSync(b, a)() && b.report().GetWritable() })
	c.until("a copy is told", func() bool { return len(a.report().GetDivergentCopies()) == 1 })
	aside := a.report().GetDivergentCopies()[0].GetDataset()
	check(t, a.fs.Mount(t.Context(), aside))
	if got, err := a.fs.Read(aside); err != nil || got != "one\n"+unsent+"synced\n" {
		t.Errorf("kept aside: %q, %v", got, err)
	}
	check(t, a.fs.Unmount(t.Context(), aside, false))
	if got, err := b.fs.Read(b.dataset()); err != nil || got != "one\n" {
		t.Errorf("the new owner has %q, %v", got, err)
	}
}
