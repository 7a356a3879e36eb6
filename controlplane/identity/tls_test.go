package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// material issues a certificate by ca and stores and loads it.
func material(t *testing.T, ca *CA, s Subject) *Material {
	t.Helper()
	certPEM, keyPEM, err := ca.IssueKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return saved(t, filepath.Join(t.TempDir(), "id"), ca, certPEM, keyPEM)
}

func saved(t *testing.T, dir string, ca *CA, certPEM, keyPEM []byte) *Material {
	t.Helper()
	if err := SaveNode(dir, ca.CertPEM(), certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	m, err := LoadMaterial(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// shake runs one handshake over an in-memory pipe and returns both results.
//
//lint:ignore ST1008 both sides of one handshake come before what it proved
func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error, peer Identity) {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	done := make(chan error, 1)
	srv := tls.Server(a, server)
	go func() {
		err := srv.Handshake()
		if err == nil {
			_, err = srv.Write([]byte{1})
		}
		_ = a.Close()
		done <- err
	}()
	cli := tls.Client(b, client)
	clientErr = cli.Handshake()
	if clientErr == nil {
		// In TLS 1.3 the client learns of a refusal with its first read.
		_, clientErr = cli.Read(make([]byte, 1))
	}
	_ = b.Close()
	serverErr = <-done
	peer, _ = Peer(srv.ConnectionState())
	return serverErr, clientErr, peer
}

func node(role Role) Subject { return Subject{Role: role, ID: newID()} }

func TestMutualTLS(t *testing.T) {
	ca := newTestCA(t, "c")
	server, client := material(t, ca, node(RoleControl)), material(t, ca, node(RoleAgent))
	serverErr, clientErr, peer := shake(t, server.ServerConfig("h2"), client.ClientConfig(RoleControl))
	if serverErr != nil || clientErr != nil {
		t.Fatalf("server %v, client %v", serverErr, clientErr)
	}
	if peer != client.Identity() {
		t.Fatalf("peer %+v, want %+v", peer, client.Identity())
	}
}

func TestWrongServerRoleIsRefused(t *testing.T) {
	ca := newTestCA(t, "c")
	server, client := material(t, ca, node(RoleAgent)), material(t, ca, node(RoleAgent))
	if _, err, _ := shake(t, server.ServerConfig(), client.ClientConfig(RoleControl)); !errors.Is(err, ErrIdentity) {
		t.Fatalf("client: %v, want ErrIdentity", err)
	}
}

func TestForeignAuthorityIsRefused(t *testing.T) {
	ours, theirs := newTestCA(t, "c"), newTestCA(t, "c")
	server, client := material(t, ours, node(RoleControl)), material(t, theirs, node(RoleControl))
	if _, err, _ := shake(t, server.ServerConfig(), client.ClientConfig(RoleControl)); err == nil {
		t.Fatal("client accepted a server of a foreign authority")
	}
	blind := client.ClientConfig(RoleControl)
	blind.VerifyConnection = nil
	if err, _, _ := shake(t, server.ServerConfig(), blind); err == nil {
		t.Fatal("server accepted a client of a foreign authority")
	}
}

func TestMissingClientCertificate(t *testing.T) {
	ca := newTestCA(t, "c")
	server := material(t, ca, node(RoleControl))
	bare := material(t, ca, node(RoleAgent)).ClientConfig(RoleControl)
	bare.GetClientCertificate = nil
	if err, _, _ := shake(t, server.ServerConfig(), bare); err == nil {
		t.Fatal("server accepted a client without certificate")
	}
	serverErr, clientErr, peer := shake(t, server.JoinServerConfig(), bare)
	if serverErr != nil || clientErr != nil || peer != (Identity{}) {
		t.Fatalf("join listener: server %v, client %v, peer %+v", serverErr, clientErr, peer)
	}
}

// sign issues a certificate with contents that Issue would never produce.
func sign(t *testing.T, ca *CA, change func(*x509.Certificate)) (certPEM, keyPEM []byte) {
	t.Helper()
	key, keyPEM, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template, err := ca.leafTemplate(node(RoleControl))
	if err != nil {
		t.Fatal(err)
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return encodeCert(der), keyPEM
}

// rawClient presents any certificate and checks nothing itself.
func rawClient(t *testing.T, certPEM, keyPEM []byte) *tls.Config {
	t.Helper()
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}
}

func TestServersRefuse(t *testing.T) {
	ca := newTestCA(t, "c")
	server := material(t, ca, node(RoleControl))
	second := &url.URL{Scheme: "spiffe", Host: "c", Path: "/agent/" + testID}
	other := &url.URL{Scheme: "spiffe", Host: "d", Path: "/agent/" + testID}
	for name, change := range map[string]func(*x509.Certificate){
		"several URIs":  func(c *x509.Certificate) { c.URIs = append(c.URIs, second) },
		"no URI":        func(c *x509.Certificate) { c.URIs = nil },
		"other cluster": func(c *x509.Certificate) { c.URIs = []*url.URL{other} },
		"expired":       func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) },
		"not yet valid": func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) },
		"server only":   func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
	} {
		certPEM, keyPEM := sign(t, ca, change)
		client := rawClient(t, certPEM, keyPEM)
		if err, _, _ := shake(t, server.ServerConfig(), client); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if err, _, _ := shake(t, server.JoinServerConfig(), client); err == nil {
			t.Errorf("%s: accepted by the join listener", name)
		}
	}
	// The same helper with no change is accepted, so the refusals mean something.
	certPEM, keyPEM := sign(t, ca, func(*x509.Certificate) {})
	if err, _, _ := shake(t, server.ServerConfig(), rawClient(t, certPEM, keyPEM)); err != nil {
		t.Fatalf("good certificate refused: %v", err)
	}
}

