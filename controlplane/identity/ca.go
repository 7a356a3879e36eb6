package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

const (
	caLifetime = 10 * 365 * 24 * time.Hour
	// DefaultTTL is the lifetime of a certificate whose subject names none: the
	// upper end of 24 h to 7 d (reliability.md 5.2).
	DefaultTTL = 7 * 24 * time.Hour
	// backdate tolerates peers whose clock is a little behind the issuer's.
	backdate = 5 * time.Minute
)

// CA is the authority of one cluster. It is immutable and safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA creates an authority with a new ECDSA P-256 key for the trust domain
// cluster (see ValidCluster). It writes no file; see Save.
func NewCA(cluster string) (*CA, error) {
	if !ValidCluster(cluster) {
		return nil, fmt.Errorf("create authority: %w: trust domain %q", ErrIdentity, cluster)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create authority key: %w", err)
	}
	template, err := caTemplate(cluster)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority certificate: %w", err)
	}
	return parseCA(der, key)
}

func caTemplate(cluster string) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: cluster},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}, nil
}

func parseCA(der []byte, key *ecdsa.PrivateKey) (*CA, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority certificate: %w", err)
	}
	if !cert.IsCA || !ValidCluster(cert.Subject.CommonName) {
		return nil, fmt.Errorf("%w: not the authority of a cluster", ErrIdentity)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("authority key does not match its certificate")
	}
	return &CA{cert: cert, key: key}, nil
}

// Cluster returns the trust domain.
func (ca *CA) Cluster() string { return ca.cert.Subject.CommonName }

// CertPEM returns the authority's certificate.
func (ca *CA) CertPEM() []byte { return encodeCert(ca.cert.Raw) }

// KeyPEM returns the authority's key, for another control node that shall issue
// certificates too.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// Hash returns what join tokens pin: see CAHash.
func (ca *CA) Hash() string { return hashDER(ca.cert.Raw) }

// CAHash returns the SHA-256 of the DER of the first certificate in caPEM, as 64
// lower-case hex digits.
func CAHash(caPEM []byte) (string, error) {
	cert, err := parseCertPEM(caPEM)
	if err != nil {
		return "", err
	}
	return hashDER(cert.Raw), nil
}

func hashDER(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Subject says what a new certificate shall state.
type Subject struct {
	Role        Role
	ID          string // canonical UUID
	Project     string // clients only, 1 to 255 bytes
	ProjectRole string // clients only
	// DNSNames and IPs let standard HTTPS clients, which compare names, talk to
	// the node. Control nodes and agents only.
	DNSNames []string
	IPs      []net.IP
	TTL      time.Duration // zero: DefaultTTL; never beyond the authority's own end
}

func (s Subject) check(cluster string) error {
	if err := (Identity{Cluster: cluster, Role: s.Role, ID: s.ID}).check(); err != nil {
		return err
	}
	if s.TTL < 0 {
		return fmt.Errorf("%w: negative lifetime %s", ErrIdentity, s.TTL)
	}
	if s.Role == RoleClient {
		if err := checkProject(s.Project, s.ProjectRole); err != nil {
			return err
		}
	} else if s.Project != "" || s.ProjectRole != "" {
		return fmt.Errorf("%w: role %s carries a project", ErrIdentity, s.Role)
	}
	serves := s.Role == RoleControl || s.Role == RoleAgent
	if !serves && len(s.DNSNames)+len(s.IPs) != 0 {
		return fmt.Errorf("%w: role %s serves no host name", ErrIdentity, s.Role)
	}
	return nil
}

// Issue signs a certificate for s over the public key pub and returns it in PEM.
// Errors about s wrap ErrIdentity.
func (ca *CA) Issue(s Subject, pub crypto.PublicKey) ([]byte, error) {
	if err := s.check(ca.Cluster()); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	template, err := ca.leafTemplate(s)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return encodeCert(der), nil
}

func (ca *CA) leafTemplate(s Subject) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	if s.TTL == 0 {
		s.TTL = DefaultTTL
	}
	now := time.Now()
	end := now.Add(s.TTL)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	name := pkix.Name{CommonName: s.ID}
	if s.Role == RoleClient {
		name.Organization, name.OrganizationalUnit = []string{s.Project}, []string{s.ProjectRole}
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               name,
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{spiffeURI(ca.Cluster(), s.Role, s.ID)},
		DNSNames:              s.DNSNames,
		IPAddresses:           s.IPs,
	}, nil
}

// IssueKey creates a key and a certificate for it, both in PEM.
func (ca *CA) IssueKey(s Subject) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	certPEM, err = ca.Issue(s, key.Public())
	return certPEM, keyPEM, err
}

// IssueCSR signs a certificate for s over the key of a signing request, in DER.
// What the request asks for is ignored: names come from the token or session
// that authenticated it. A request whose self-signature fails is refused.
func (ca *CA) IssueCSR(s Subject, csrDER []byte) (certPEM []byte, err error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("parse signing request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check signing request: %w", err)
	}
	return ca.Issue(s, csr.PublicKey)
}

// NewCSR creates a key, in PEM, and a signing request for it, in DER. The key
// never leaves the node that will use it.
func NewCSR() (csrDER, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	csrDER, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("create signing request: %w", err)
	}
	return csrDER, keyPEM, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("create key: %w", err)
	}
	keyPEM, err := encodeKey(key)
	return key, keyPEM, err
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("create serial number: %w", err)
	}
	return serial, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseCertPEM(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	return cert, nil
}
