package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Material is a node's certificate, key and authority as they are on disk. It
// looks at the files at every handshake and takes up new ones without a
// restart; while new files do not fit together it keeps the old. Safe for
// concurrent use.
type Material struct {
	dir string

	mu     sync.Mutex
	stamp  [4]fileStamp
	loaded *loaded
	err    error
}

type loaded struct {
	cert     tls.Certificate
	identity Identity
	pool     *x509.CertPool
	caPEM    []byte
}

type fileStamp struct {
	modified time.Time
	size     int64
}

// LoadMaterial reads ca.pem, node.pem and node.key from dir, or what SaveNode was about to
// make of them. It fails if they do not fit together; it does not check dates, the peer does.
func LoadMaterial(dir string) (*Material, error) {
	m := &Material{dir: dir}
	m.current()
	if m.loaded == nil {
		return nil, fmt.Errorf("load identity from %s: %w", dir, m.err)
	}
	return m, nil
}

// Identity returns who this node is, by its current certificate.
func (m *Material) Identity() Identity { return m.current().identity }

// NotAfter returns when the current certificate expires.
func (m *Material) NotAfter() time.Time { return m.current().cert.Leaf.NotAfter }

// CAPEM returns the authority's certificate. The caller must not change it.
func (m *Material) CAPEM() []byte { return m.current().caPEM }

// Err returns why changed files could not be taken up, nil if all is well.
func (m *Material) Err() error {
	m.current()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *Material) current() *loaded {
	m.mu.Lock()
	defer m.mu.Unlock()
	stamp, err := stampFiles(m.dir)
	if err != nil {
		m.err = err
		return m.loaded
	}
	if m.loaded != nil && stamp == m.stamp {
		return m.loaded
	}
	next, err := loadDir(m.dir)
	m.err = err
	if err == nil {
		m.loaded, m.stamp = next, stamp
	}
	return m.loaded
}

// stampFiles leaves the stamp of what is not there empty: loadDir tells what is missing.
func stampFiles(dir string) (stamp [4]fileStamp, err error) {
	for i, name := range []string{CAFile, CertFile, NodeKeyFile, NextFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return stamp, err
		}
		stamp[i] = fileStamp{info.ModTime(), info.Size()}
	}
	return stamp, nil
}

// loadDir prefers the three files, and takes NextFile if they are not what it says yet.
func loadDir(dir string) (*loaded, error) {
	now, err := loadFiles(dir)
	if err == nil {
		return now, nil
	}
	caPEM, certPEM, keyPEM, nextErr := readNext(dir)
	if errors.Is(nextErr, fs.ErrNotExist) {
		return nil, err
	}
	if nextErr == nil {
		now, nextErr = assemble(caPEM, certPEM, keyPEM)
	}
	if nextErr != nil {
		return nil, errors.Join(err, nextErr)
	}
	return now, nil
}

func loadFiles(dir string) (*loaded, error) {
	var pems [3][]byte
	for i, name := range []string{CAFile, CertFile, NodeKeyFile} {
		var err error
		if pems[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return assemble(pems[0], pems[1], pems[2])
}

// assemble demands that key, certificate and authority belong together.
func assemble(caPEM, certPEM, keyPEM []byte) (*loaded, error) {
	ca, err := parseCertPEM(caPEM)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load node certificate: %w", err)
	}
	id, err := FromCertificate(cert.Leaf)
	if err != nil {
		return nil, err
	}
	if err := cert.Leaf.CheckSignatureFrom(ca); err != nil {
		return nil, fmt.Errorf("node certificate is not by this authority: %w", err)
	}
	// A joining node knows only the authority's hash, so the chain carries it.
	cert.Certificate = [][]byte{cert.Leaf.Raw, ca.Raw}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &loaded{cert: cert, identity: id, pool: pool, caPEM: caPEM}, nil
}

// ServerConfig returns the TLS configuration of a listener that demands a
// certificate of this cluster from every peer. nextProtos is the ALPN list.
// Which roles may call what is decided above, per method.
func (m *Material) ServerConfig(nextProtos ...string) *tls.Config {
	return m.serverConfig(tls.RequireAndVerifyClientCert, nextProtos)
}

// JoinServerConfig is ServerConfig for a listener that also serves the join
// method, whose callers have no certificate yet. Peer fails on such a
// connection; every other method must refuse it.
func (m *Material) JoinServerConfig(nextProtos ...string) *tls.Config {
	return m.serverConfig(tls.VerifyClientCertIfGiven, nextProtos)
}

func (m *Material) serverConfig(auth tls.ClientAuthType, nextProtos []string) *tls.Config {
	build := func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := m.current()
		return &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{now.cert},
			ClientAuth:   auth,
			ClientCAs:    now.pool,
			NextProtos:   nextProtos,
			// A resumed session would outlive its certificate.
			SessionTicketsDisabled: true,
			VerifyConnection: func(cs tls.ConnectionState) error {
				if auth == tls.VerifyClientCertIfGiven && len(cs.PeerCertificates) == 0 {
					return nil
				}
				return checkPeer(cs, now.identity.Cluster, nil)
			},
		}, nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: nextProtos, GetConfigForClient: build}
}

// ClientConfig returns the TLS configuration for calling a node of this cluster
// that has one of the roles expect. The server's host name is not compared:
// its SPIFFE id is. ALPN is left to the caller.
func (m *Material) ClientConfig(expect ...Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := m.current().cert
			return &cert, nil
		},
		// Off only in name: VerifyConnection checks chain, dates, use and id.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			now := m.current()
			if err := verifyServer(cs, now.pool); err != nil {
				return err
			}
			return checkPeer(cs, now.identity.Cluster, expect)
		},
	}
}

func verifyServer(cs tls.ConnectionState, roots *x509.CertPool) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("%w: server sent no certificate", ErrIdentity)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:     roots,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("verify server: %w", err)
	}
	return nil
}

// checkPeer is the last word on a peer whose chain is already verified.
func checkPeer(cs tls.ConnectionState, cluster string, expect []Role) error {
	id, err := Peer(cs)
	if err != nil {
		return err
	}
	if id.Cluster != cluster {
		return fmt.Errorf("%w: peer is of cluster %q, not %q", ErrIdentity, id.Cluster, cluster)
	}
	if expect != nil && !slices.Contains(expect, id.Role) {
		return fmt.Errorf("%w: peer has role %s, want one of %v", ErrIdentity, id.Role, expect)
	}
	return nil
}
