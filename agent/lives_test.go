package agent

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"tarn/controlplane/observe"
	tarnv1 "tarn/proto/tarn/v1"
)

// copied is what another life of an agent knows: all that the agent itself knew.
type copied struct {
	plane *plane
	asked *tarnv1.RenewLeaseRequest
	token []byte
}

// renew asks as the agent would, and keeps the token.
func (c *copied) renew(t *testing.T) *tarnv1.RenewLeaseResponse {
	t.Helper()
	c.asked.Echo = c.token
	c.asked.Nonce++
	res, err := c.plane.RenewLease(t.Context(), c.asked)
	if err != nil {
		t.Fatal(err)
	}
	c.token = res.GetToken()
	return res
}

// copyOf copies an agent that has just been answered, and has the copy renew first.
func (p *plane) copyOf(t *testing.T, host string) *copied {
	t.Helper()
	c := &copied{plane: p}
	p.until(t, func() bool { return p.asked != nil && p.asked.GetHostId() == host && len(p.issued) > 0 }, func() string { return "no renewal" })
	p.mu.Lock()
	c.asked, c.token = proto.CloneOf(p.asked), p.issued
	p.mu.Unlock()
	return c
}

// An agent's machine is copied as it runs, and the copy is the first that renews with what
// it was told since. The agent stops at once and says so, whenever it is started, until
// another boot.
func TestAgentStopsForItsOtherLife(t *testing.T) {
	p := newPlane()
	p.lives = observe.NewLives([]byte("secret"))
	h := newHost(t, p, newCA(t), "one")
	h.cfg.Machine = "boot one"
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	served := p.await(t, replica, "writable", (*tarnv1.ReplicaReport).GetWritable)
	if h.Ready() != nil {
		t.Fatal(h.Ready())
	}
	c := p.copyOf(t, h.id)
	// Who answers first goes on; the agent may have been quicker.
	for first := c.renew(t); first.GetAnotherLife() || c.renew(t).GetAnotherLife(); first = c.renew(t) {
		c = p.copyOf(t, h.id)
	}
	told := func() bool { return len(p.reports) > 0 && p.reports[len(p.reports)-1].GetAnotherLife() }
	p.until(t, told, func() string { return "the control plane does not hear of the other life" })
	eventually(t, "the share is out of reach", func() bool { return !exists(served.GetMountpoint()) })
	eventually(t, "other hosts are not answered", func() bool {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", h.cfg.Advertise)
		return err != nil || c.Close() != nil
	})
	if h.Alive(t.Context()) != nil || h.Ready() == nil || !strings.Contains(h.Ready().Error(), "reboot") {
		t.Errorf("alive %v, ready %v", h.Alive(t.Context()), h.Ready())
	}
	if res := c.renew(t); len(res.GetGranted()) != 1 {
		t.Errorf("the other life does not go on: %v", res)
	}

	h.stop()
	session := c.asked.GetSessionId()
	p.update(func() { p.reports = nil })
	h.start()
	p.until(t, told, func() string { return "an agent that starts again does not know of its other life" })
	p.mu.Lock()
	if p.hosts[h.id].GetSessionId() != session {
		t.Error("an agent that starts again takes the host over from its other life")
	}
	p.mu.Unlock()
	h.stop()

	h.cfg.Machine = "boot two"
	p.update(func() { p.latest = map[string]*tarnv1.ReplicaReport{} })
	h.start()
	p.await(t, replica, "writable after a reboot", (*tarnv1.ReplicaReport).GetWritable)
	if exists(filepath.Join(h.cfg.DataDir, lifeFile)) {
		t.Error("what an earlier life was told is still there")
	}
}

// sameSession gives an agent's calls another one's session.
type sameSession struct {
	*plane
	session string
}

func (s sameSession) Register(ctx context.Context, req *tarnv1.RegisterRequest) (*tarnv1.RegisterResponse, error) {
	req.Host.SessionId = s.session
	return s.plane.Register(ctx, req)
}

func (s sameSession) RenewLease(ctx context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error) {
	req.SessionId = s.session
	return s.plane.RenewLease(ctx, req)
}

// Two whole agents, each with its own disks, under one identity, on one boot, in one
// session: as a machine that was copied before its first renewal was answered. The one that
// was answered since goes on undisturbed.
func TestTwoAgentsOfOneSession(t *testing.T) {
	p := newPlane()
	p.lives = observe.NewLives([]byte("secret"))
	first := newHost(t, p, newCA(t), "one")
	first.cfg.Machine = "one boot"
	share, replica := ids(t)
	first.assign(active(share, replica, 1))
	first.start()
	served := p.await(t, replica, "writable", (*tarnv1.ReplicaReport).GetWritable).GetMountpoint()
	p.until(t, func() bool { return p.granted > 2 }, func() string { return "no renewals" })

	second := newHost(t, p, newCA(t), "one")
	second.cfg.Machine = first.cfg.Machine
	second.cfg.PKIDir = filepath.Join(first.cfg.DataDir, "pki")
	second.cfg.ControlPlane = sameSession{p, first.session}
	second.start()
	p.until(t, func() bool {
		return slices.ContainsFunc(p.reports, (*tarnv1.ReportRequest).GetAnotherLife)
	}, func() string { return "neither is told of the other" })
	eventually(t, "one of them is over", func() bool { return first.only.isOver() || second.only.isOver() })
	if first.only.isOver() || !second.only.isOver() {
		t.Fatal("the one that had been answered has stopped")
	}
	if second.keeper.Count() != 0 {
		t.Error("a right is left")
	}
	from := p.renewals()
	p.until(t, func() bool { return p.granted >= from+5 }, func() string { return "the other does not go on" })
	if first.keeper.Count() != 1 || !exists(served) {
		t.Errorf("%d rights, mounted %t", first.keeper.Count(), exists(served))
	}
}

func TestOnlyLife(t *testing.T) {
	dir := t.TempDir()
	open := func(machine string, over bool) *only {
		t.Helper()
		o, err := openOnly(dir, machine)
		if err != nil {
			t.Fatal(err)
		}
		if o.isOver() != over {
			t.Errorf("machine %q: over is %t", machine, o.isOver())
		}
		return o
	}
	o := open("a", false)
	ctx, cancel := o.while(t.Context())
	defer cancel()
	if err := o.end(); err != nil || ctx.Err() == nil || !o.isOver() {
		t.Fatal(err, ctx.Err(), o.isOver())
	}
	ctx, cancel = o.while(t.Context())
	defer cancel()
	if ctx.Err() == nil {
		t.Error("work goes on after the end")
	}
	open("a", true)
	open("", true) // a machine that cannot say which boot it is in
	open("b", false)
	open("a", false) // it was forgotten
	o = open("", false)
	if err := o.end(); err != nil {
		t.Fatal(err)
	}
	open("a", true) // nobody knows of which boot this is
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Error(entries, err)
	}
}
