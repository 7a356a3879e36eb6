package replicate

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// pair is a share with an active replica on host 0 and a secondary on host 1.
func pair(t *testing.T) (*cluster, *testHost, *testHost) { return pairOn(t, inMemory) }

func pairOn(t *testing.T, on maker) (*cluster, *testHost, *testHost) {
	c := newClusterOn(t, on, 2)
	a, b := c.hosts[0], c.hosts[1]
	a.lease.set(1)
	a.assign(a.active(1))
	b.assign(b.secondary(1, a))
	a.start()
	b.start()
	c.until("active is writable", func() bool { return a.report().GetWritable() })
	return c, a, b
}

func inSync(a, b *testHost) func() bool {
	return func() bool { return b.report().GetReady() && b.report().GetLag() != nil && a.equal(b) }
}

func (h *testHost) write(text string) {
	h.c.t.Helper()
	h.c.must(h.fs.Write(h.dataset(), text, false))
}

func TestReplicaFollows(t *testing.T) { everywhere(t, replicaFollows) }

func replicaFollows(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	c.until("empty share in sync", inSync(a, b))
	for i := range 5 {
		a.write(fmt.Sprintf("line %d\n", i))
		c.until("write replicated", inSync(a, b))
	}
	if ro, ok := b.exported(); !ro || !ok {
		t.Errorf("readable secondary exported %v, read-only %v", ok, ro)
	}
	if err := b.fs.Write(b.dataset(), "x", false); err == nil {
		t.Error("a client wrote to the secondary")
	}
	c.until("lag grows between two answers", func() bool { return b.report().GetLag().AsDuration() > time.Second })
	c.until("lag of an idle share falls again", func() bool { return b.report().GetLag().AsDuration() < time.Second })
	a.clean()
	b.clean()
}

func TestIdleShareTakesNoSnapshots(t *testing.T) {
	c, a, b := pair(t)
	c.until("in sync", inSync(a, b))
	heads := len(a.snapshots(a.dataset()))
	seen := func() bool {
		tr, ok := a.worker.cfg.Cadence.Tracking(a.replica)
		return ok && tr.Listed.After(tr.Head.Creation.Add(4*a.want.GetCadence().AsDuration()))
	}
	c.until("several rounds went by", seen)
	if n := len(a.snapshots(a.dataset())); n != heads {
		t.Errorf("idle share has %d snapshots, had %d", n, heads)
	}
}

// TestResumesAtAnyByte cuts many streams, full and incremental ones.
func TestResumesAtAnyByte(t *testing.T) { everywhere(t, resumesAtAnyByte) }

func resumesAtAnyByte(t *testing.T, on maker) {
	c := newClusterOn(t, on, 2)
	a, b := c.hosts[0], c.hosts[1]
	a.lease.set(1)
	a.assign(a.active(1))
	a.start()
	c.until("active is writable", func() bool { return a.report().GetWritable() })
	rng := rand.New(rand.NewPCG(1, 2))
	a.write(strings.Repeat("0123456789abcdef", 1<<14))
	c.until("written data are in a snapshot", func() bool {
		tr, _ := a.worker.cfg.Cadence.Tracking(a.replica)
		return tr.Head.GUID != 0 && tr.Dirty == 0 && !tr.AsOf.IsZero()
	})
	cuts := make([]int64, 6)
	for round := range 4 {
		for i := range cuts {
			cuts[i] = rng.Int64N(100 << 10)
		}
		a.cut.plan(cuts...)
		if round == 0 {
			b.assign(b.secondary(1, a))
			b.start()
		} else {
			a.write(strings.Repeat("more", 1<<15))
		}
		c.until("replica complete in spite of cuts", inSync(a, b))
		if a.cut.left() == len(cuts) {
			t.Error("no stream was cut")
		}
	}
	a.clean()
	b.clean()
}

func TestUserSnapshotsTravelAndGo(t *testing.T) { everywhere(t, userSnapshotsTravelAndGo) }

func userSnapshotsTravelAndGo(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	c.until("in sync", inSync(a, b))
	var wanted []*tarnv1.WantedSnapshot
	for i := range 3 {
		a.write(fmt.Sprintf("before %d\n", i))
		id := fmt.Sprintf("snap-%d", i)
		wanted = append(wanted, &tarnv1.WantedSnapshot{SnapshotId: id})
		as := a.active(1)
		as.Snapshots = wanted
		a.assign(as)
		c.until("snapshot taken", func() bool {
			for _, s := range a.report().GetSnapshots() {
				if s.GetSnapshotId() == id && s.GetPresent() && s.GetGuid() != 0 {
					wanted[i] = &tarnv1.WantedSnapshot{SnapshotId: id, Guid: s.GetGuid()}
					return true
				}
			}
			return false
		})
	}
	bs := b.secondary(1, a)
	bs.Snapshots = wanted
	b.assign(bs)
	c.until("all present on the secondary", func() bool {
		n := 0
		for _, s := range b.report().GetSnapshots() {
			if s.GetPresent() {
				n++
			}
		}
		return n == len(wanted)
	})
	for _, h := range []*testHost{a, b} {
		as := proto.CloneOf(h.want)
		as.Snapshots, as.RemovedSnapshots = wanted[1:], wanted[:1]
		h.assign(as)
		c.until("snapshot removed", func() bool {
			for _, s := range h.report().GetSnapshots() {
				if s.GetSnapshotId() == "snap-0" {
					return s.GetRemoved()
				}
			}
			return false
		})
	}
	a.write("afterwards")
	c.until("still in sync", inSync(a, b))
}

