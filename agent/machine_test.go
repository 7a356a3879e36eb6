package agent

import (
	"regexp"
	"runtime"
	"testing"
)

// Two lives of an agent are of one machine, and the control plane is told of which.
func TestMachineIsTold(t *testing.T) {
	want := ""
	if runtime.GOOS == "linux" {
		want = thisMachine()
		if !regexp.MustCompile("^[0-9a-f]{32}$").MatchString(want) {
			t.Fatalf("this machine is %q", want)
		}
	}
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	for _, session := range []string{"first", "second"} {
		h.start()
		p.until(t, func() bool { return p.hosts[h.id].GetSessionId() == h.session }, func() string { return session + " session is not registered" })
		p.mu.Lock()
		if got := p.hosts[h.id].GetMachine(); got != want {
			t.Errorf("%s: machine %q, want %q", session, got, want)
		}
		p.mu.Unlock()
		h.stop()
	}
}
