package agent

import (
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// aside makes a divergent copy of a replica that may never have been here.
func (h *host) aside(share, replica string) zfs.Dataset {
	h.t.Helper()
	ctx, name := h.t.Context(), "tank/tarn/.divergent/"+replica+"-1"
	err := h.storage.Create(ctx, name, map[string]string{
		zfs.PropCanMount: "noauto", "tarn:share": share, "tarn:replica": replica, "tarn:role": "divergent", "tarn:epoch": "1",
	}, true)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.storage.Snapshot(ctx, name+"@s"); err != nil {
		h.t.Fatal(err)
	}
	if err := h.storage.Hold(ctx, "tarn:divergent", name+"@s"); err != nil {
		h.t.Fatal(err)
	}
	d, err := h.storage.Dataset(ctx, name)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

// TestCopiesOfReplicasThatAreGone: they are told with reports, can be looked at, and
// go when that is ordered; copies of replicas here are told with the replica.
func TestCopiesOfReplicasThatAreGone(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	p.await(t, replica, "writable", writable)
	lost := h.aside("share-gone", "replica-gone")
	h.aside(share, replica)
	told := func(want int) func() bool {
		return func() bool {
			last := p.reports[len(p.reports)-1]
			return last.GetOrphansKnown() && len(last.GetOrphanedCopies()) == want
		}
	}
	h.assign(active(share, replica, 1)) // which makes the agent look
	p.until(t, told(1), func() string { return "the copy without a replica is not told" })
	p.mu.Lock()
	c := p.reports[len(p.reports)-1].GetOrphanedCopies()[0]
	p.mu.Unlock()
	if c.GetGuid() != uint64(lost.GUID) || c.GetReplicaId() != "replica-gone" || c.GetShareId() != "share-gone" || c.GetEpoch() != 1 {
		t.Errorf("told %v", c)
	}
	a := p.ask(t, &tarnv1.Inquiry{Id: "copy", Question: &tarnv1.Inquiry_Divergent{Divergent: &tarnv1.DivergentQuestion{Guid: c.GetGuid()}}})
	if d := a.GetDivergent(); d.GetTotal() != 1 || d.GetSnapshots()[0].GetName() != "s" || len(d.GetReading()) == 0 {
		t.Errorf("described as %v", a)
	}
	if a := p.ask(t, &tarnv1.Inquiry{Id: "none", Question: &tarnv1.Inquiry_Divergent{Divergent: &tarnv1.DivergentQuestion{Guid: 1}}}); a.GetError() == "" {
		t.Errorf("unknown copy is described as %v", a)
	}
	h.purgeWith(c)
	p.until(t, told(0), func() string { return "the purged copy is still told" })
	if _, err := h.storage.Dataset(t.Context(), lost.Name); err == nil {
		t.Error("the purged copy is still there")
	}
	if _, err := h.storage.Dataset(t.Context(), "tank/tarn/.divergent/"+replica+"-1"); err != nil {
		t.Errorf("the other copy: %v", err)
	}
}

// purgeWith orders a copy to be purged: first with marks that are not the copy's.
func (h *host) purgeWith(c *tarnv1.DivergentCopy) {
	h.t.Helper()
	p := h.plane
	report := func() *tarnv1.PurgeReport {
		for _, r := range p.reports[len(p.reports)-1].GetPurges() {
			return r
		}
		return nil
	}
	order := func(replica, dataset string) {
		p.update(func() {
			p.purges = []*tarnv1.PurgeOrder{{Guid: c.GetGuid(), Dataset: dataset, ShareId: c.GetShareId(), ReplicaId: replica}}
			p.revision++
		})
	}
	order("another", c.GetDataset())
	p.until(h.t, func() bool { return report().GetError() != "" && !report().GetGone() }, func() string { return "the wrong order is not refused" })
	order(c.GetReplicaId(), "elsewhere/tarn/.divergent/x")
	p.until(h.t, func() bool { return report().GetError() != "" && !report().GetGone() }, func() string { return "a pool that is not here is said to be purged" })
	order(c.GetReplicaId(), c.GetDataset())
	p.until(h.t, func() bool { return report().GetGone() }, func() string { return "not purged" })
	p.update(func() { p.purges = nil; p.revision++ })
	p.until(h.t, func() bool { return report() == nil }, func() string { return "an order that was taken back is still reported" })
}
