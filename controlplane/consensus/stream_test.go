package consensus

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"tarn/controlplane/identity"
)

func nodeMaterial(t *testing.T, ca *identity.CA, role identity.Role) *identity.Material {
	t.Helper()
	certPEM, keyPEM, err := ca.IssueKey(identity.Subject{Role: role, ID: uuid.NewString()})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := identity.SaveNode(dir, ca.CertPEM(), certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	m, err := identity.LoadMaterial(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// onePort serves HTTP and Raft on one TLS port, as the control plane does.
func onePort(t *testing.T, m *identity.Material) *StreamLayer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := NewStreamLayer(l.Addr().String(), m, discard())
	if err != nil {
		t.Fatal(err)
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	server := &http.Server{
		Handler:      http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }),
		TLSConfig:    m.ServerConfig("h2", "http/1.1", ALPN),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){ALPN: stream.Handle},
		Protocols:    protocols,
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		_ = stream.Close()
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return stream
}

func TestOnePortForRaftAndHTTP(t *testing.T) {
	ca, err := identity.NewCA("c")
	if err != nil {
		t.Fatal(err)
	}
	server := onePort(t, nodeMaterial(t, ca, identity.RoleControl))
	client := onePort(t, nodeMaterial(t, ca, identity.RoleControl))
	addr := raft.ServerAddress(server.Addr().String())

	out, err := client.Dial(addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	in, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "ping" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(got); err == nil {
		t.Fatal("connection outlived its other end")
	}

	agent := nodeMaterial(t, ca, identity.RoleAgent)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: agent.ClientConfig(identity.RoleControl), ForceAttemptHTTP2: true}}
	defer web.CloseIdleConnections()
	resp, err := web.Get("https://" + string(addr))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil || string(body) != "HTTP/2.0" {
		t.Fatalf("HTTP beside raft: %q, %v", body, err)
	}
}

func TestOnlyControlNodesSpeakRaft(t *testing.T) {
	ca, err := identity.NewCA("c")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := identity.NewCA("c")
	if err != nil {
		t.Fatal(err)
	}
	server := onePort(t, nodeMaterial(t, ca, identity.RoleControl))
	accepted := make(chan net.Conn, 10)
	go func() {
		for conn, err := server.Accept(); err == nil; conn, err = server.Accept() {
			accepted <- conn
		}
	}()
	for name, m := range map[string]*identity.Material{
		"agent":                        nodeMaterial(t, ca, identity.RoleAgent),
		"operator":                     nodeMaterial(t, ca, identity.RoleOperator),
		"control of a foreign cluster": nodeMaterial(t, foreign, identity.RoleControl),
	} {
		config := m.ClientConfig(identity.RoleControl)
		config.NextProtos = []string{ALPN}
		config.VerifyConnection = nil // a hostile client does not mind whom it talks to
		conn, err := tls.Dial("tcp", server.Addr().String(), config)
		if err == nil {
			// Refused after the handshake: the connection ends without a byte.
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		if err == nil || len(accepted) != 0 {
			t.Errorf("%s reached raft", name)
		}
	}
	// And a control node refuses to dial anything else.
	agent := onePort(t, nodeMaterial(t, ca, identity.RoleAgent))
	if _, err := server.Dial(raft.ServerAddress(agent.Addr().String()), 10*time.Second); !errors.Is(err, identity.ErrIdentity) {
		t.Errorf("dialled an agent: %v", err)
	}
}

func TestAdvertiseMustBeReachable(t *testing.T) {
	for _, addr := range []string{"", "host", ":7000", "0.0.0.0:7000", "[::]:7000", "127.0.0.1:0"} {
		if _, err := NewStreamLayer(addr, nil, discard()); err == nil {
			t.Errorf("%q accepted", addr)
		}
	}
}

// A whole cluster over TLS on the ports that also serve HTTP.
func TestClusterOverTLS(t *testing.T) {
	ca, err := identity.NewCA("c")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t}
	var first string
	for range 3 {
		stream := onePort(t, nodeMaterial(t, ca, identity.RoleControl))
		m := c.add(func(cfg *Config) {
			_ = cfg.Stream.Close()
			cfg.Stream, cfg.BootstrapExpect = stream, 3
			if first != "" {
				cfg.Join = []string{first}
			}
		})
		c.mu.Lock()
		m.addr = stream.Addr().String()
		c.mu.Unlock()
		if first == "" {
			first = m.addr
		}
	}
	c.write("over TLS")
	c.agree()
}
