package agent

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Each loop is missed when its round takes longer than it may, and what rests is not.
func TestPulsesNameTheLoopThatStands(t *testing.T) {
	now := time.Now()
	p := newPulses(Config{}.Defaults())
	p.now = func() time.Time { return now }
	required := []string{loopWatch, loopRenewals, loopFollow, loopStreams}
	for i, loop := range required {
		if err := p.check(); !errors.Is(err, errNotAlive) || strings.Count(err.Error(), "not begun") != len(required)-i {
			t.Errorf("before %s has begun: %v", loop, err)
		}
		p.turn(loop)
	}
	for _, loop := range []string{loopWatch, loopRenewals, loopFollow, loopReports} {
		p.turn(loop)
		for _, other := range []string{loopWatch, loopRenewals, loopFollow, loopReports} {
			p.rest(other)
		}
		p.turn(loop)
		now = now.Add(p.limits[loop])
		if err := p.check(); err != nil {
			t.Errorf("%s within its time: %v", loop, err)
		}
		now = now.Add(time.Second)
		if err := p.check(); err == nil || !strings.Contains(err.Error(), loop+": a round takes") {
			t.Errorf("%s stands: %v", loop, err)
		}
		p.rest(loop)
		if err := p.check(); err != nil {
			t.Errorf("%s rests: %v", loop, err)
		}
	}
}

// An agent that no control plane answers is alive: starting it again would not help.
func TestAliveWithoutAControlPlane(t *testing.T) {
	h := newHost(t, newPlane(), newCA(t), "a")
	h.cfg.ControlPlane, h.cfg.Join = nil, []string{"127.0.0.1:1"}
	h.start()
	eventually(t, "alive", func() bool { return h.Alive(t.Context()) == nil })
	h.stop()
}
