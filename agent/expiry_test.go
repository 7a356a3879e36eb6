package agent

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"tarn/controlplane/identity"
)

// TestStreamsOfAnExpiredPeerEnd: a stream that is under way when its receiver's
// certificate runs out is cut, and the connection is good for nothing afterwards.
func TestStreamsOfAnExpiredPeerEnd(t *testing.T) {
	ca, err := identity.NewCA("c")
	if err != nil {
		t.Fatal(err)
	}
	material := func(s identity.Subject) *identity.Material {
		t.Helper()
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
	source := material(identity.Subject{Role: identity.RoleAgent, ID: uuid.NewString()})
	receiver := material(identity.Subject{Role: identity.RoleAgent, ID: uuid.NewString(), TTL: 6 * time.Second})
	server := httptest.NewUnstartedServer(untilExpiry(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := peerID(r); err != nil {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // A stream that would go on for ever.
	})))
	server.TLS = source.ServerConfig("http/1.1")
	server.StartTLS()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: receiver.ClientConfig(identity.RoleAgent)}}
	defer client.CloseIdleConnections()
	res, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get("Connection") == "close" && !res.Close {
		t.Fatalf("%s, %v", res.Status, res.Header)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Logf("the stream ended with %v", err)
	}
	if time.Now().Before(receiver.NotAfter()) {
		t.Error("the stream ended before the certificate")
	}
	if _, err := client.Get(server.URL); err == nil {
		t.Error("an expired certificate is let in again")
	}
}
