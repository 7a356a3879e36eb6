package replicate

import (
	"errors"
	"testing"

	"tarn/zfs"
)

// TestPropertiesSurviveARebase: what an administrator has set on a copy itself is set on
// what takes its place, too: on a clone, and on what is sent again in full. What tarn
// manages, and what he did not set, is not.
func TestPropertiesSurviveARebase(t *testing.T)      { plainly(t, propertiesSurviveARebase) }
func TestPropertiesSurviveARebaseOnZFS(t *testing.T) { onReal(t, propertiesSurviveARebase) }

func propertiesSurviveARebase(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	c.must(b.fs.Set(t.Context(), b.dataset(), b.administered()))
	c.must(b.fs.Snapshot(t.Context(), b.dataset()+"@by-hand"))
	b.worker.Look()
	a.write("two\n")
	c.until("put aside", func() bool { return len(b.report().GetDivergentCopies()) == 1 && inSync(a, b)() })
	b.keptWhatWasSet("a clone")
}

// TestPropertiesSurviveAFullStream: the same where nothing is in common.
func TestPropertiesSurviveAFullStream(t *testing.T) { plainly(t, propertiesSurviveAFullStream) }

func propertiesSurviveAFullStream(t *testing.T, on maker) {
	c, a, b := strangersOn(t, on)
	c.must(b.fs.Set(t.Context(), b.dataset(), b.administered()))
	b.lease.set(0)
	a.lease.set(2)
	a.assign(a.active(2))
	b.assign(b.secondary(2, a))
	c.until("in sync from scratch", inSync(a, b))
	b.keptWhatWasSet("what was sent again")
}

// administered is what an administrator sets, of what the engine has.
func (h *testHost) administered() map[string]string {
	props := map[string]string{zfs.PropATime: on}
	if pooled(h.fs) != nil {
		props["compression"], props["recordsize"] = "gzip-2", "32768"
	}
	return props
}

func (h *testHost) keptWhatWasSet(what string) {
	h.c.t.Helper()
	for name, want := range h.administered() {
		props, err := h.fs.Get(h.c.t.Context(), h.dataset(), name)
		h.c.must(err)
		if p := props[name]; p.Value != want || p.Source != zfs.SourceLocal {
			h.c.t.Errorf("%s has %s %v", what, name, p)
		}
	}
}

// TestRefusedPropertiesStopNobody: what a version or a helper refuses is left out.
func TestRefusedPropertiesStopNobody(t *testing.T) {
	_, a, _ := pair(t)
	a.c.must(a.fs.Set(t.Context(), a.dataset(), map[string]string{zfs.PropATime: on}))
	own := map[string]string{zfs.PropReadOnly: on}
	for _, class := range []error{zfs.ErrInvalid, zfs.ErrUnsupported, zfs.ErrPermission} {
		tries := 0
		err := a.worker.carrying(t.Context(), a.dataset(), own, func(props map[string]string) error {
			if tries++; props[zfs.PropATime] != "" {
				return &zfs.Error{Op: "clone", Class: class}
			}
			return nil
		})
		if err != nil || tries != 2 {
			t.Errorf("%v: %d tries, %v", class, tries, err)
		}
	}
	busy := a.worker.carrying(t.Context(), a.dataset(), own, func(map[string]string) error { return zfs.ErrBusy })
	if !errors.Is(busy, zfs.ErrBusy) || len(own) != 1 {
		t.Errorf("%v; asked for %v", busy, own)
	}
}
