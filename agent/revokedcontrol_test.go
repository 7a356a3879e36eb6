package agent

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// controlPort is one node of the control plane's API for agents, over TLS.
type controlPort struct {
	*httptest.Server
	id    string
	open  atomic.Int64 // connections
	asked atomic.Int64 // requests
}

func newControlPort(t *testing.T, ca *identity.CA, p *plane) *controlPort {
	t.Helper()
	m := roleMaterial(t, ca, identity.RoleControl)
	c := &controlPort{id: m.Identity().ID}
	_, handler := tarnv1connect.NewAgentServiceHandler(p)
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		handler.ServeHTTP(w, r)
	}))
	c.EnableHTTP2 = true
	c.TLS = m.ServerConfig("h2", "http/1.1")
	c.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	c.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			c.open.Add(1)
		case http.StateClosed:
			c.open.Add(-1)
		}
	}
	c.StartTLS()
	t.Cleanup(func() { c.CloseClientConnections(); c.Close() })
	return c
}

func (c *controlPort) address() string { return c.Listener.Addr().String() }

// TestRevokedControlNodeIsLeft: an agent that hears that the node it talks to was revoked
// closes its connections, polls under way too, and goes on with another node.
func TestRevokedControlNodeIsLeft(t *testing.T) {
	ca, p := newCA(t), newPlane()
	first, second := newControlPort(t, ca, p), newControlPort(t, ca, p)
	h := newHost(t, p, ca, "a")
	h.cfg.ControlPlane, h.cfg.Join = nil, []string{first.address(), second.address()}
	h.cfg.Lease = LeaseConfig{Duration: 15 * time.Second, Renew: 2 * time.Second, Margin: leaseMargin} // a node that is slow for a renewal's time is left too
	h.start()
	p.until(t, func() bool { return len(p.reports) > 0 }, func() string { return "no reports" })
	if first.open.Load() == 0 || second.asked.Load() != 0 {
		t.Fatalf("connections to the first node: %d, requests at the second: %d", first.open.Load(), second.asked.Load())
	}
	p.update(func() { p.revoked = &tarnv1.Revocations{Ids: []string{first.id}, Digest: []byte("one")} })
	eventually(t, "the revoked node is left", func() bool { return first.open.Load() == 0 })
	at, reports := second.asked.Load(), 0
	p.update(func() { reports = len(p.reports) })
	p.until(t, func() bool { return len(p.reports) > reports+1 }, func() string { return "no reports any more" })
	if second.asked.Load() <= at {
		t.Error("the second node is not asked")
	}
	asked := first.asked.Load()
	h.stop()
	if got := first.asked.Load(); got != asked {
		t.Errorf("the revoked node was asked %d times since", got-asked)
	}
}
