package replicate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// apart is a host whose only replica has followed a new owner for a while, and which
// keeps what it had alone as one divergent copy.
func apart(t *testing.T) (c *cluster, a *testHost, aside *tarnv1.DivergentCopy) {
	t.Helper()
	c, a, b := forked(t, inMemory)
	a.start()
	c.until("follows the new lineage", inSync(b, a))
	c.until("copy recorded", func() bool { return len(a.report().GetDivergentCopies()) == 1 })
	return c, a, a.report().GetDivergentCopies()[0]
}

func orderFor(d *tarnv1.DivergentCopy) *tarnv1.PurgeOrder {
	return &tarnv1.PurgeOrder{Guid: d.GetGuid(), Dataset: d.GetDataset(), ShareId: d.GetShareId(), ReplicaId: d.GetReplicaId()}
}

func (h *testHost) copies() Copies { return NewCopies(h.fs, testRoot) }

func TestCopyIsDescribed(t *testing.T) {
	c, a, aside := apart(t)
	if aside.GetGuid() == 0 || aside.GetShareId() != c.share || aside.GetReplicaId() != a.replica || aside.GetBaseGuid() == 0 || aside.GetCreatedAt() == nil {
		t.Errorf("copy %v", aside)
	}
	d, err := a.copies().Detail(t.Context(), zfs.GUID(aside.GetGuid()))
	check(t, err)
	base, ok := (&facts{versions: a.snapshots(a.dataset())}).holding(zfs.GUID(aside.GetBaseGuid()))
	if !ok || d.GetOrigin() != base.FullName() {
		t.Errorf("parted from %v, keeps %q", base, d.GetOrigin())
	}
	last := d.GetSnapshots()[len(d.GetSnapshots())-1]
	if int(d.GetTotal()) != len(d.GetSnapshots()) || last.GetGuid() == 0 || !strings.HasPrefix(last.GetName(), divergentPrefix) || last.GetHolds()[0] != holdDivergent {
		t.Errorf("detail %v", d)
	}
	// Every snapshot of the copy can be read, without touching the copy.
	for i, s := range d.GetSnapshots() {
		look := testPool + "/look"
		check(t, a.fs.Clone(t.Context(), aside.GetDataset()+"@"+s.GetName(), look, nil))
		text, err := a.fs.Read(look)
		check(t, err)
		if i == len(d.GetSnapshots())-1 && text != "kept\nlost\ndirty\n" || !strings.HasPrefix("kept\nlost\ndirty\n", text) {
			t.Errorf("snapshot %s holds %q", s.GetName(), text)
		}
		check(t, a.fs.Destroy(t.Context(), look))
	}
	if _, err := a.copies().Detail(t.Context(), 4711); !errors.Is(err, zfs.ErrNotExist) {
		t.Errorf("unknown GUID: %v", err)
	}
	ds, _, _ := a.fs.Peek(a.dataset())
	if _, err := a.copies().Detail(t.Context(), ds.GUID); !errors.Is(err, errNotACopy) {
		t.Errorf("the replica itself: %v", err)
	}
}

// TestPurgeLeavesNothingAndUnpins: the copy goes alone, and what it stood on can be
// removed by retention again, which gave up on it before without trying each minute.
func TestPurgeLeavesNothingAndUnpins(t *testing.T) { everywhere(t, purgeUnpins) }

func purgeUnpins(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	c.until("in sync", inSync(a, b))
	// B is written to behind tarn's back, so that it parts at the present head.
	check(t, b.fs.Write(b.dataset(), "stray", true))
	b.want.ResyncGeneration++
	b.assign(b.want)
	c.until("copy recorded", func() bool { return len(b.report().GetDivergentCopies()) == 1 })
	aside := b.report().GetDivergentCopies()[0]
	for i := range 12 {
		a.write(strings.Repeat("x", i+1))
		c.until("follows", inSync(a, b))
	}
	w := beside(b, b.want)
	v := w.decided(t)
	if len(v.destroy) > 0 && v.destroy[0].GUID == zfs.GUID(aside.GetBaseGuid()) {
		t.Error("retention would try to destroy the origin of a clone")
	}
	if j := v.judged[0]; j.of.GUID != zfs.GUID(aside.GetBaseGuid()) || j.reasons[len(j.reasons)-1] != (reason{whyClone, aside.GetDataset()}) {
		t.Errorf("the origin stays because of %v", j)
	}
	check(t, b.copies().Purge(t.Context(), orderFor(aside)))
	if _, _, there := b.fs.Peek(aside.GetDataset()); there {
		t.Error("the copy is still there")
	}
	b.worker.Look()
	c.until("no copy is told", func() bool { return len(b.report().GetDivergentCopies()) == 0 })
	w = beside(b, b.want)
	if v := w.decided(t); len(v.destroy) == 0 || v.destroy[0].GUID != zfs.GUID(aside.GetBaseGuid()) {
		t.Errorf("retention leaves the origin: %+v", v.judged[0])
	}
	check(t, b.copies().Purge(t.Context(), orderFor(aside))) // again: nothing to do
	a.write("more")
	c.until("still follows", inSync(a, b))
	b.clean()
}

// beside is a worker beside the running one, to see what retention decides.
func beside(h *testHost, a *tarnv1.Assignment) *Worker {
	w := &Worker{cfg: h.worker.cfg, l: h.worker.l, born: time.Now()}
	w.s.a = a
	return w
}

