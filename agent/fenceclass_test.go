package agent

import (
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestFenceClassFallsWithTheHelper: a leader that hears HELPER from a host whose
// helper is gone would take the host's silence for a proof.
func TestFenceClassFallsWithTheHelper(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	h.cfg.DeadmanCommand = []string{"/bin/false"}
	h.start()
	var said, registered tarnv1.FenceClass
	p.until(t, func() bool {
		if len(p.reports) == 0 {
			return false
		}
		said, registered = p.reports[len(p.reports)-1].GetFenceClass(), p.hosts[h.id].GetFenceClass()
		return true
	}, func() string { return "no report" })
	if said != tarnv1.FenceClass_FENCE_CLASS_NONE {
		t.Errorf("without a helper the host reports %v", said)
	}
	if registered != tarnv1.FenceClass_FENCE_CLASS_HELPER {
		t.Errorf("the host is registered with %v", registered)
	}
}