func TestExpiredServerIsRefused(t *testing.T) {
	ca := newTestCA(t, "c")
	certPEM, keyPEM := sign(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
	server := saved(t, t.TempDir(), ca, certPEM, keyPEM)
	client := material(t, ca, node(RoleAgent))
	if _, err, _ := shake(t, server.ServerConfig(), client.ClientConfig(RoleControl)); err == nil {
		t.Fatal("client accepted an expired server")
	}
}

func TestTLS12IsRefused(t *testing.T) {
	ca := newTestCA(t, "c")
	server, client := material(t, ca, node(RoleControl)), material(t, ca, node(RoleAgent)).ClientConfig(RoleControl)
	client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if err, _, _ := shake(t, server.ServerConfig(), client); err == nil {
		t.Fatal("TLS 1.2 accepted")
	}
}

func TestNewFilesAreTakenUp(t *testing.T) {
	ca := newTestCA(t, "c")
	m := material(t, ca, node(RoleControl))
	client := material(t, ca, node(RoleAgent))
	before, config := m.Identity(), m.ServerConfig()

	certPEM, keyPEM, err := ca.IssueKey(Subject{Role: RoleControl, ID: before.ID, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveNode(m.dir, ca.CertPEM(), certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	seen := ""
	dial := client.ClientConfig(RoleControl)
	verify := dial.VerifyConnection
	dial.VerifyConnection = func(cs tls.ConnectionState) error {
		id, err := Peer(cs)
		seen = id.Serial
		return errors.Join(err, verify(cs))
	}
	if serverErr, clientErr, _ := shake(t, config, dial); serverErr != nil || clientErr != nil {
		t.Fatalf("server %v, client %v", serverErr, clientErr)
	}
	if seen == before.Serial || seen != m.Identity().Serial {
		t.Fatalf("served serial %s, before %s, now %s", seen, before.Serial, m.Identity().Serial)
	}
	if time.Until(m.NotAfter()) > time.Hour {
		t.Fatalf("NotAfter %s is not the new certificate's", m.NotAfter())
	}
}

func TestTornFilesKeepTheOld(t *testing.T) {
	ca := newTestCA(t, "c")
	m := material(t, ca, node(RoleControl))
	before := m.Identity()
	if err := os.WriteFile(filepath.Join(m.dir, CertFile), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := m.Identity(); got != before {
		t.Fatalf("identity changed to %+v", got)
	}
	if m.Err() == nil {
		t.Fatal("Err is silent about unusable files")
	}
}

func TestFilesArePrivate(t *testing.T) {
	ca := newTestCA(t, "c")
	m := material(t, ca, node(RoleControl))
	if err := ca.Save(m.dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(m.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("directory: %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%d entries, %v; want four files and no temporary one", len(entries), err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestLoadCA(t *testing.T) {
	ca, dir := newTestCA(t, "c"), t.TempDir()
	if _, err := LoadCA(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("empty directory: %v", err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := LoadCA(dir)
	if err != nil || again.Hash() != ca.Hash() || !again.key.Equal(ca.key) {
		t.Fatalf("loaded another authority: %v", err)
	}
	other, err := encodeKey(mustKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, CAKeyFile), other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(dir); err == nil {
		t.Fatal("foreign key accepted")
	}
}

func mustKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Clients that know nothing of SPIFFE, such as curl, compare addresses.
func TestOrdinaryClientsAcceptTheAddress(t *testing.T) {
	ca := newTestCA(t, "c")
	s := node(RoleControl)
	s.IPs, s.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"tarn.example"}
	server := material(t, ca, s)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.CertPEM())
	for name, ok := range map[string]bool{"127.0.0.1": true, "tarn.example": true, "127.0.0.2": false} {
		_, err, _ := shake(t, server.JoinServerConfig(), &tls.Config{RootCAs: pool, ServerName: name})
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
