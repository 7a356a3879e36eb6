package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"tarn/agent/gossip"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// peer is somebody with an agent's certificate, and connections that stay open.
type peer struct {
	*identity.Material
	addr   string
	client *http.Client
}

func newPeer(t *testing.T, m *identity.Material, addr string) *peer {
	t.Helper()
	p := &peer{m, addr, &http.Client{Transport: &http.Transport{TLSClientConfig: m.ClientConfig(identity.RoleAgent)}}}
	t.Cleanup(p.client.CloseIdleConnections)
	return p
}

// heads asks for what is newer than an earlier answer, and waits for that up to the limit
// of the port, which is far more than a test has.
func (p *peer) heads(ctx context.Context, earlier map[string]any) (map[string]any, error) {
	ask := map[string]any{"boot": 0, "since": 0, "max_wait_ms": 0}
	if earlier != nil {
		ask = map[string]any{"boot": earlier["boot"], "since": earlier["generation"], "max_wait_ms": -1}
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+p.addr+"/v1/heads", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer := map[string]any{}
	d := json.NewDecoder(res.Body)
	d.UseNumber() // boot has 64 bits
	return answer, d.Decode(&answer)
}

// TestRevokedPeersAreCutOff: a host that the control plane revokes loses what it has open
// at others' ports, a poll under way too, and gets nothing more; nor does it after a
// restart of those others, while no control plane is there. Until a list was heard once,
// certificates are good as they are.
func TestRevokedPeersAreCutOff(t *testing.T) {
	p, ca := newPlane(), newCA(t)
	p.away = true // it tells nothing yet
	h := newHost(t, p, ca, "a")
	h.start()
	thief, friend := roleMaterial(t, ca, identity.RoleAgent), roleMaterial(t, ca, identity.RoleAgent)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	held := newPeer(t, thief, h.cfg.Listen)
	var first map[string]any
	eventually(t, "the port is open", func() (ok bool) {
		var err error
		first, err = held.heads(ctx, nil)
		return err == nil
	})
	if h.revoked.Known() {
		t.Fatal("a list is known that nobody has told")
	}
	ended := make(chan error, 1)
	go func() {
		_, err := held.heads(ctx, first)
		ended <- err
	}()
	if _, err := newPeer(t, friend, h.cfg.Listen).heads(ctx, nil); err != nil {
		t.Fatal(err)
	}
	p.update(func() { p.away, p.revoked = false, &tarnv1.Revocations{Digest: []byte("none")} })
	eventually(t, "it is known that nobody is revoked", func() bool { return h.revoked.Known() })
	select {
	case err := <-ended:
		t.Fatalf("the poll ended before anybody was revoked: %v", err)
	default:
	}
	// The registration is over: this one comes with the answer to a report.
	p.update(func() {
		p.revoked = &tarnv1.Revocations{Ids: []string{uuid.NewString(), thief.Identity().ID}, Digest: []byte("two")}
	})
	if err := <-ended; err == nil || ctx.Err() != nil {
		t.Fatalf("the poll ended with %v, %v", err, ctx.Err())
	}
	refused := func(when string) {
		t.Helper()
		if _, err := held.heads(ctx, nil); err == nil {
			t.Errorf("%s: the revoked host is answered", when)
		}
		if _, err := newPeer(t, thief, h.cfg.Listen).heads(ctx, nil); err == nil {
			t.Errorf("%s: the revoked host is let in", when)
		}
		if _, err := newPeer(t, friend, h.cfg.Listen).heads(ctx, nil); err != nil {
			t.Errorf("%s: another host: %v", when, err)
		}
	}
	refused("now")
	h.stop()
	p.update(func() { p.away, p.revoked = true, nil })
	h.start()
	eventually(t, "the port is open again", func() bool {
		_, err := newPeer(t, friend, h.cfg.Listen).heads(ctx, nil)
		return err == nil
	})
	refused("after a restart without a control plane")
}

// TestRevokedServersAreNotCalled: neither an agent that has the data nor a control-plane
// node, and no member of the ring is looked for or believed.
func TestRevokedServersAreNotCalled(t *testing.T) {
	ca := testCA(t)
	a := portAgent(t, ca)
	for _, role := range []identity.Role{identity.RoleAgent, identity.RoleControl} {
		server := roleMaterial(t, ca, role)
		conf := a.controlTLS()
		if role == identity.RoleAgent {
			conf = unlessRevoked(dialer(a.material)(server.Identity().ID), a.revoked)
		}
		call := func() error { return handshake(t, server, conf) }
		if err := call(); err != nil {
			t.Fatal(err)
		}
		a.revoke(&tarnv1.Revocations{Ids: []string{server.Identity().ID}, Digest: []byte(role)})
		if err := call(); err == nil {
			t.Errorf("%s: called after it was revoked", role)
		}
	}
	id := uuid.NewString()
	part := &ringPart{revoked: a.revoked.Check}
	part.roster.Store(newRegistered(&tarnv1.GossipRoster{Peers: []*tarnv1.GossipPeer{{Id: id, Role: "agent", Address: "10.0.0.1:7000"}}}))
	m := gossip.Member{Name: id, Addr: "10.0.0.1:7000", Meta: gossip.Meta{Role: gossip.RoleAgent}}
	if err := part.accept(m); err != nil || len(part.peers(nil)) != 1 {
		t.Fatalf("a member: %v, looked for %v", err, part.peers(nil))
	}
	a.revoke(&tarnv1.Revocations{Ids: []string{id}, Digest: []byte("member")})
	if err := part.accept(m); gossip.Reason(err) != "stranger" || len(part.peers(nil)) != 0 {
		t.Errorf("a revoked member: %v, looked for %v", err, part.peers(nil))
	}
	part.roster.Store(nil)
	if err := part.accept(m); gossip.Reason(err) != "stranger" {
		t.Errorf("before the members are known again: %v", err)
	}
}

// handshake calls a server with the material, which answers nobody.
func handshake(t *testing.T, server *identity.Material, conf *tls.Config) error {
	t.Helper()
	port := httptest.NewUnstartedServer(http.NotFoundHandler())
	port.TLS = server.ServerConfig("http/1.1")
	port.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	port.StartTLS()
	defer port.Close()
	conn, err := tls.Dial("tcp", port.Listener.Addr().String(), conf)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// TestDamagedRevocationsStopTheAgent: it does not go on as if nobody were revoked.
func TestDamagedRevocationsStopTheAgent(t *testing.T) {
	h := newHost(t, newPlane(), newCA(t), "a")
	if err := os.WriteFile(filepath.Join(h.cfg.DataDir, revokedFile), []byte("tarn revocations 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := New(h.cfg); err == nil {
		_ = a.Close()
		t.Error("it starts")
	}
}
