package agent

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"tarn/agent/stream"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// TestOnlyAgentsPull tries the stream port with every role there is, without a
// certificate, with a foreign authority's, with one whose owner was revoked, and without
// TLS: agents get through.
func TestOnlyAgentsPull(t *testing.T) {
	ours, foreign := testCA(t), testCA(t)
	a := portAgent(t, ours)
	server := httptest.NewUnstartedServer(untilExpiry(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := a.peerID(r); err != nil {
			w.WriteHeader(http.StatusForbidden)
		}
	})))
	server.Listener = a.callers.Listener(server.Listener)
	server.TLS = a.callers.Config(a.material.ServerConfig("http/1.1"))
	server.StartTLS()
	defer server.Close()
	try := func(conf *tls.Config) int {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
		defer client.CloseIdleConnections()
		res, err := client.Get(server.URL)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	for _, role := range []identity.Role{identity.RoleAgent, identity.RoleControl, identity.RoleClient, identity.RoleOperator} {
		want := http.StatusForbidden
		if role == identity.RoleAgent {
			want = http.StatusOK
		}
		known := roleMaterial(t, ours, role)
		if got := try(known.ClientConfig(identity.RoleAgent)); got != want {
			t.Errorf("%s: %d, want %d", role, got, want)
		}
		a.revoke(&tarnv1.Revocations{Ids: []string{known.Identity().ID}, Digest: []byte(role)})
		if got := try(known.ClientConfig(identity.RoleAgent)); got != 0 {
			t.Errorf("a revoked %s: %d", role, got)
		}
		stranger := roleMaterial(t, foreign, role).ClientConfig(identity.RoleAgent)
		stranger.VerifyConnection = nil // A hostile client does not mind whom it talks to.
		if got := try(stranger); got != 0 {
			t.Errorf("a foreign %s: %d", role, got)
		}
	}
	if got := try(roleMaterial(t, ours, identity.RoleAgent).ClientConfig(identity.RoleAgent)); got != http.StatusOK {
		t.Errorf("another agent after that: %d", got)
	}
	bare := roleMaterial(t, ours, identity.RoleAgent).ClientConfig(identity.RoleAgent)
	bare.GetClientCertificate = nil
	if got := try(bare); got != 0 {
		t.Errorf("without a certificate: %d", got)
	}
	res, err := http.Get(strings.Replace(server.URL, "https", "http", 1))
	if err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("without TLS: %s", res.Status)
		}
	}
}

// portAgent is as much of an agent as its port for others takes.
func portAgent(t *testing.T, ca *identity.CA) *Agent {
	t.Helper()
	a := &Agent{log: slog.New(slog.DiscardHandler), material: roleMaterial(t, ca, identity.RoleAgent), cfg: Config{DataDir: t.TempDir()}}
	if err := a.buildRevocations(); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.client, err = stream.NewClient(stream.ClientConfig{TLS: dialer(a.material)}); err != nil {
		t.Fatal(err)
	}
	return a
}

func testCA(t *testing.T) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA("c")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func roleMaterial(t *testing.T, ca *identity.CA, role identity.Role) *identity.Material {
	t.Helper()
	s := identity.Subject{Role: role, ID: uuid.NewString()}
	if role == identity.RoleClient {
		s.Project, s.ProjectRole = "p", identity.ProjectMember
	}
	cert, key, err := ca.IssueKey(s)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "pki")
	if err := identity.SaveNode(dir, ca.CertPEM(), cert, key); err != nil {
		t.Fatal(err)
	}
	m, err := identity.LoadMaterial(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