func (w *Worker) decided(t *testing.T) verdict {
	t.Helper()
	versions, err := w.cfg.Engine.Versions(t.Context(), w.l.dataset())
	check(t, err)
	clones, err := clonesBelow(t.Context(), w.cfg.Engine, w.l.root())
	check(t, err)
	k := w.newKeeping(w.s.a, versions, clonesOf(clones, w.l.dataset()), policy{})
	return k.prune()
}

func TestPurgeObeysItsOrderOnly(t *testing.T) {
	_, a, aside := apart(t)
	ds, _, _ := a.fs.Peek(a.dataset())
	snaps := len(a.snapshots(aside.GetDataset()))
	refuses := func(what string, o *tarnv1.PurgeOrder, class error) {
		t.Helper()
		if err := a.copies().Purge(t.Context(), o); !errors.Is(err, class) {
			t.Errorf("%s: %v, want %v", what, err, class)
		}
		if _, list, there := a.fs.Peek(aside.GetDataset()); !there || len(list) != snaps {
			t.Fatalf("%s: something was destroyed", what)
		}
	}
	o := orderFor(aside)
	o.Guid = uint64(ds.GUID)
	refuses("the replica's own dataset", o, errNotACopy)
	o = orderFor(aside)
	o.ReplicaId = "another"
	refuses("another replica's", o, errNotACopy)
	o = orderFor(aside)
	o.ShareId = "another"
	refuses("another share's", o, errNotACopy)

	last := a.snapshots(aside.GetDataset())[snaps-1].FullName()
	check(t, a.fs.Hold(t.Context(), "lawyers", last))
	refuses("held by somebody else", orderFor(aside), zfs.ErrHeld)
	check(t, a.fs.Release(t.Context(), "lawyers", last))
	check(t, a.fs.Clone(t.Context(), last, testRoot+"/look", nil))
	refuses("cloned by somebody", orderFor(aside), zfs.ErrHasClones)
	check(t, a.fs.Destroy(t.Context(), testRoot+"/look"))
	check(t, a.fs.Set(t.Context(), aside.GetDataset(), map[string]string{markRole: roleReplica}))
	refuses("not marked as a copy", orderFor(aside), errNotACopy)
	check(t, a.fs.Set(t.Context(), aside.GetDataset(), map[string]string{markRole: roleDivergent}))

	// By whatever name, the GUID counts; the name in the order does not.
	elsewhere := testRoot + "/" + divergentDir + "/renamed"
	check(t, a.fs.Rename(t.Context(), aside.GetDataset(), elsewhere))
	o = orderFor(aside)
	check(t, a.copies().Purge(t.Context(), o))
	if _, _, there := a.fs.Peek(elsewhere); there {
		t.Error("renamed copy is still there")
	}
	if err := NewCopies(a.fs, "elsewhere/tarn").Purge(t.Context(), o); !errors.Is(err, errRootGone) {
		t.Errorf("on a pool that is not there: %v", err)
	}
}

// TestPurgeGivesUpToOthers: what a share or another copy was made from stays with those.
func TestPurgeGivesUpToOthers(t *testing.T) {
	_, a, aside := apart(t)
	ctx := context.Background()
	from := aside.GetDataset() + "@" + userPrefix + "1"
	check(t, a.fs.Snapshot(ctx, from))
	other := layout{pool: testPool, base: testBase, share: "other", replica: "other"}
	check(t, a.fs.Clone(ctx, from, other.dataset(), resting(marks{share: "other", replica: "other", role: rolePrimary, epoch: 1})))
	check(t, a.copies().Purge(ctx, orderFor(aside)))
	if _, _, there := a.fs.Peek(aside.GetDataset()); there {
		t.Error("the copy is still there")
	}
	if text, err := a.fs.Read(other.dataset()); err != nil || text != "kept\nlost\ndirty\n" {
		t.Errorf("the share made from the copy holds %q, %v", text, err)
	}
	if _, users := (&facts{versions: a.snapshots(other.dataset())}).named(userPrefix + "1"); users {
		t.Error("the share made from the copy has a snapshot of another share's user")
	}
}

// TestCrashesOfAPurge kills the process at every storage operation of a purge; the
// next one ends in the same place.
func TestCrashesOfAPurge(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: every crash point takes a run of its own")
	}
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			c, a, aside := apart(t)
			a.kill()
			dead := a.dieAt(n, after)
			err := a.copies().Purge(t.Context(), orderFor(aside))
			if (err != nil) != dead.Load() {
				t.Fatalf("crash at %d: %v", n, err)
			}
			a.reborn()
			check(t, a.copies().Purge(t.Context(), orderFor(aside)))
			if _, _, there := a.fs.Peek(aside.GetDataset()); there {
				t.Fatalf("crash at %d: the copy is still there", n)
			}
			for _, v := range a.snapshots(a.dataset()) {
				holds, err := a.fs.Holds(t.Context(), v.FullName())
				check(t, err)
				for _, h := range holds {
					if h.Tag == holdDivergent {
						t.Errorf("crash at %d: %s is held for a copy that is gone", n, v.FullName())
					}
				}
			}
			c.until("still follows", inSync(c.hosts[1], a))
			for _, h := range c.hosts {
				h.kill()
			}
			if !dead.Load() {
				t.Logf("after=%v: %d crash points", after, n-1)
				break
			}
		}
	}
}
