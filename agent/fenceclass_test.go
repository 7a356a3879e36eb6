package agent

import (
	"os"
	"strings"
	"testing"

	"tarn/agent/lease"
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

// TestFenceClassFallsWithWhatBacksTheHelper: a packet filter that is not there leaves
// the helper, and the host says why.
func TestFenceClassFallsWithWhatBacksTheHelper(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	h.cfg.DeadmanCommand = []string{"/usr/bin/env", roleEnv + "=deadman", programOf(t)}
	h.cfg.Fence = FenceConfig{Class: classKernel, Nft: "/nonexistent/nft"}
	h.start()
	var last *tarnv1.ReportRequest
	p.until(t, func() bool {
		if len(p.reports) == 0 {
			return false
		}
		last = p.reports[len(p.reports)-1]
		return last.GetFenceClass() == tarnv1.FenceClass_FENCE_CLASS_HELPER && strings.Contains(last.GetFenceTrouble(), "packet filter") &&
			p.hosts[h.id].GetFenceClass() == tarnv1.FenceClass_FENCE_CLASS_KERNEL
	}, func() string { return last.String() })
}

// TestFenceClassNoneClaimsNothing: the helper is there all the same.
func TestFenceClassNoneClaimsNothing(t *testing.T) {
	cfg := FenceConfig{Class: classNone}.defaults()
	a := &Agent{cfg: Config{Fence: cfg}, deadman: &lease.Deadman{}}
	if class, trouble := a.fencedBy(); class != tarnv1.FenceClass_FENCE_CLASS_NONE || trouble != "" || a.fenceClass() != class {
		t.Errorf("class %v, trouble %q", class, trouble)
	}
}

// programOf is this test binary.
func programOf(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}