// demote walks a planned promotion by hand-made assignments and returns the final GUID.
func (c *cluster) demote(from, to *testHost, epoch uint64) zfs.GUID {
	c.t.Helper()
	f := from.assignment(tarnv1.Role_ROLE_FENCED, epoch)
	f.OpId, f.Peers = "op", from.peers()
	from.assign(f)
	c.until("demotion acknowledged", func() bool { return from.report().GetDemoteAck().GetOpId() == "op" })
	ack := from.report().GetDemoteAck()
	if d, err := from.fs.Dataset(c.t.Context(), from.dataset()); err != nil || d.Mounted || !d.ReadOnly || d.Written != 0 {
		c.t.Errorf("demoted dataset: %+v, %v", d, err)
	}
	if _, exported := from.exported(); exported {
		c.t.Error("demoted dataset is exported")
	}
	s := to.secondary(epoch, from)
	s.FinalGuid = ack.GetHeadGuid()
	to.assign(s)
	c.until("target has the final snapshot", func() bool { return to.report().GetHeadGuid() == ack.GetHeadGuid() })
	return zfs.GUID(ack.GetHeadGuid())
}

func (c *cluster) activate(to, from *testHost, epoch uint64, base zfs.GUID) {
	c.t.Helper()
	from.lease.set(0)
	to.lease.set(epoch)
	as := to.active(epoch)
	as.Lineage = []*tarnv1.LineageEntry{
		{Epoch: epoch - 1, OwnerReplicaId: from.replica},
		{Epoch: epoch, OwnerReplicaId: to.replica, BaseGuid: uint64(base)},
	}
	to.assign(as)
	follow := from.secondary(epoch, to)
	follow.Lineage = as.GetLineage()
	from.assign(follow)
	c.until("new active is writable", func() bool { return to.report().GetWritable() && to.report().GetObservedEpoch() == epoch })
}

func TestPlannedPromotionBothWays(t *testing.T) { everywhere(t, plannedPromotionBothWays) }

func plannedPromotionBothWays(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	a.write("first\n")
	c.until("in sync", inSync(a, b))
	want := "first\n"
	for epoch := uint64(1); epoch < 5; epoch++ {
		text := fmt.Sprintf("epoch %d\n", epoch)
		a.write(text)
		want += text
		base := c.demote(a, b, epoch)
		c.activate(b, a, epoch+1, base)
		c.reads(b, b.dataset(), want)
		c.until("old active follows", inSync(b, a))
		if len(a.report().GetDivergentCopies()) != 0 {
			t.Error("a planned promotion left a divergent copy")
		}
		a, b = b, a
	}
	// Each had received and ended epochs in turn; nothing new comes that would end a hold.
	c.until("one snapshot is held as the last of each", func() bool {
		return a.tags()[holdLast+a.replica] <= 1 && b.tags()[holdLast+b.replica] <= 1
	})
	a.clean()
	b.clean()
}

func TestLeaseLossSuspends(t *testing.T) {
	c, a, _ := pair(t)
	a.lease.set(0)
	c.until("suspended", func() bool { return !a.report().GetWritable() && a.report().GetMountpoint() == "" })
	if err := a.fs.Write(a.dataset(), "x", false); err == nil {
		t.Error("a client wrote without a lease")
	}
	if _, exported := a.exported(); exported {
		t.Error("exported without a lease")
	}
	a.lease.set(1)
	c.until("serves again", func() bool { return a.report().GetWritable() })
	a.fence(a.dataset())
	c.until("a fence behind its back is noticed and mended", func() bool {
		d, err := a.fs.Dataset(t.Context(), a.dataset())
		return err == nil && d.Mounted && a.report().GetWritable()
	})
}

func TestBusyUnmountHoldsUpDemotion(t *testing.T) {
	c, a, b := pair(t)
	c.until("in sync", inSync(a, b))
	a.mem.SetBusy(a.dataset(), true)
	f := a.assignment(tarnv1.Role_ROLE_FENCED, 1)
	f.OpId, f.Peers = "op", a.peers()
	a.assign(f)
	c.until("busy is reported", func() bool {
		return a.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_BUSY
	})
	if a.report().GetDemoteAck() != nil {
		t.Fatal("acknowledged while still mounted")
	}
	a.mem.SetBusy(a.dataset(), false)
	c.until("acknowledged once unmounted", func() bool { return a.report().GetDemoteAck() != nil })
}

// TestForcedFailoverKeepsDivergentData lets the old owner come back with data that
// the new lineage lacks.
func TestForcedFailoverKeepsDivergentData(t *testing.T) {
	everywhere(t, forcedFailoverKeepsDivergentData)
}

func forcedFailoverKeepsDivergentData(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	a.write("kept\n")
	c.until("in sync", inSync(a, b))
	b.kill()
	kept := b.head()
	a.write("lost\n")
	c.until("lost data in a snapshot", func() bool { return a.report().GetHeadGuid() != kept })
	a.write("dirty\n")
	a.kill()
	a.fence(a.dataset())

	seal := b.assignment(tarnv1.Role_ROLE_FENCED, 1)
	seal.OpId, seal.Seal = "op", true
	b.assign(seal)
	b.start()
	c.until("sealed", func() bool { return b.report().GetSealAck().GetOpId() == "op" })
	if g := b.report().GetSealAck().GetHeadGuid(); g != kept {
		t.Fatalf("sealed at %d, want %d", g, kept)
	}
	a.lease.set(0)
	c.activate(b, a, 2, zfs.GUID(kept))
	b.write("new\n")
	a.start()
	c.until("old owner follows the new lineage", inSync(b, a))
	c.reads(a, a.dataset(), "kept\nnew\n")
	c.until("divergent copy reported", func() bool { return len(a.report().GetDivergentCopies()) == 1 })
	copied := a.report().GetDivergentCopies()[0]
	c.reads(a, copied.GetDataset(), "kept\nlost\ndirty\n")
	if copied.GetEpoch() != 1 {
		t.Errorf("divergent copy is said to be of epoch %d, it was written under 1", copied.GetEpoch())
	}

	del := a.assignment(tarnv1.Role_ROLE_DELETING, 2)
	a.assign(del)
	c.until("gone", func() bool { return a.report().GetGone() })
	c.reads(a, copied.GetDataset(), "kept\nlost\ndirty\n")
	if _, err := a.fs.Read(a.dataset()); err == nil {
		t.Error("dataset is still there")
	}
}

// strangersOn is a share of which two hosts have data with nothing in common.
func strangersOn(t *testing.T, on maker) (c *cluster, a, b *testHost) {
	c = newClusterOn(t, on, 2)
	for _, h := range c.hosts {
		h.lease.set(1)
		h.assign(h.active(1))
		h.start()
		c.until("writable", func() bool { return h.report().GetWritable() })
		h.write("data of " + h.id)
		c.until("head", func() bool { return h.report().GetHeadGuid() != 0 })
	}
	return c, c.hosts[0], c.hosts[1]
}

func TestNothingInCommonIsPutAside(t *testing.T) { everywhere(t, nothingInCommonIsPutAside) }

func nothingInCommonIsPutAside(t *testing.T, on maker) {
	c, a, b := strangersOn(t, on)
	b.lease.set(0)
	a.lease.set(2)
	a.assign(a.active(2))
	b.assign(b.secondary(2, a))
	c.until("in sync from scratch", inSync(a, b))
	c.until("old data kept", func() bool { return len(b.report().GetDivergentCopies()) == 1 })
	c.reads(b, b.report().GetDivergentCopies()[0].GetDataset(), "data of "+b.id)
	b.clean()
}

func TestRefusals(t *testing.T) {
	c := newCluster(t, 1)
	a := c.hosts[0]
	a.lease.set(1)
	a.start()
	lost := a.active(1)
	lost.Established = true
	a.assign(lost)
	c.until("a missing dataset is no empty share", func() bool {
		return a.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_MISSING && !a.report().GetError().GetRetrying()
	})
	c.must(a.fs.Create(t.Context(), a.dataset(), map[string]string{"tarn:replica": "other"}, true))
	a.assign(a.active(1))
	c.until("a foreign dataset is refused", func() bool {
		return a.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_PERMISSION_DENIED
	})
	a.assign(a.assignment(tarnv1.Role_ROLE_DELETING, 1))
	c.until("gone without it", func() bool { return a.report().GetGone() })
	if _, err := a.fs.Dataset(t.Context(), a.dataset()); err != nil {
		t.Errorf("foreign dataset: %v", err)
	}
}

func TestLowerEpochIsRefused(t *testing.T) {
	c, a, b := pair(t)
	c.until("in sync", inSync(a, b))
	base := c.demote(a, b, 1)
	c.activate(b, a, 2, base)
	c.until("follows", inSync(b, a))
	a.lease.set(1)
	a.assign(a.active(1))
	c.until("refused", func() bool { return !a.report().GetReady() })
	if a.report().GetWritable() {
		t.Error("writable under an epoch that ended")
	}
}

func TestRemovalLeavesNothing(t *testing.T) { everywhere(t, removalLeavesNothing) }

func removalLeavesNothing(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	a.write("x")
	c.until("in sync", inSync(a, b))
	for _, h := range []*testHost{b, a} {
		h.assign(h.assignment(tarnv1.Role_ROLE_DELETING, 1))
		c.until("gone", func() bool { return h.report().GetGone() })
		list, err := h.fs.Datasets(t.Context(), h.root())
		c.must(err)
		for _, d := range list {
			if strings.Contains(d.Name, h.replica) {
				t.Errorf("%s is left", d.Name)
			}
		}
	}
}
